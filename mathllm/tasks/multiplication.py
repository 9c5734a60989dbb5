"""Multiplication of two numbers or more, of any lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mathllm.limits import MAX_DIGITS
from mathllm.tasks.base import Problems, Task, select
from mathllm.tasks.numbers import (
    Bools,
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
from mathllm.tasks.sampling import (
    Sampling,
    draw_lengths,
    draw_operands,
    draw_patterns,
    draw_product_stress,
)
from mathllm.tokenizer import MULTIPLY


class Multiplication(Task):
    name, code = "multiplication", 2
    operator = MULTIPLY
    example = "12*34"
    max_operands = most_numbers = 6
    rule = f"a product has 2 to {most_numbers} numbers, no operator but *, and at most {MAX_DIGITS:,} digits"
    commutative = True
    signed, signed_operands = "a factor", True
    second = "factor"
    aligned = 1  # a factor of one digit counts in every column alike

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        if method == "balanced":
            lengths = draw_lengths(rng, (len(counts), int(counts.max(initial=2))), how.max_digits, how.second)
            problems = self.problems(draw_patterns(rng, lengths, how.max_digits), counts)
        else:
            problems = self.problems(draw_operands(rng, counts, method, how.max_digits, how.second), counts)
        return self._with_signs(rng, problems) if how.signed else problems

    def _with_signs(self, rng: np.random.Generator, problems: Problems) -> Problems:
        """The same, half of them with signs: each of their factors is below zero as often as not."""
        negative = rng.integers(0, 2, problems.lengths.shape) & rng.integers(0, 2, (len(problems), 1))
        return replace(problems, negative=(negative > 0) & problems.operands.any(2))

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        second = size.second_digits or size.max_digits  # here it may be the longer one
        lengths = [size.max_digits] + [second] * (self.most_operands(size) - 1)
        if stress:
            return self.problems(draw_product_stress(rng, n, lengths))
        return self.problems(random_digits(rng, np.repeat([lengths], n, axis=0), max(lengths)))

    def extreme(self, size: Sampling) -> Problems:
        operands = np.full((1, self.most_operands(size), size.max_digits), 9, np.uint8)
        operands[:, 1:, size.second :] = 0
        problems = self.problems(operands)
        return replace(problems, negative=np.full(problems.lengths.shape, size.signed))

    def answer(self, problems: Problems) -> Numbers:
        product = problems.operands[:, 0]
        for k in range(1, problems.operands.shape[1]):
            factor = problems.operands[:, k].copy()
            factor[problems.lengths[:, k] == 0, 0] = 1
            product = multiply(product, factor)
        return significant(product, problems.negative.sum(1) % 2 == 1)

    def answer_widths(self, problems: Problems) -> Ints:
        widths: Ints = problems.lengths.sum(1)
        return widths

    def carries(self, problems: Problems) -> tuple[Ints, Ints, Ints]:
        longer, shorter = by_length(problems)
        carries, zero = column_products(longer, shorter[:, 0])[1], np.zeros(len(problems), np.int64)
        # of more factors, and of longer ones, there are several such products: none of them is the carry
        one_digit = (lengths_of(shorter) == 1) & (problems.num_operands == 2)
        most = np.where(one_digit, np.maximum(shorter[:, 0].astype(np.int64) - 1, 0), 0)
        return carries * one_digit[:, None], zero, most

    def carry_lengths(self, problems: Problems) -> Ints:
        """Of carries that meet a digit to be multiplied, when the longer of the first two operands is multiplied by
        the other's units."""
        longer, shorter = by_length(problems)
        return longest_run(column_products(longer, shorter[:, 0])[1][:, 1:])

    def misfits(self, problems: Problems) -> Bools:
        wrong = super().misfits(problems)
        # the product has to be a number, too
        wrong[:, ::2] |= np.cumsum(problems.lengths, 1) > MAX_DIGITS
        return wrong


def by_length(problems: Problems) -> tuple[Digits, Digits]:
    """Of the first two operands the one with more digits and the other one, both [N, D]."""
    left, right = problems.operands[:, 0], problems.operands[:, 1]
    swap = problems.lengths[:, 1] > problems.lengths[:, 0]
    return select(swap, right, left), select(swap, left, right)
