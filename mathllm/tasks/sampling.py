"""How operands are drawn: by number of digits, by value, or so that answers and carries are spread evenly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mathllm import registry
from mathllm.errors import UsageError, check_choice, unknown_choice
from mathllm.limits import MAX_LENGTH, MAX_OPERANDS, check_range
from mathllm.tasks.numbers import Digits, Ints, random_digits

SAMPLINGS = tuple(registry.SAMPLINGS)
MAX_WEIGHT = 1000  # of a task


@dataclass(frozen=True)
class Sampling:
    """How operands are drawn.

    `digits`: every operand's number of digits is uniform from 1 to max_digits (the default);
    `uniform`: operands are uniform from 0 to 10**max_digits - 1;
    `balanced`: the answer's number of digits is uniform, and so is the longest run of carries (or borrows) that
    such an answer can have (exactly so for up to five operands): 99+1 and 100-99 are not rare; of a product, the
    numbers of digits of its factors, which have many carries, zeros and ones more often than by chance;
    several, like `digits,balanced`: equal shares of each.

    Where `signed`, what a task's `signed` names may be below zero: half of the products have factors with signs.

    `second_digits` (0: as many as max_digits) are those of every operand but the first, of tasks that have a name for
    such operands (`Task.second`); `expression_digits` and `expression_numbers` (0: as elsewhere) bound whole
    expressions. Of several tasks each is drawn equally often, but for those that `task_weights` names: with
    `arithmetic:3` whole expressions come three times as often as another task.
    """

    max_digits: int = 3
    max_operands: int = 2
    method: str = "digits"
    signed: bool = False
    second_digits: int = 0
    expression_digits: int = 0
    expression_numbers: int = 0
    task_weights: str = ""

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in SAMPLINGS:
                raise unknown_choice("sampling", method, SAMPLINGS)
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"name each sampling once, not {self.method!r}")
        check_range("max_digits", self.max_digits, 1, MAX_LENGTH)
        check_range("max_operands", self.max_operands, 2, MAX_OPERANDS)
        check_range("second_digits", self.second_digits, 0, MAX_LENGTH)
        check_range("expression_digits", self.expression_digits, 0, MAX_LENGTH)
        check_range("expression_numbers", self.expression_numbers, 0, MAX_OPERANDS)
        for name, weight in self.weights.items():
            check_range(f"the weight of {name}", weight, 1, MAX_WEIGHT)

    @property
    def weights(self) -> dict[str, int]:
        """The tasks that are named with a weight of their own."""
        parts = [part.strip() for part in self.task_weights.split(",")] if self.task_weights.strip() else []
        matches = [re.fullmatch(r"([a-z]+):(\d{1,9})", part) for part in parts]
        found = {match[1]: int(match[2]) for match in matches if match}
        if len(found) < len(parts):
            raise UsageError(
                f"weights are of tasks, each named once, not {self.task_weights!r}",
                "for example --task-weights arithmetic:3",
            )
        return found

    @property
    def methods(self) -> tuple[str, ...]:
        """The single methods that `method` names."""
        return tuple(name.strip() for name in self.method.split(","))

    @property
    def of_expressions(self) -> Sampling:
        """The same for whole expressions."""
        digits, numbers = (
            self.expression_digits or self.max_digits,
            self.expression_numbers or self.max_operands,
        )
        return replace(self, max_digits=digits, max_operands=numbers)

    @property
    def second(self) -> int:
        """The most digits of every operand but the first, where these have fewer."""
        return min(self.second_digits or self.max_digits, self.max_digits)

    @property
    def widest(self) -> int:
        """The most digits of any number."""
        return max(self.max_digits, self.expression_digits)

    @property
    def most(self) -> int:
        """The most numbers of any problem."""
        return max(self.max_operands, self.expression_numbers)


def draw_operands(
    rng: np.random.Generator, counts: Ints, method: str, max_digits: int, second: int = 0
) -> Digits:
    """Operands [n, max(counts), max_digits] by `digits` or `uniform`, where row i has counts[i] of them; all but the
    first have at most `second` digits (0: as many)."""
    check_choice("sampling", method, ("digits", "uniform"))
    shape = (len(counts), int(counts.max(initial=2)))
    if method == "uniform":
        operands = rng.integers(0, 10, (*shape, max_digits), dtype=np.uint8)
        operands[:, 1:, second or max_digits :] = 0
        return operands
    return random_digits(rng, draw_lengths(rng, shape, max_digits, second), max_digits)


def draw_lengths(rng: np.random.Generator, shape: tuple[int, int], max_digits: int, second: int = 0) -> Ints:
    """Numbers of digits [n, K], even from 1 to max_digits; but for the first of a row, to `second` (0: as many)."""
    if second in (0, max_digits):
        return rng.integers(1, max_digits + 1, shape)
    return rng.integers(1, np.where(np.arange(shape[1]) > 0, second, max_digits) + 1, shape)


def draw_patterns(rng: np.random.Generator, lengths: Ints, width: int) -> Digits:
    """Numbers [..., width] of exactly these lengths [...], a quarter each of any digits, of large ones (much is
    carried), with zeros inside, and of zeros and ones alone."""
    kind, place = rng.integers(0, 4, lengths.shape)[..., None], np.arange(width)
    drawn = random_digits(rng, lengths, width)
    top = (place == lengths[..., None] - 1) & (lengths[..., None] > 1)
    large = rng.integers(6, 10, drawn.shape)
    ones = rng.integers(0, 2, drawn.shape) | top
    sparse = drawn * (top | (rng.random(drawn.shape) < 0.5))
    digits = np.select([kind == 1, kind == 2, kind == 3], [large, sparse, ones], drawn)
    patterns: Digits = (digits * (place < lengths[..., None])).astype(np.uint8)
    return patterns


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


def draw_product_stress(rng: np.random.Generator, n: int, lengths: Sequence[int]) -> Digits:
    """Factors [n, K, max(lengths)] of products that are hard: the first of exactly lengths[0] digits, the others of at
    most lengths[1:].

    A quarter each: nearly all digits are 9; most are 0; all factors but the first are short; see `draw_patterns`. For
    one factor of one digit, see `draw_carried_products`.
    """
    if len(lengths) == 2 and lengths[1] == 1:
        return draw_carried_products(rng, n, lengths[0])
    width = max(lengths)
    kind, most, place = np.arange(n)[:, None] % 4, np.array(lengths), np.arange(width)
    short = rng.integers(1, np.maximum(most // 4, 1) + 1, (n, len(most)))
    chosen = np.where((kind == 2) & (np.arange(len(most)) > 0), short, most)[..., None]
    digits = draw_patterns(rng, chosen[..., 0], width)
    often = (kind < 2)[..., None] & (rng.random(digits.shape) < 0.8) & (place < chosen)
    often &= (kind == 0)[..., None] | (place < chosen - 1)
    hard: Digits = np.where(often, np.where(kind == 0, 9, 0)[..., None], digits).astype(np.uint8)
    return hard


def draw_carried_products(rng: np.random.Generator, n: int, digits: int) -> Digits:
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


def triples(symbols: int) -> Ints:
    """A circle of numbers below `symbols`, in which every three of them follow one another exactly once: a de Bruijn
    sequence of order 3, made of all Lyndon words of one and three letters in their order."""
    letters = np.arange(symbols)
    parts = []
    for first in letters:
        # the words a a c and a b c, with b and c above a
        second, third = (
            part.ravel() for part in np.meshgrid(letters[first:], letters[first + 1 :], indexing="ij")
        )
        words = np.stack([np.full_like(second, first), second, third], axis=1)
        parts += [np.array([first]), words.ravel()]
    return np.concatenate(parts)


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
