"""How operands are drawn: by number of digits, by value, or so that answers and carries are spread evenly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathllm import registry
from mathllm.errors import UsageError, check_choice, unknown_choice
from mathllm.limits import MAX_DIGITS, MAX_OPERANDS, check_range
from mathllm.tasks.numbers import Digits, Ints, random_digits

SAMPLINGS = tuple(registry.SAMPLINGS)


@dataclass(frozen=True)
class Sampling:
    """How operands are drawn.

    `digits`: every operand's number of digits is uniform from 1 to max_digits (the default);
    `uniform`: operands are uniform from 0 to 10**max_digits - 1;
    `balanced`: the answer's number of digits is uniform, and so is the longest run of carries (or borrows) that
    such an answer can have (exactly so for up to five operands): 99+1 and 100-99 are not rare; of a product, the
    number of digits alone;
    several, like `digits,balanced`: equal shares of each.
    """

    max_digits: int = 3
    max_operands: int = 2
    method: str = "digits"
    signed: bool = False

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in SAMPLINGS:
                raise unknown_choice("sampling", method, SAMPLINGS)
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"name each sampling once, not {self.method!r}")
        check_range("max_digits", self.max_digits, 1, MAX_DIGITS)
        check_range("max_operands", self.max_operands, 2, MAX_OPERANDS)

    @property
    def methods(self) -> tuple[str, ...]:
        """The single methods that `method` names."""
        return tuple(name.strip() for name in self.method.split(","))


def draw_operands(rng: np.random.Generator, counts: Ints, method: str, max_digits: int) -> Digits:
    """Operands [n, max(counts), max_digits] by `digits` or `uniform`, where row i has counts[i] of them."""
    check_choice("sampling", method, ("digits", "uniform"))
    shape = (len(counts), int(counts.max(initial=2)))
    if method == "uniform":
        return rng.integers(0, 10, (*shape, max_digits), dtype=np.uint8)
    return random_digits(rng, rng.integers(1, max_digits + 1, shape), max_digits)


def draw_sums(rng: np.random.Generator, counts: Ints, max_digits: int) -> Digits:
    """Operands [n, max(counts), max_digits] of sums, even in digits of the answer and in the longest run.

    Exact for up to five operands a row; more of them have larger leading digits than a column without a carry can
    hold.
    """
    n = len(counts)
    answer = rng.integers(1, max_digits + 2, n)  # digits of the sum
    overflow = answer > max_digits  # longer than any operand: the run has to leave the top column
    run = rng.integers(overflow, answer)
    span = answer - 1 - run
    start = np.where(overflow, span, rng.integers(0, span + 1))
    # a run that reaches the sum's top digit leaves the operands one digit shorter, or not
    shorter = overflow | ((run > 0) & (start == span) & (rng.random(n) < 0.5))
    longest = answer - shorter
    lengths = rng.integers(1, longest[:, None] + 1, (n, int(counts.max(initial=2))))
    lengths[:, 0] = longest
    # a run begins where two digits meet
    lengths[:, 1] = rng.integers(np.where(run > 0, start, 0), longest) + 1
    present = np.arange(lengths.shape[1]) < counts[:, None]
    operands = _fill_columns(rng, lengths * present, start, run, max_digits)
    order = np.argsort(np.where(present, rng.random(present.shape), 2), axis=1)
    shuffled: Digits = np.take_along_axis(operands, order[..., None], 1)
    return shuffled


def draw_differences(rng: np.random.Generator, n: int, max_digits: int) -> Digits:
    """Differences and subtrahends [n, 2, max_digits], even in digits of the difference and in the longest run.

    a - b = c borrows exactly where c + b = a carries, so a run of borrows is drawn as one of carries. The sum has
    at most max_digits digits.
    """
    difference = rng.integers(1, max_digits + 1, n)  # its digits
    run = rng.integers(0, max_digits, n)
    start = rng.integers(0, np.minimum(difference, max_digits - run))
    end = np.where(run > 0, start + run, 0)
    # a run begins where two digits meet, and runs through the digits of one of them
    least = np.where(difference >= end, np.where(run > 0, start, 0), end - 1)
    subtrahend = rng.integers(least, max_digits) + 1
    return _fill_columns(rng, np.stack([difference, subtrahend], 1), start, run, max_digits)


def draw_carry_stress(rng: np.random.Generator, n: int, operands: int, digits: int) -> Digits:
    """Operands [n, operands, digits] of sums whose carries run far, the first of exactly that many digits.

    A quarter each: 9...9 + d; a carry through every column; one run of any length at any place; runs of any one
    length up to 9 side by side. Within a run the digits of a column add up to 9, so that only the carry from
    below decides; uniform sampling almost never draws a long one.
    """
    kind, column = np.arange(n)[:, None] % 4, np.arange(digits)
    run = np.where(kind == 2, rng.integers(1, digits + 1, (n, 1)), digits)
    start = rng.integers(0, digits - run + 1)
    end = start + run
    phase = column % np.where(kind == 3, rng.integers(2, 11, (n, 1)), digits + 1)
    runs = np.where(
        kind == 3, (np.roll(phase, -1, 1) != 0) | (column == 0), (column >= start) & (column < end)
    )
    begins = np.where(kind == 3, phase == 0, column == start)
    loose = rng.integers((column == digits - 1).astype(int), 9, (n, digits))  # no leading zero
    totals = np.where(runs, np.where(begins, rng.integers(10, 19, (n, digits)), 9), loose)
    left = rng.integers(np.maximum(totals - 9, 0), np.minimum(totals, 9) + 1)
    left[:, -1] = np.maximum(left[:, -1], totals[:, -1] - left[:, -1])
    left = np.where(kind == 0, 9, left)
    rest = np.where(kind == 0, (totals - 9) * (column == 0), totals - left)
    parts = [left]
    for _ in range(operands - 2):
        # a part of every digit: the totals of columns, and so the carries, stay as they are
        part = rng.integers(0, rest + 1)
        rest = rest - part
        parts.append(part)
    drawn: Digits = np.stack([*parts, rest], axis=1).astype(np.uint8)
    return drawn


def draw_products(rng: np.random.Generator, n: int, max_digits: int) -> Digits:
    """Numbers and one-digit factors [n, 2, max_digits], even in the number of digits of their products."""
    digits = rng.integers(1, max_digits + 2, n)  # of the product
    longer = (digits > max_digits) | (
        (digits > 1) & (rng.random(n) < 0.5)
    )  # than the number that is multiplied
    factor = np.where(longer, rng.integers(2, 10, n), rng.integers(digits > 1, 6))
    # times the factor, the number's leading digit alone says how long the product is
    leads = np.maximum(factor, 1)
    low, high = np.where(longer, -(-10 // leads), 1), np.where(longer, 9, np.minimum(10 // leads - 1, 9))
    lengths = digits - longer
    operands = np.zeros((n, 2, max_digits), np.uint8)
    operands[:, 0] = random_digits(rng, lengths, max_digits)
    operands[np.arange(n), 0, lengths - 1] = rng.integers(low, high + 1)
    operands[:, 1, 0] = factor
    return operands


def draw_product_stress(rng: np.random.Generator, n: int, digits: int) -> Digits:
    """Numbers of exactly that many digits and one-digit factors [n, 2, digits] whose carries run far.

    A run of any length at any place (in half of them through all columns): digits whose product ends in 9, so that
    the next column's carry hangs on the one from below, above a digit that carries or does not.
    """
    factor = rng.choice([3, 7, 9], n)
    link = np.select([factor == 3, factor == 7], [3, 7], 1)  # 9, 49, 9
    column = np.arange(digits)
    length = np.where(rng.random(n) < 0.5, digits, rng.integers(1, digits + 1, n))
    start = rng.integers(0, digits - length + 1)
    run = (column > start[:, None]) & (column < (start + length)[:, None])
    number = random_digits(rng, np.full(n, digits), digits)
    operands = np.zeros((n, 2, digits), np.uint8)
    operands[:, 0] = np.where(run, link[:, None], number)
    operands[:, 1, 0] = factor
    return operands


def _fill_columns(rng: np.random.Generator, lengths: Ints, start: Ints, run: Ints, width: int) -> Digits:
    """Operands [n, K, width] of these lengths [n, K] that carry in `run` columns from `start` and nowhere else.

    A column's total is uniform among those that carry, or do not, as planned (where digits allow it).
    """
    operands = np.zeros((*lengths.shape, width), np.uint8)
    carry = np.zeros(len(lengths), np.int64)
    for place in range(width):
        least = ((place == lengths - 1) & (lengths > 1)).astype(np.int64)  # no leading zero
        most = 9 * (place < lengths)
        bottom, top = least.sum(1), most.sum(1)
        carries = (start <= place) & (place < start + run)
        low = np.where(carries, np.maximum(bottom, 10 - carry), bottom)
        high = np.where(carries, top, np.minimum(top, 9 - carry))
        possible = low <= high
        total = rng.integers(np.where(possible, low, bottom), np.where(possible, high, top) + 1)
        carry = (total + carry) // 10
        for k in range(lengths.shape[1]):
            bottom, top = bottom - least[:, k], top - most[:, k]  # of the operands that are left
            digit = rng.integers(
                np.maximum(least[:, k], total - top), np.minimum(most[:, k], total - bottom) + 1
            )
            operands[:, k, place] = digit
            total = total - digit
    return operands
