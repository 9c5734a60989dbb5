"""Whole expressions: `2+3*4-17%5` in natural numbers, *, / and % before + and -, from left to right within each.

/ is the integer quotient. Only differences, and what is added to them, may be below zero, so no product or quotient
ever has a sign."""

from __future__ import annotations

import numpy as np

from mathllm.errors import UsageError
from mathllm.limits import MAX_DIGITS
from mathllm.tasks.base import Problems, Task, zero_divisors
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, random_digits, significant, widen
from mathllm.tasks.order import in_order, reduced
from mathllm.tasks.sampling import Sampling, draw_operands, draw_patterns
from mathllm.tokenizer import ADD, DIVIDE, MULTIPLY, OPERATORS, REMAINDER, SUBTRACT


class Arithmetic(Task):
    name, code = "arithmetic", 6
    operator = ADD
    example = "2+3*4"
    max_operands = most_numbers = 6
    rule = f"an expression has 2 to {most_numbers} numbers, together of at most {MAX_DIGITS:,} digits"
    general = True
    stress = "nines, zeros and ones"

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        shape, how = (len(counts), int(counts.max(initial=2))), how.of_expressions
        if method != "balanced":
            return self._drawn(rng, draw_operands(rng, counts, method, how.max_digits), counts)
        # a quarter each is of what is rare by chance: going below zero on the way, sums alone, long products divided
        kind, gaps = rng.integers(0, 4, (shape[0], 1)), shape[1] - 1
        below = rng.integers(ADD, SUBTRACT + 1, (shape[0], gaps))
        below[:, 0] = SUBTRACT
        divided = np.arange(gaps) == np.maximum(counts[:, None] - 2 - rng.integers(0, 2, kind.shape), 0)
        products = np.where(divided, DIVIDE, MULTIPLY)
        lengths = rng.integers(1, how.max_digits + 1, shape)
        lengths[(kind == 2) & ~np.pad(divided, ((0, 0), (1, 0)))] = how.max_digits
        operands = draw_patterns(rng, lengths, how.max_digits)
        operands[kind[:, 0] == 0, 0, 1:] = 0
        given = np.select([kind == 0, kind == 1, kind == 2], [below, ADD, products], 0)
        return self._drawn(rng, operands, counts, given)

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        lengths = np.full((n, self.most_operands(size)), size.max_digits)
        operands = (draw_patterns if stress else random_digits)(rng, lengths, size.max_digits)
        return self._drawn(rng, operands, np.full(n, lengths.shape[1]))

    def _drawn(
        self, rng: np.random.Generator, operands: Digits, counts: Ints, given: Ints | int = 0
    ) -> Problems:
        """Problems with any operators between these operands [N, K, D], of which row i has counts[i], but for those
        that are `given` [N, K - 1]."""
        shape = operands.shape[0], operands.shape[1] - 1
        present = np.arange(1, operands.shape[1]) < counts[:, None]
        drawn = rng.integers(1, 1 + len(OPERATORS), shape)
        operators = (np.where(given, given, drawn) * present).astype(np.uint8)
        problems = self.problems(operands, counts, operators)
        zero = zero_divisors(problems)
        problems.operands[:, 1:, 0][zero] = rng.integers(1, 10, int(zero.sum()))
        return problems

    def extreme(self, size: Sampling) -> Problems:
        operands = np.full((1, self.most_operands(size), self.digits_of(0, size)), 9, np.uint8)
        return self.problems(operands, operators=np.full((1, operands.shape[1] - 1), MULTIPLY, np.uint8))

    def answer(self, problems: Problems) -> Numbers:
        return reduced(problems).results[np.arange(len(problems)), problems.num_operands - 2]

    def answer_widths(self, problems: Problems) -> Ints:
        order, rows = in_order(problems), np.arange(len(problems))
        widths = np.pad(problems.lengths, ((0, 0), (0, problems.operators.shape[1])))
        for step, operator in enumerate(order.operators.T):
            left, right = widths[rows, order.left[:, step]], widths[rows, order.right[:, step]]
            kinds = [operator == code for code in (MULTIPLY, DIVIDE, REMAINDER)]
            made = [left + right, np.maximum(left - right + 1, 1), np.minimum(left, right)]
            widths[:, problems.operands.shape[1] + step] = np.select(kinds, made, np.maximum(left, right) + 1)
        total: Ints = widths[rows, problems.operands.shape[1] + problems.num_operands - 2]
        return total

    def bounds(self, problems: Problems) -> tuple[Numbers, ...]:
        """What has more digits than any answer; below zero only where something is subtracted."""
        widths = self.answer_widths(problems)
        most = np.where(np.arange(widths.max(initial=1)) < widths[:, None], 9, 0).astype(np.uint8)
        subtracts = (problems.operators == SUBTRACT).any(1)
        return significant(most * subtracts[:, None], subtracts), significant(most)

    def digits_of(self, operand: int, size: Sampling) -> int:
        return size.of_expressions.max_digits

    def most_operands(self, size: Sampling) -> int:
        return super().most_operands(size.of_expressions)

    @property
    def such(self) -> str:
        return "a whole expression"

    def unseen(self, problems: Problems, size: Sampling) -> list[tuple[str, Bools]]:
        found = super().unseen(problems, size.of_expressions)
        return [(f"{self.such} with {what}", rows) for what, rows in found]

    def check_pairs(self) -> None:
        raise UsageError(
            "whole expressions are more than pairs of operands", "mathllm eval --digits 2 --operands 4"
        )

    def identity(self, problems: Problems) -> tuple[Digits, Bools]:
        """Its numbers, and its operators as one more."""
        operators = problems.operators[:, None]
        width = max(problems.operands.shape[2], operators.shape[2])
        numbers = np.concatenate([widen(operators, width), widen(problems.operands, width)], axis=1)
        return numbers, np.pad(problems.lengths > 0, ((0, 0), (1, 0)), constant_values=True)

    def misfits(self, problems: Problems) -> Bools:
        wrong = np.zeros((len(problems), 2 * problems.operands.shape[1] - 1), np.bool_)
        wrong[:, 2::2] = zero_divisors(problems)
        wrong[:, ::2] |= problems.negative
        wrong[:, ::2] |= (np.cumsum(problems.lengths, 1) > MAX_DIGITS) & (problems.lengths > 0)
        wrong[:, 2 * self.most_numbers - 1 :: 2] |= problems.operators[:, self.most_numbers - 1 :] > 0
        return wrong
