"""Multiplication of two numbers. The second one has a single digit where problems are drawn."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems, Task, select
from mathllm.tasks.numbers import (
    Digits,
    Ints,
    Numbers,
    column_products,
    lengths_of,
    longest_run,
    multiply,
    random_digits,
    significant,
)
from mathllm.tasks.sampling import Sampling, draw_operands, draw_product_stress, draw_products
from mathllm.tokenizer import MULTIPLY


class Multiplication(Task):
    name, code = "multiplication", 2
    operator = MULTIPLY
    example = "12*3"
    rule = "a product is of two numbers, with * between them"
    commutative = True
    aligned = 1  # the factor counts in every column alike

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        if method == "balanced":
            return self.problems(draw_products(rng, len(counts), how.max_digits))
        operands = draw_operands(rng, counts, method, how.max_digits)
        operands[:, 1, 1:] = 0
        operands[:, 1, 0] = rng.integers(0, 10, len(counts))
        return self.problems(operands)

    def of_length(
        self, rng: np.random.Generator, n: int, operands: int, digits: int, *, stress: bool
    ) -> Problems:
        if stress:
            return self.problems(draw_product_stress(rng, n, digits))
        return self.problems(random_digits(rng, np.repeat([[digits, 1]], n, axis=0), digits))

    def extreme(self, max_digits: int, max_operands: int, signed: bool) -> Problems:
        operands = np.zeros((1, 2, max_digits), np.uint8)
        operands[0, 0], operands[0, 1, 0] = 9, 9
        return self.problems(operands)

    def answer(self, problems: Problems) -> Numbers:
        return significant(multiply(problems.operands[:, 0], problems.operands[:, 1]))

    def answer_widths(self, problems: Problems) -> Ints:
        widths: Ints = problems.lengths[:, :2].sum(1)
        return widths

    def carries(self, problems: Problems) -> tuple[Ints, Ints, Ints]:
        longer, shorter = by_length(problems)
        carries, zero = column_products(longer, shorter[:, 0])[1], np.zeros(len(problems), np.int64)
        one_digit = (
            lengths_of(shorter) == 1
        )  # else there are several such products: none of them is the carry
        most = np.where(one_digit, np.maximum(shorter[:, 0].astype(np.int64) - 1, 0), 0)
        return carries * one_digit[:, None], zero, most

    def carry_lengths(self, problems: Problems) -> Ints:
        """Of carries that meet a digit to be multiplied, when the longer operand is multiplied by the other's
        units."""
        longer, shorter = by_length(problems)
        return longest_run(column_products(longer, shorter[:, 0])[1][:, 1:])

    def digits_of(self, operand: int, max_digits: int) -> int:
        return min(max_digits, 1) if operand else max_digits


def by_length(problems: Problems) -> tuple[Digits, Digits]:
    """The operand with more digits and the other one, both [N, D]."""
    left, right = problems.operands[:, 0], problems.operands[:, 1]
    swap = problems.lengths[:, 1] > problems.lengths[:, 0]
    return select(swap, right, left), select(swap, left, right)
