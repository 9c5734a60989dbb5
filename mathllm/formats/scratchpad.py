"""Working in rows, all numbers least significant digit first, for lengths far beyond training (Show Your Work:
Scratchpads, arXiv 2112.00114; with units first and digits that line up, as in arXiv 2410.15787).

| problem | text |
| --- | --- |
| 12+34+56 | `21+43+65=<think>+=64</think>201`: the sum so far |
| 34-12 | `43-21=<think>-=22+=22</think>22`: it goes (`+`); from the top it is 22 |
| 12-34 | `21-43=<think>-=87-=22=22</think>-22`: a borrow is left over (`-`), so the other way round |
| 12*34 | `21*43=<think>*4=840+=840*3=630+=040</think>804`: times a digit, and the sum from its place on |
| 98/12 | `89/21=<think>9+8=890-=680+1 ... -=200+8-=099-8</think>8`: bring down 8, and take 12 away while it goes |
| 98%12 | the same, and what is left, from the top, without the zeros there: `=-2` |

Expressions of several operations are worked out one after the other, each with its own working:
`2+3*4=<think>3*4=<think>*4=21+=21</think>21</think><think>2+21=<think></think>41</think>41`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.follow import Follower, Walk
from mathllm.formats.nested import kinds_of, merged, operations, workings
from mathllm.formats.rows import AXES, RowsFollower, of_prompts, part_name
from mathllm.formats.thought import Thought
from mathllm.formats.words import Reader
from mathllm.tasks import Problems
from mathllm.tasks.numbers import (
    Bools,
    Digits,
    Ints,
    Numbers,
    add,
    column_differences,
    column_products,
    column_sums,
    compare,
    lengths_of,
    widen,
)
from mathllm.tasks.order import in_order, turns
from mathllm.tasks.slots import (
    ABSENT,
    Slots,
    constant,
    number_slots,
    operator_slots,
    stack,
    token_slot,
)
from mathllm.tokenizer import (
    DIVIDE,
    END_THINK,
    EQUALS,
    MINUS,
    MULTIPLY,
    PLUS,
    REMAINDER,
    SUBTRACT,
    Ids,
)


def sums(problems: Problems) -> Slots:
    """The sum so far of problems, but for the first number and the last sum, which is the answer."""
    parts: list[Slots] = []
    total = problems.operands[:, 0]
    for k in range(1, problems.operands.shape[1] - 1):
        shown = problems.lengths[:, k + 1] > 0
        total = add(np.stack([total, widen(problems.operands[:, k], total.shape[1])], axis=1))
        parts += [token_slot(PLUS, shown), token_slot(EQUALS, shown)]
        parts.append(number_slots(total, lengths_of(total) * shown, least_significant_first=True))
    return stack(parts) if parts else constant(len(problems))


def differences(left: Digits, right: Digits, lengths: Ints) -> Slots:
    """Left minus right [N, D], of as many digits [N]; where it does not go, right minus left; and what is left from the
    top."""
    n = len(left)
    goes = compare(left, right) >= 0
    first, second = (
        (column_differences(one, other)[0] % 10).astype(np.uint8)
        for one, other in ((left, right), (right, left))
    )
    return stack(
        [
            constant(n, MINUS, EQUALS),
            number_slots(first, lengths, least_significant_first=True),
            np.where(goes, PLUS, MINUS)[None].astype(np.uint8),
            token_slot(EQUALS, ~goes),
            number_slots(second, lengths * ~goes, least_significant_first=True),
            struck(np.where(goes[:, None], first, second), lengths),
        ]
    )


def struck(digits: Digits, lengths: Ints) -> Slots:
    """`=` and the digits [N, D] from the highest of as many [N] on, with a minus for each zero at the top."""
    rows = number_slots(digits, lengths)  # most significant first
    above = (np.arange(len(rows))[::-1, None] >= lengths_of(digits)) & (rows != ABSENT)
    return stack([constant(len(digits), EQUALS), np.where(above, MINUS, rows).astype(np.uint8)])


def products(left: Digits, right: Digits, left_lengths: Ints, right_lengths: Ints) -> Slots:
    """For each digit of the right number [N, E] its product with the left one [N, D], and the sum from its place on:
    what is below is final."""
    n, width = left.shape
    parts: list[Slots] = []
    running = np.zeros((n, width + 1), np.uint8)
    for place in range(int(right_lengths.max(initial=0))):
        shown = place < right_lengths
        row = (left_lengths + 1) * shown
        totals, carries = column_products(left, right[:, place])
        partial = np.concatenate([totals % 10, carries[:, -1:]], axis=1).astype(np.uint8)
        running = np.concatenate([running[:, 1:], np.zeros((n, 1), np.uint8)], axis=1)
        running = (column_sums(np.stack([running, partial], axis=1))[0] % 10).astype(np.uint8)
        parts += [
            operator_slots(np.uint8(MULTIPLY) * shown),
            np.where(shown, right[:, place], ABSENT)[None].astype(np.uint8),
            token_slot(EQUALS, shown),
            number_slots(partial, row, least_significant_first=True),
            token_slot(PLUS, shown),
            token_slot(EQUALS, shown),
            number_slots(running, row, least_significant_first=True),
        ]
    return stack(parts)


def quotients(left: Digits, right: Digits, left_lengths: Ints, right_lengths: Ints, ends: Bools) -> Slots:
    """School division of left [N, D] by right [N, E], digit by digit of the quotient from the top: bring a digit down,
    and take the divisor away while it goes; what is left in the end is written from the top where `ends` [N]."""
    n = len(left)
    width = int(right_lengths.max(initial=1)) + 1
    divisor, places = widen(right, width)[:, :width], np.arange(width)
    # the place, from 0, of the first digit brought down; those above it are fewer than the divisor's
    highest = np.maximum(left_lengths - right_lengths, 0)
    source = highest[:, None] + 1 + places
    rest = np.take_along_axis(widen(left, int(source.max(initial=0)) + 1), source, 1)
    parts = [number_slots(rest, right_lengths - 1, least_significant_first=True)]
    row = right_lengths + 1
    for block in range(int(highest.max(initial=0)) + 1):
        shown = block <= highest
        digit = left[np.arange(n), np.maximum(highest - block, 0)]
        rest = np.where(shown[:, None], np.concatenate([digit[:, None], rest[:, :-1]], axis=1), rest)
        parts += [token_slot(PLUS, shown), np.where(shown, digit, ABSENT)[None], token_slot(EQUALS, shown)]
        parts.append(number_slots(rest, row * shown, least_significant_first=True))
        count, trying = np.zeros(n, np.uint8), shown
        while trying.any():
            totals, borrows = column_differences(rest, divisor)
            goes = trying & (borrows[:, -1] == 0)
            difference = (totals % 10).astype(np.uint8)
            count = count + goes.astype(np.uint8)
            parts += [
                token_slot(MINUS, trying),
                token_slot(EQUALS, trying),
                number_slots(difference, row * trying, least_significant_first=True),
                np.where(trying, np.where(goes, PLUS, MINUS), ABSENT)[None].astype(np.uint8),
                np.where(trying, count, ABSENT)[None].astype(np.uint8),
            ]
            rest, trying = np.where(goes[:, None], difference, rest), goes
    if ends.any():
        parts.append(np.where(ends, struck(rest, right_lengths), ABSENT).astype(np.uint8))
    return stack(parts)


def working(operators: Digits, left: Numbers, right: Numbers) -> Slots:
    """That of one operation on two numbers a row; the right one is not negative, the left one only in sums and
    differences."""
    n, width = len(operators), max(left.digits.shape[1], right.digits.shape[1])
    kinds = kinds_of(operators, left)
    turned = kinds != operators
    parts: list[tuple[Bools | Ints, Slots]] = []
    a, b = widen(left.digits, width), widen(right.digits, width)
    for kind in (SUBTRACT, MULTIPLY):
        rows = kinds == kind
        if not rows.any():
            continue
        if kind == SUBTRACT:
            swap = turned[rows, None]
            first, second = np.where(swap, b[rows], a[rows]), np.where(swap, a[rows], b[rows])
            slots = differences(first, second, np.maximum(left.lengths, right.lengths)[rows])
        else:
            slots = products(left.digits[rows], right.digits[rows], left.lengths[rows], right.lengths[rows])
        parts.append((rows, slots))
    rows = kinds >= DIVIDE
    if rows.any():
        numbers = left.digits[rows], right.digits[rows], left.lengths[rows], right.lengths[rows]
        parts.append((rows, quotients(*numbers, kinds[rows] == REMAINDER)))
    return merged(n, parts)


class Rows(Thought):
    """Rows of working for operations on two numbers; of expressions with more of them all operations one after the
    other, each in a thought of its own."""

    axes, pads = AXES, False

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return workings(problems, working, least_significant_first=True)

    def estimate(self, problems: Problems) -> Ints:
        return operations(problems, _tokens)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        several = problems.num_operands > 2
        order, k = in_order(problems), problems.operands.shape[1]
        # the results' numbers follow those of the row, however many its neighbours have
        missing = k - problems.num_operands[:, None]
        left, right = (
            np.where(number >= k, number - missing, number) for number in (order.left, order.right)
        )
        operators = order.operators.astype(np.int64)
        numbers, lengths = problems.num_operands, problems.lengths[:, :2]
        return RowsFollower(operators, left, right, numbers=numbers, lengths=lengths, steps=several)

    def reader(self, expression: str) -> Callable[[str], str]:
        return Reader(expression).says

    def step_starts(self, ids: Ids) -> Bools:
        return rows_begin(ids)

    def parts(self, problems: Problems, ids: Ids, columns: Ints) -> list[list[tuple[str, str]]]:
        told = Walk(SCRATCHPAD, problems, ("segment", "row", "block", "place", "step")).read(ids)
        values = (np.take_along_axis(told[axis], columns - 1, 1).ravel().tolist() for axis in told)
        several = np.repeat(problems.num_operands > 2, columns.shape[1]).tolist()
        found = [part_name(*at, several=more) for *at, more in zip(*values, several, strict=True)]
        return [found[at : at + columns.shape[1]] for at in range(0, len(found), columns.shape[1])]

    def prompt_coordinates(self, problems: Problems, ids: Ids) -> dict[str, Ints]:
        return of_prompts(ids, problems.operators, turns(problems.operators), steps=problems.num_operands > 2)


def _tokens(operators: Ints, left: Ints, right: Ints) -> Ints:
    """About how many tokens [N] the working of operations on numbers of so many digits [N] has."""
    longer, blocks = np.maximum(left, right), np.maximum(left - right, 0) + 1
    rows = [right * 2 * (left + 4), blocks * 3 * (right + 5)]
    return np.select([operators == MULTIPLY, operators >= DIVIDE], rows, 3 * longer)


def _most_tokens(operators: Ints, left: Ints, right: Ints) -> Ints:
    """The most tokens [N] of any operation, named and with its result, on two numbers of up to so many digits [N]."""
    product = right * (2 * left + 8)
    # a divisor of about half the digits takes most: its rows are short, or there are few of them
    half = (left - 4) // 2
    quotients = []
    for divisor in (np.clip(half, 1, right), np.clip(half + 1, 1, right)):
        blocks = np.maximum(left - divisor, 0) + 1
        quotients.append(2 * divisor + blocks * (divisor + 4 + 10 * (divisor + 5)))
    difference = 3 * np.maximum(left, right) + 5
    tokens: Ints = np.maximum.reduce([product, *quotients, difference]) + 2 * (left + right) + 9
    return tokens


def rows_begin(ids: Ids) -> Bools:
    """Before which tokens [N, T] of texts a row begins, told by the tokens before them alone; but for the first row of
    a working."""
    # one flat array, with something that is no digit around each row
    flat = np.pad(ids, ((0, 0), (3, 1)), constant_values=END_THINK).ravel()
    digit, index = flat < 10, np.arange(len(flat), dtype=np.int32)
    # the last token before each that is no digit
    opener = np.append(np.int32(0), np.maximum.accumulate(np.where(digit, 0, index))[:-1])
    behind = (flat[opener] == EQUALS) & (flat[opener - 1] == MINUS)
    sign = (flat == MINUS) | (flat == PLUS)
    # the sign behind what is left of a subtraction; but not behind the other way round, which a sign comes before
    subtracts = ~(behind & (flat == MINUS))
    ends = sign & behind & subtracts[opener - 1]
    counted = ends[opener]  # digits, or none, between the sign and this token
    after_row = (flat[opener] == EQUALS) & (opener < index - 1) & ~ends
    begins: Bools = ~digit & (flat <= EQUALS) & (counted | after_row)
    return begins.reshape(len(ids), -1)[:, 3:-1]


class Expressions(Rows):
    """The same for any operations, of which other ones may take more than the products that are the longest
    problems."""

    def most(self, problems: Problems) -> Ints:
        return operations(problems, _most_tokens)


class Sums(Rows):
    """The sum so far, number by number."""

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return sums(problems)

    def estimate(self, problems: Problems) -> Ints:
        total: Ints = problems.widths * np.maximum(problems.num_operands - 2, 0)
        return total

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        none = np.zeros((len(problems), 1), np.int64)
        operators, lengths = problems.operators[:, :1].astype(np.int64), problems.lengths[:, :2]
        numbers = problems.num_operands
        return RowsFollower(operators, none, none, numbers=numbers, lengths=lengths, steps=none[:, 0] > 0)

    def prompt_coordinates(self, problems: Problems, ids: Ids) -> dict[str, Ints]:
        return of_prompts(
            ids, problems.operators, problems.operators, steps=np.zeros(len(problems), np.bool_)
        )


SCRATCHPAD = Format(
    "scratchpad",
    "rows of working, all numbers least significant digit first",
    least_significant_first=True,
    thoughts={
        "addition": Sums(),
        **dict.fromkeys(("subtraction", "multiplication", "division", "remainder"), Rows()),
        "arithmetic": Expressions(),
    },
)
