"""Whole expressions: `2+3*4-17%5` in natural numbers, *, / and % before + and -, from left to right within each.

/ is the integer quotient. Only differences, and what is added to them, may be below zero, so no product or quotient
ever has a sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathllm.errors import UsageError
from mathllm.limits import MAX_DIGITS
from mathllm.tasks.base import Problems, Task, select, zero_divisors
from mathllm.tasks.numbers import (
    Bools,
    Digits,
    Ints,
    Numbers,
    add,
    column_differences,
    compare,
    divide,
    lengths_of,
    multiply,
    random_digits,
    significant,
    widen,
)
from mathllm.tasks.sampling import Sampling, draw_operands, draw_patterns
from mathllm.tokenizer import ADD, DIVIDE, MULTIPLY, OPERATORS, REMAINDER, SUBTRACT


class Arithmetic(Task):
    name, code = "arithmetic", 6
    operator = ADD
    example = "2+3*4"
    max_operands = most_numbers = 6
    rule = f"an expression has 2 to {most_numbers} numbers, together of at most {MAX_DIGITS:,} digits"
    general = True
    stress = "telling digits"

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        shape, how = (len(counts), int(counts.max(initial=2))), how.of_expressions
        if method != "balanced":
            return self._drawn(rng, draw_operands(rng, counts, method, how.max_digits), counts)
        operands = draw_patterns(rng, rng.integers(1, how.max_digits + 1, shape), how.max_digits)
        # a third are sums and differences that go below zero on the way, a third sums alone: both are rare by chance
        kind = rng.integers(0, 3, (shape[0], 1))
        low = rng.integers(ADD, SUBTRACT + 1, (shape[0], shape[1] - 1))
        low[:, 0] = SUBTRACT
        operands[kind[:, 0] == 0, 0, 1:] = 0
        return self._drawn(rng, operands, counts, np.select([kind == 0, kind == 1], [low, ADD], 0))

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

    def unseen(self, problems: Problems, size: Sampling) -> list[tuple[str, Bools]]:
        return super().unseen(problems, size.of_expressions)

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


@dataclass(frozen=True)
class Order:
    """The operations of N expressions in the order in which they are worked out: the operators [N, K - 1] (0: no
    more), and which numbers each takes on its left and on its right [N, K - 1]. Of these 0 to K - 1 are the operands,
    and K + i is the result of operation i, counted from 0."""

    operators: Digits
    left: Ints
    right: Ints


@dataclass(frozen=True)
class Reduction(Order):
    """The same with the result of every operation: digits [N, K - 1, W], lengths and signs [N, K - 1]. Only the left
    number of + and - is ever below zero."""

    results: Numbers


def in_order(problems: Problems) -> Order:
    """First all products, quotients and remainders from left to right, then all sums and differences."""
    n, gaps = problems.operators.shape
    rows, gap = np.arange(n), np.arange(gaps)
    low = (problems.operators == ADD) | (problems.operators == SUBTRACT)
    absent = problems.operators == 0
    order = np.argsort(gap + gaps * low + 2 * gaps * absent, axis=1)
    # the last operand [N, K] of the term that each operand is in, and the number that it now stands for
    end = np.zeros((n, gaps + 1), np.int64) + np.arange(gaps + 1)
    for k in reversed(range(gaps)):
        end[:, k] = np.where(low[:, k] | absent[:, k], k, end[:, k + 1])
    holds = np.zeros_like(end) + np.arange(gaps + 1)
    operators = np.take_along_axis(problems.operators, order, 1)
    left, right = np.zeros((2, n, gaps), np.int64)
    for step in range(gaps):
        place, some = order[:, step], operators[:, step] > 0
        last = np.where(low[rows, place], end[rows, place + 1], place + 1)
        left[:, step], right[:, step] = holds[rows, place] * some, holds[rows, last] * some
        holds[rows[some], last[some]] = gaps + 1 + step
    return Order(operators, left, right)


def turns(operators: Digits) -> Ints:
    """When each operator [N, K - 1] is worked out, counted from 1; 0 where there is none."""
    high, low = operators >= MULTIPLY, (operators == ADD) | (operators == SUBTRACT)
    first, then = np.cumsum(high, 1), np.cumsum(low, 1)
    result: Ints = first * high + (first[:, -1:] + then) * low
    return result


def reduced(problems: Problems) -> Reduction:
    """Expressions worked out operation by operation."""
    order, (n, operands, _) = in_order(problems), problems.operands.shape
    # as wide as any product; a sum is no wider than its two numbers together
    width = int(problems.lengths.sum(1).max(initial=1))
    digits = np.zeros((n, 2 * operands - 1, width), np.uint8)
    digits[:, :operands, : problems.operands.shape[2]] = problems.operands[..., :width]
    negative = np.zeros(digits.shape[:2], np.bool_)
    for step in range(operands - 1):
        for code in np.unique(order.operators[:, step]).tolist():
            rows = np.flatnonzero(order.operators[:, step] == code)
            if code:
                left, right = order.left[rows, step], order.right[rows, step]
                made = _worked_out(code, digits[rows, left], negative[rows, left], digits[rows, right])
                digits[rows, operands + step], negative[rows, operands + step] = made
    results = digits[:, operands:]
    return Reduction(
        order.operators,
        order.left,
        order.right,
        Numbers(results, lengths_of(results), negative[:, operands:]),
    )


def _worked_out(code: int, left: Digits, negative: Bools, right: Digits) -> tuple[Digits, Bools]:
    """The results of one operation [N, W] and whether they are below zero [N]; `negative` [N] says it of the left
    numbers."""
    width, positive = left.shape[1], np.zeros(len(left), np.bool_)
    if code == MULTIPLY:
        return multiply(left, right)[:, :width], positive
    if code in (DIVIDE, REMAINDER):
        return divide(left, right)[code == REMAINDER], positive
    apart = negative != (code == SUBTRACT)  # is the smaller number taken from the larger one?
    swap = apart & (compare(left, right) < 0)
    larger, smaller = select(swap, right, left), select(swap, left, right)
    difference = (column_differences(larger, smaller)[0] % 10).astype(np.uint8)
    result = significant(
        select(apart, difference, add(np.stack([left, right], axis=1))[:, :width]), negative != swap
    )
    return result.digits, result.negative
