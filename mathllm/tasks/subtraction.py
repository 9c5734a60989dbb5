"""Subtraction of two operands: the first is the larger one, unless signed results are asked for."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems, Sampling, draw_chains, draw_operands, select
from mathllm.tasks.numbers import (
    Bools,
    Digits,
    Ints,
    Numbers,
    add,
    column_differences,
    compare,
    longest_run,
    significant,
)
from mathllm.tokenizer import MINUS


class Subtraction:
    name = "subtraction"
    symbol = "-"
    operator: tuple[int, ...] = (MINUS,)
    commutative = False
    max_operands = 2

    def sample(self, rng: np.random.Generator, n: int, how: Sampling) -> Digits:
        operands = draw_operands(rng, n, 2, how)
        if how.method == "balanced":
            # a - b = c borrows exactly where b + c = a carries
            parts = draw_chains(rng, n, how.max_digits, overflow=False)
            total = add(parts)[:, : how.max_digits]
            chains = np.stack([total, parts[:, 0]], axis=1)
            operands = select(rng.random(n) < 1 / 3, chains, operands)
        if how.signed:
            flip = rng.random(n) < 0.5
        else:
            flip = compare(operands[:, 0], operands[:, 1]) < 0
        return select(flip, operands[:, ::-1], operands)

    def answer(self, problems: Problems) -> Numbers:
        larger, smaller, negative = by_size(problems)
        differences, _ = column_differences(larger, smaller)
        return significant((differences % 10).astype(np.uint8), negative)

    def answer_widths(self, problems: Problems) -> Ints:
        return problems.widths

    def chain_lengths(self, problems: Problems) -> Ints:
        larger, smaller, _ = by_size(problems)
        return longest_run(column_differences(larger, smaller)[1][:, 1:])

    def extremes(self, max_digits: int, max_operands: int, signed: bool) -> list[str]:
        rest = max_digits - 1
        larger, smaller = "9" + "0" * rest, ("1" + "9" * rest if rest else "1")
        return [f"{smaller}-{larger}" if signed else f"{larger}-{smaller}"]


def by_size(problems: Problems) -> tuple[Digits, Digits, Bools]:
    """The larger and the smaller operand [N, D] of each row, and whether the result is negative [N]."""
    left, right = problems.operands[:, 0], problems.operands[:, 1]
    negative = compare(left, right) < 0
    return select(negative, right, left), select(negative, left, right), negative
