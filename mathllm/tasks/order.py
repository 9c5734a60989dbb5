"""The order of operations: which of an expression's is worked out when, on which numbers, and what each makes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathllm.tasks.base import Problems, select
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
    significant,
)
from mathllm.tokenizer import ADD, DIVIDE, MULTIPLY, REMAINDER, SUBTRACT


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
