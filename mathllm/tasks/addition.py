"""Addition of two or more operands."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import (
    Digits,
    Ints,
    Numbers,
    add,
    column_sums,
    longest_run,
    random_digits,
    significant,
)
from mathllm.tasks.sampling import (
    MAX_OPERANDS,
    SAMPLINGS,
    Sampling,
    draw_carry_stress,
    draw_operands,
    draw_sums,
)
from mathllm.tokenizer import PLUS


class Addition:
    name = "addition"
    symbol = "+"
    operator: tuple[int, ...] = (PLUS,)
    commutative = True
    max_operands = MAX_OPERANDS
    signed = False
    samplings = SAMPLINGS
    factor_digits = 0

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Digits:
        if method == "balanced":
            return draw_sums(rng, counts, how.max_digits)
        return draw_operands(rng, counts, method, how.max_digits)

    def of_length(self, rng: np.random.Generator, n: int, operands: int, digits: int, stress: bool) -> Digits:
        if stress:
            return draw_carry_stress(rng, n, operands, digits)
        return random_digits(rng, np.full((n, operands), digits), digits)

    def answer(self, problems: Problems) -> Numbers:
        return significant(add(problems.operands))

    def answer_widths(self, problems: Problems) -> Ints:
        operands, widths = problems.num_operands, problems.widths
        # a hundred operands at most: from two digits on, that many nines carry one less than they are
        carries = np.where(widths == 1, operands * 9 // 10, operands - 1)
        extra: Ints = np.where(carries > 9, 2, 1)
        return widths + extra

    def chain_lengths(self, problems: Problems) -> Ints:
        return longest_run(column_sums(problems.operands)[1][:, 1:])

    def extreme(self, max_digits: int, max_operands: int, signed: bool) -> Digits:
        return np.full((1, max_operands, max_digits), 9, np.uint8)
