"""Expressions of several operations, worked out one operation at a time: products, quotients and remainders from left
to right, then sums and differences from left to right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import (
    Digits,
    Ints,
    Numbers,
    add,
    column_differences,
    compare,
    divide,
    multiply,
    significant,
    widen,
)
from mathllm.tokenizer import ADD, DIVIDE, MULTIPLY, REMAINDER, SUBTRACT


@dataclass(frozen=True)
class Reduction:
    """The operations of N expressions of up to K numbers in their order: `operators` [N, K - 1] (0: none), and the
    numbers that each takes, `left` and `right` [N, K - 1]: from 0 those of the expression, from K on the results of the
    operations. Only what is on the left may be negative."""

    operators: Ints
    left: Ints
    right: Ints
    results: list[Numbers]  # [N] of each operation; 0 where there is none


def order_of(operators: Digits) -> Ints:
    """When each operator [N, K - 1] has its turn, from 1; 0 where there is none."""
    tighter, looser = operators > SUBTRACT, (operators == ADD) | (operators == SUBTRACT)
    first, second = np.cumsum(tighter, 1), np.cumsum(looser, 1)
    order: Ints = first * tighter + (first[:, -1:] + second) * looser
    return order


def reduction(problems: Problems) -> Reduction:
    """How expressions are worked out, and what comes of each operation."""
    n, k = problems.lengths.shape
    order, row = order_of(problems.operators), np.arange(n)
    operators, left, right = np.zeros((3, n, k - 1), np.int64)
    stands = np.tile(np.arange(k), (n, 1))  # which number stands where one of the expression stood
    no = np.zeros(n, np.bool_)
    numbers = [Numbers(problems.operands[:, i], problems.lengths[:, i], no) for i in range(k)]
    for step in range(k - 1):
        turn = order == step + 1
        here = turn.argmax(1)
        operators[:, step] = np.where(turn.any(1), problems.operators[row, here], 0)
        a, b = stands[row, here], stands[row, here + 1]
        left[:, step], right[:, step] = a, b
        merged = turn.any(1)[:, None] & ((stands == a[:, None]) | (stands == b[:, None]))
        stands = np.where(merged, k + step, stands)
        numbers.append(operate(operators[:, step], pick(numbers, a), pick(numbers, b)))
    return Reduction(operators, left, right, numbers[k:])


def pick(numbers: list[Numbers], which: Ints) -> Numbers:
    """Of several numbers a row the one [N] that is asked for."""
    width = max(number.digits.shape[1] for number in numbers)
    digits = np.zeros((len(which), width), np.uint8)
    lengths, negative = np.ones(len(which), np.int64), np.zeros(len(which), np.bool_)
    for i, number in enumerate(numbers):
        rows = which == i
        digits[rows, : number.digits.shape[1]] = number.digits[rows]
        lengths[rows], negative[rows] = number.lengths[rows], number.negative[rows]
    return Numbers(digits, lengths, negative)


def operate(operators: Ints, left: Numbers, right: Numbers) -> Numbers:
    """The results [N] of operations on two numbers, of which the right one is not negative, and the left one only in
    sums and differences. Where there is no operator it is 0."""
    width = max(left.digits.shape[1], right.digits.shape[1])
    a, b = widen(left.digits, width), widen(right.digits, width)
    results = np.zeros((len(operators), 2 * width + 1), np.uint8)
    negative = np.zeros(len(operators), np.bool_)

    def fill(rows: np.ndarray, digits: Digits) -> None:
        results[np.flatnonzero(rows)[:, None], np.arange(min(digits.shape[1], 2 * width + 1))] = digits

    product, quotient = operators == MULTIPLY, (operators == DIVIDE) | (operators == REMAINDER)
    if product.any():
        fill(product, multiply(a[product], b[product]))
    if quotient.any():
        whole, rest = divide(a[quotient], b[quotient])
        chosen = np.where((operators[quotient] == DIVIDE)[:, None], widen(whole, width), widen(rest, width))
        fill(quotient, chosen)
    additive = (operators == ADD) | (operators == SUBTRACT)
    together = additive & ((operators == SUBTRACT) == left.negative)
    if together.any():
        fill(together, add(np.stack([a[together], b[together]], axis=1)))
    apart = additive & ~together
    if apart.any():
        smaller = compare(a[apart], b[apart])[:, None] < 0
        larger, less = np.where(smaller, b[apart], a[apart]), np.where(smaller, a[apart], b[apart])
        fill(apart, (column_differences(larger, less)[0] % 10).astype(np.uint8))
        negative[apart] = left.negative[apart] != smaller[:, 0]
    negative[together] = left.negative[together]
    return significant(results, negative)
