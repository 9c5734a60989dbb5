"""School working, column by column and most significant digit first, in true equations (see formats.column): the steps
of a sum, a difference, a product and a quotient. A step takes a digit of each number, and the carry or borrow if there
is one: `5+8+1=14`, `2-9=-7`, `5*7+5=40`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mathllm.formats.nested import kinds_of, merged
from mathllm.tasks.base import select
from mathllm.tasks.numbers import (
    Bools,
    Digits,
    Ints,
    Numbers,
    column_differences,
    column_products,
    column_sums,
    compare,
    divide,
    lengths_of,
    widen,
)
from mathllm.tasks.slots import ABSENT, Slots, number_slots, operator_slots, stack, token_slot
from mathllm.tokenizer import ADD, DIVIDE, EQUALS, MINUS, MULTIPLY, PLUS, SUBTRACT

MOST = 9  # tokens of a step of two numbers: `9*9+8=89` (with ++ for *), `0-9-1=-10`


def sums(operands: Digits, present: Bools, columns: Ints) -> Slots:
    """The first columns [N] of the sums of those operands [N, K, D] that are present [N, K]."""
    totals, carries = column_sums(operands)
    terms = np.where(present.T, operands.transpose(2, 1, 0), ABSENT).astype(np.uint8)  # [D, K, N]
    signs = np.where(terms == ABSENT, ABSENT, PLUS).astype(np.uint8)
    pairs = np.stack([signs, terms], axis=2).reshape(len(terms), -1, len(operands))[:, 1:]
    carry = carries[:, :-1].T
    return _steps(
        [pairs, _token(PLUS, carry > 0), _values(carry, carry > 0), _equals(carry), _values(totals.T)],
        columns,
    )


def differences(larger: Digits, smaller: Digits, columns: Ints) -> tuple[Slots, Digits]:
    """The first columns [N] of the differences of [N, D] digits, and these [N, D]."""
    totals, borrows = column_differences(larger, smaller)
    borrow, total = borrows[:, :-1].T > 0, totals.T
    minus = _token(MINUS, np.ones_like(borrow))
    pieces = [
        larger.T[:, None],
        minus,
        smaller.T[:, None],
        _token(MINUS, borrow),
        _token(1, borrow),
        _equals(total),
    ]
    pieces += [_token(MINUS, total < 0), _values(np.abs(total))]
    return _steps(pieces, columns), (totals % 10).astype(np.uint8)


def products(digits: Digits, factors: Digits, lengths: Ints) -> tuple[Slots, Digits]:
    """The columns of the products of numbers [N, D] of so many digits [N] with factors of one digit [N], and these
    [N, D + 1]."""
    totals, carries = column_products(digits, factors)
    carry = carries[:, :-1].T
    times = np.broadcast_to(np.array([[PLUS], [PLUS]], np.uint8), (len(carry), 2, len(digits)))
    factor = np.broadcast_to(factors, carry.shape)[:, None]
    pieces = [
        digits.T[:, None],
        times,
        factor,
        _token(PLUS, carry > 0),
        _values(carry, carry > 0),
        _equals(carry),
    ]
    made = np.concatenate([totals % 10, carries[:, -1:]], axis=1).astype(np.uint8)
    return _steps([*pieces, _values(totals.T)], lengths), made


def long_products(left: Digits, right: Digits, left_lengths: Ints, right_lengths: Ints) -> Slots:
    """The product of the left number [N, D] with each digit of the right one [N, E], and the sum of these, each one
    place further than the one before; of a single digit there is none."""
    several, (n, width) = right_lengths > 1, left.shape
    longest = int(right_lengths.max(initial=1))
    partial = np.zeros((longest, n, width + longest), np.uint8)
    parts = []
    for place in range(longest):
        lengths = left_lengths * (place < right_lengths)
        slots, partial[place, :, place : place + width + 1] = products(left, right[:, place], lengths)
        parts.append(slots)
    if several.any():
        present = (np.arange(longest) < right_lengths[:, None]) & several[:, None]
        columns = lengths_of(partial.max(0))
        rows = partial[..., : columns.max()].transpose(1, 0, 2)
        parts.append(sums(rows, present, columns * several))
    return stack(parts)


def long_quotients(left: Digits, right: Digits, right_lengths: Ints) -> Slots:
    """Long division of left [N, D] by right [N, E]: for each digit of the quotient how often it goes, and unless that
    is 0, the product back and what is left of it; then comes the next digit behind what is left."""
    width, every = int(right_lengths.max(initial=1)) + 1, np.arange(len(left))
    divisor, quotient = right[:, : width - 1], divide(left, right)[0]
    digits = lengths_of(quotient)
    longest = int(digits.max(initial=1))
    left = widen(left, longest + width)
    head = np.take_along_axis(left, digits[:, None] - 1 + np.arange(width), 1)
    parts = []
    for block in range(longest):
        place = digits - 1 - block
        shown = place >= 0
        times = quotient[every, np.maximum(place, 0)]
        works = shown & (times > 0)
        parts += [number_slots(head, lengths_of(head) * shown), operator_slots(np.uint8(DIVIDE) * shown)]
        parts += [number_slots(divisor, right_lengths * shown), token_slot(EQUALS, shown)]
        parts.append(np.where(shown, times, ABSENT)[None].astype(np.uint8))
        back, product = products(divisor, times, right_lengths * works)
        slots, rest = differences(head, product, lengths_of(head) * works)
        parts += [back, slots]
        head = np.where(works[:, None], rest, head)
        head = np.concatenate([left[every, np.maximum(place - 1, 0), None], head[:, :-1]], axis=1)
    return stack(parts)


def working(operators: Digits, left: Numbers, right: Numbers) -> Slots:
    """That of one operation on two numbers a row: see formats.nested."""
    kinds = kinds_of(operators, left)
    parts: list[tuple[Bools | Ints, Slots]] = []
    for kind in (ADD, SUBTRACT, MULTIPLY, DIVIDE):
        rows = kinds >= DIVIDE if kind == DIVIDE else kinds == kind
        if not rows.any():
            continue
        lengths = left.lengths[rows], right.lengths[rows]
        a, b = (one.digits[rows, : lengths[k].max()] for k, one in enumerate((left, right)))
        if kind == MULTIPLY:
            slots = long_products(a, b, *lengths)
        elif kind == DIVIDE:
            slots = long_quotients(a, b, lengths[1])
        else:
            columns = np.maximum(*lengths)
            a, b = widen(a, columns.max()), widen(b, columns.max())
            if kind == ADD:
                slots = sums(np.stack([a, b], axis=1), np.ones((len(a), 2), np.bool_), columns)
            else:
                less = compare(a, b) < 0
                slots, _ = differences(select(less, b, a), select(less, a, b), columns)
        parts.append((rows, slots))
    return merged(len(operators), parts)


def least_tokens(operators: Ints, left: Ints, right: Ints) -> Ints:
    """About how few tokens [N] the working of operations on numbers of so many digits [N] has."""
    longer, blocks = np.maximum(left, right), np.maximum(left - right, 0) + 1
    several = right > 1
    product = 6 * left * right + (left + right) * (2 * right + 1) * several
    return np.select(
        [operators == MULTIPLY, operators >= DIVIDE], [product, blocks * (right + 5)], 5 * longer
    )


def most_tokens(operators: Ints, left: Ints, right: Ints) -> Ints:
    """The most tokens [N] of any operation, named and with its result, on two numbers of up to so many digits [N]."""
    longer, both = np.maximum(left, right), left + right
    carry = len(str(int(right.max(initial=1))))  # digits that are carried, at most
    product = MOST * left * right + both * (2 * right + 2 * carry + 3) * (right > 1)
    divisor = np.clip((left + 1) // 2, 1, np.maximum(right, 1))  # takes the most
    quotient = (np.maximum(left - divisor, 0) + 1) * (2 * divisor + 5 + MOST * (2 * divisor + 1))
    tokens: Ints = np.maximum(np.maximum(product, quotient), MOST * longer) + 2 * both + 12
    return tokens


def _steps(pieces: list[NDArray[np.uint8]], columns: Ints) -> Slots:
    """Pieces [D, S, N] of the steps of each column, one step after the other: as many columns [N] as a row has."""
    slots = np.concatenate(pieces, axis=1)
    shown = np.arange(len(slots))[:, None] < columns
    return np.where(shown[:, None], slots, np.uint8(ABSENT)).reshape(-1, slots.shape[2])


def _token(token: int, present: Bools) -> NDArray[np.uint8]:
    return np.where(present, np.uint8(token), np.uint8(ABSENT))[:, None]


def _equals(like: Ints) -> NDArray[np.uint8]:
    return np.full((len(like), 1, like.shape[1]), EQUALS, np.uint8)


def _values(values: Ints, present: Bools | bool = True) -> NDArray[np.uint8]:
    """Natural numbers [D, N] in decimal, where present, most significant digit first: [D, width, N]."""
    most = int(values.max(initial=0))
    digits, rest = [], values.astype(np.uint8) if most < 256 else values  # which takes less time
    for place in range(len(str(most))):
        shown = present & ((rest > 0) | (place == 0))
        digits.append(np.where(shown, rest % 10, ABSENT).astype(np.uint8))
        rest = rest // 10
    return np.stack(digits[::-1], axis=1)
