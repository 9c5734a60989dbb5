"""Multiplication of two numbers. The second one has a single digit where problems are drawn."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems, select
from mathllm.tasks.numbers import (
    Digits,
    Ints,
    Numbers,
    column_products,
    longest_run,
    multiply,
    random_digits,
    significant,
)
from mathllm.tasks.sampling import SAMPLINGS, Sampling, draw_operands, draw_product_stress, draw_products
from mathllm.tokenizer import PLUS


class Multiplication:
    name = "multiplication"
    symbol = "*"
    operator: tuple[int, ...] = (PLUS, PLUS)  # repeated addition
    commutative = True
    max_operands = 2
    signed = False
    samplings = SAMPLINGS
    factor_digits = 1

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Digits:
        if method == "balanced":
            return draw_products(rng, len(counts), how.max_digits)
        operands = draw_operands(rng, counts, method, how.max_digits)
        operands[:, 1, 1:] = 0
        operands[:, 1, 0] = rng.integers(0, 10, len(counts))
        return operands

    def of_length(self, rng: np.random.Generator, n: int, operands: int, digits: int, stress: bool) -> Digits:
        if stress:
            return draw_product_stress(rng, n, digits)
        lengths = np.repeat([[digits, 1]], n, axis=0)
        return random_digits(rng, lengths, digits)

    def answer(self, problems: Problems) -> Numbers:
        return significant(multiply(problems.operands[:, 0], problems.operands[:, 1]))

    def answer_widths(self, problems: Problems) -> Ints:
        widths: Ints = problems.lengths.sum(1)
        return widths

    def chain_lengths(self, problems: Problems) -> Ints:
        """Of carries that meet a digit to be multiplied, when the longer operand is multiplied by the other's units."""
        longer, shorter = by_length(problems)
        return longest_run(column_products(longer, shorter[:, 0])[1][:, 1:])

    def extreme(self, max_digits: int, max_operands: int, signed: bool) -> Digits:
        operands = np.zeros((1, 2, max_digits), np.uint8)
        operands[0, 0], operands[0, 1, 0] = 9, 9
        return operands


def by_length(problems: Problems) -> tuple[Digits, Digits]:
    """The operand with more digits and the other one, both [N, D]."""
    left, right = problems.operands[:, 0], problems.operands[:, 1]
    swap = problems.lengths[:, 1] > problems.lengths[:, 0]
    return select(swap, right, left), select(swap, left, right)
