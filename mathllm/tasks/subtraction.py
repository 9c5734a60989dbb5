"""Subtraction of two operands: the first is the larger one, unless signed results are asked for."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems, Task, select
from mathllm.tasks.numbers import (
    Bools,
    Digits,
    Ints,
    Numbers,
    add,
    column_differences,
    compare,
    longest_run,
    random_digits,
    significant,
    widen,
)
from mathllm.tasks.sampling import Sampling, draw_carry_stress, draw_differences, draw_operands
from mathllm.tokenizer import SUBTRACT


class Subtraction(Task):
    name, code = "subtraction", 1
    operator = SUBTRACT
    example = "34-12"
    rule = "a difference is of two numbers, with - between them"
    signed = "a result"

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        if method == "balanced":
            parts = draw_differences(rng, len(counts), how.max_digits)
            operands = np.stack([add(parts)[:, : how.max_digits], parts[:, 1]], axis=1)
        else:
            operands = draw_operands(rng, counts, method, how.max_digits)
        if how.signed:
            flip = rng.random(len(counts)) < 0.5
        else:
            flip = compare(operands[:, 0], operands[:, 1]) < 0
        return self.problems(select(flip, operands[:, ::-1], operands))

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        digits = size.max_digits
        if stress and digits > 1:
            # a - b = c borrows where c + b = a carries; the sum has one digit more than its terms, or as many
            terms = draw_carry_stress(rng, n, 2, digits - 1)
            drawn = np.stack([add(terms)[:, :digits], widen(terms[:, 1], digits)], axis=1)
        else:
            drawn = random_digits(rng, np.full((n, 2), digits), digits)
        return self.problems(select(compare(drawn[:, 0], drawn[:, 1]) < 0, drawn[:, ::-1], drawn))

    def extreme(self, size: Sampling) -> Problems:
        operands = np.zeros((1, 2, size.max_digits), np.uint8)  # 9000 - 1999: a borrow in every column
        operands[0, 1] = 9
        operands[0, :, -1] = 9, 1
        return self.problems(operands[:, ::-1] if size.signed else operands)

    def answer(self, problems: Problems) -> Numbers:
        larger, smaller, negative = by_size(problems)
        differences, _ = column_differences(larger, smaller)
        return significant((differences % 10).astype(np.uint8), negative)

    def answer_widths(self, problems: Problems) -> Ints:
        return problems.widths

    def carries(self, problems: Problems) -> tuple[Ints, Ints, Ints]:
        larger, smaller, _ = by_size(problems)
        zero = np.zeros(len(problems), np.int64)
        return -column_differences(larger, smaller)[1], zero - 1, zero

    def carry_lengths(self, problems: Problems) -> Ints:
        larger, smaller, _ = by_size(problems)
        return longest_run(column_differences(larger, smaller)[1][:, 1:])

    def cascades(self, problems: Problems) -> Bools:
        larger, smaller, _ = by_size(problems)
        differences, _ = column_differences(larger, smaller)
        through: Bools = ((larger == smaller) & (differences < 0)).any(1)
        return through

    def ordered(self, signed: bool) -> bool:
        return not signed


def by_size(problems: Problems) -> tuple[Digits, Digits, Bools]:
    """The larger and the smaller operand [N, D] of each row, and whether the result is negative [N]."""
    left, right = problems.operands[:, 0], problems.operands[:, 1]
    negative = compare(left, right) < 0
    return select(negative, right, left), select(negative, left, right), negative
