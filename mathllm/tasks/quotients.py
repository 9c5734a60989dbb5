"""What division and remainder share: how their problems are drawn, of natural numbers and never by zero."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems, Task, select
from mathllm.tasks.numbers import (
    Digits,
    Ints,
    add,
    column_differences,
    divide,
    lengths_of,
    multiply,
    random_digits,
)
from mathllm.tasks.sampling import Sampling, draw_lengths, draw_operands, draw_patterns


class Quotients(Task):
    """A task on a dividend and a divisor."""

    second = "divisor"
    least_second = 1
    stress = "near multiples"

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        """Of the balanced ones, whose operands have lengths that are even, half are near multiples or have quotients
        with many digits 0 and 9."""
        if method == "balanced":
            lengths = draw_lengths(rng, (len(counts), 2), how.max_digits, how.second)
            operands = _without_zero(rng, draw_patterns(rng, lengths, how.max_digits))
            return self.problems(select(rng.random(len(counts)) < 0.5, _near(rng, operands), operands))
        operands = draw_operands(rng, counts, method, how.max_digits, how.second)
        while method == "uniform" and not (there := operands[:, 1].any(1)).all():
            again = draw_operands(rng, counts[~there], method, how.max_digits, how.second)
            operands[~there, 1] = again[:, 1]
        return self.problems(_without_zero(rng, operands))

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        second = size.second_digits or size.max_digits  # here it may be the longer one
        lengths = np.repeat([[size.max_digits, second]], n, axis=0)
        if stress:
            operands = _without_zero(rng, draw_patterns(rng, lengths, max(size.max_digits, second)))
            return self.problems(_near(rng, operands, exactly=True))
        return self.of_lengths(rng, lengths, False)

    def of_lengths(self, rng: np.random.Generator, lengths: Ints, signed: bool) -> Problems:
        return self.problems(_without_zero(rng, random_digits(rng, lengths, int(lengths.max(initial=1)))))

    def extreme(self, size: Sampling) -> Problems:
        """Several, since formats differ in the divisor's length that takes most: quotients of nines, and remainders
        that have as many digits as the divisor."""
        most, middle = size.max_digits, size.max_digits // 2
        lengths = sorted(
            {1, size.second, *np.clip(np.arange(middle - 3, middle + 4), 1, size.second).tolist()}
        )
        operands = np.full((2, len(lengths), 2, most), 9, np.uint8)
        for row, divisor in enumerate(lengths):
            operands[:, row, 1, divisor:] = 0
            operands[0, row, 1, : divisor - 1], operands[0, row, 1, divisor - 1] = 0, 1
            operands[1, row, 0, most - divisor] = 8
        return self.problems(operands.reshape(-1, 2, most))


def _without_zero(rng: np.random.Generator, operands: Digits) -> Digits:
    """The same operands [N, 2, D] with divisors of one digit in place of 0."""
    zero = ~operands[:, 1].any(1)
    operands[zero, 1, 0] = rng.integers(1, 10, int(zero.sum()))
    return operands


def _near(rng: np.random.Generator, operands: Digits, exactly: bool = False) -> Digits:
    """The same divisors with dividends of the same lengths, where there are any, that are multiples or one more or one
    less, or (not `exactly`, a quarter) have any remainder; in half of them the quotient's digits behind the first are 0
    and 9."""
    n = len(operands)
    divisor = operands[:, 1]
    quotient, rest = divide(operands[:, 0], divisor)
    # a smaller dividend of as many digits is near 0 times the divisor, or once
    alike = lengths_of(operands[:, 0]) == lengths_of(divisor)
    quotient[alike & ~quotient.any(1) & (rng.random(n) < 0.5), 0] = 1
    one = np.zeros_like(divisor)
    one[:, 0] = 1
    less = (column_differences(divisor, one)[0] % 10).astype(np.uint8)
    kind = rng.integers(int(exactly), 4, n)[:, None]
    rest = np.select(
        [kind == 0, kind == 1, kind == 2], [rest, one * 0, less], np.minimum(one, less.max(1, keepdims=True))
    )
    behind = np.arange(quotient.shape[1]) < lengths_of(quotient)[:, None] - 1
    extremes = np.where(behind, 9 * rng.integers(0, 2, quotient.shape), quotient).astype(np.uint8)
    often, dividend = select(rng.random(n) < 0.5, extremes, quotient), operands[:, 0]
    if exactly:  # for where those extremes would have another length
        dividend = _of_length(quotient, divisor, rest, dividend)
    return np.stack([_of_length(often, divisor, rest, dividend), divisor], axis=1)


def _of_length(quotient: Digits, divisor: Digits, rest: Digits, dividend: Digits) -> Digits:
    """Quotient times divisor and the rest, where that has as many digits as the dividend; else the dividend."""
    product = multiply(quotient, divisor)
    made = add(np.stack([product, np.pad(rest, ((0, 0), (0, product.shape[1] - rest.shape[1])))], axis=1))
    return select(lengths_of(made) == lengths_of(dividend), made[:, : dividend.shape[1]], dividend)
