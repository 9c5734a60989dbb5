"""Exact arithmetic on arrays of digits: least significant digit first, zeros beyond a number's length.

N numbers, or K operands each, of up to D digits. Loops run over digit places, never over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Numbers:
    """N integers: digits uint8 [N, D], lengths [N] (0 has length 1), negative [N]."""

    digits: Digits
    lengths: Ints
    negative: Bools

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Any) -> Numbers:
        return Numbers(self.digits[rows], self.lengths[rows], self.negative[rows])

    def same(self, other: Numbers) -> Bools:
        """Row by row: is it the same integer?"""
        width = max(self.digits.shape[1], other.digits.shape[1])
        equal: Bools = (widen(self.digits, width) == widen(other.digits, width)).all(1)
        equal &= self.negative == other.negative
        return equal

    def to_ints(self) -> list[int]:
        """Python integers, one a row (for messages and tests: slow)."""
        texts = ("".join(map(str, row[:n][::-1])) for row, n in zip(self.digits, self.lengths, strict=True))
        return [-int(t) if neg else int(t) for t, neg in zip(texts, self.negative, strict=True)]


def significant(digits: Digits, negative: Bools | None = None) -> Numbers:
    """Numbers of the digits' values: lengths without leading zeros, and zero is never negative."""
    lengths = lengths_of(digits)
    if negative is None:
        negative = np.zeros(len(digits), np.bool_)
    nonzero: Bools = np.any(digits, axis=-1)
    return Numbers(digits, lengths, negative & nonzero)


def lengths_of(digits: Digits) -> Ints:
    """Number of significant digits [...] of digits [..., D]; zero has one."""
    from_the_top = digits[..., ::-1] != 0
    lengths: Ints = np.where(from_the_top.any(-1), digits.shape[-1] - from_the_top.argmax(-1), 1)
    return lengths


def widen(digits: Digits, width: int) -> Digits:
    """The same numbers with room for `width` digits (never cuts)."""
    missing = width - digits.shape[-1]
    if missing <= 0:
        return digits
    return np.concatenate([digits, np.zeros((*digits.shape[:-1], missing), np.uint8)], axis=-1)


def column_sums(operands: Digits) -> tuple[Ints, Ints]:
    """School addition of operands [N, K, D], column by column.

    Returns totals [N, D] (each column's digits plus the carry into it) and carries [N, D + 1] (into each
    column; the last one is what is left over after the top column, possibly of several digits).
    """
    totals = operands.sum(1, dtype=np.int64)
    carries = np.zeros((len(totals), totals.shape[1] + 1), np.int64)
    for place in range(totals.shape[1]):
        totals[:, place] += carries[:, place]
        carries[:, place + 1] = totals[:, place] // 10
    return totals, carries


def add(operands: Digits) -> Digits:
    """Sums of operands [N, K, D] as digits [N, D + extra], wide enough for any K operands."""
    totals, carries = column_sums(operands)
    extra = carry_digits(operands.shape[1])
    rest = carries[:, -1:] // 10 ** np.arange(extra)
    result: Digits = np.concatenate([totals % 10, rest % 10], axis=1).astype(np.uint8)
    return result


def carry_digits(operands: int) -> int:
    """How many digits a sum of that many operands can have beyond its longest operand."""
    return len(str(max(operands - 1, 1)))


def column_differences(larger: Digits, smaller: Digits) -> tuple[Ints, Ints]:
    """School subtraction of [N, D] digits, column by column.

    Returns differences [N, D] (digit minus digit minus the borrow, from -10 to 9) and borrows [N, D + 1]
    (taken from each column by its lower neighbour; the last one is 0 where larger >= smaller).
    """
    differences = larger.astype(np.int64) - smaller
    borrows = np.zeros((len(larger), larger.shape[1] + 1), np.int64)
    for place in range(larger.shape[1]):
        differences[:, place] -= borrows[:, place]
        borrows[:, place + 1] = differences[:, place] < 0
    return differences, borrows


def column_products(digits: Digits, factors: Digits) -> tuple[Ints, Ints]:
    """School multiplication of [N, D] digits by one-digit factors [N], column by column.

    Returns totals [N, D] (digit times factor plus the carry into the column) and carries [N, D + 1] (into each
    column; the last one is what is left over)."""
    totals = digits.astype(np.int64) * factors[:, None]
    carries = np.zeros((len(totals), totals.shape[1] + 1), np.int64)
    for place in range(totals.shape[1]):
        totals[:, place] += carries[:, place]
        carries[:, place + 1] = totals[:, place] // 10
    return totals, carries


def multiply(left: Digits, right: Digits) -> Digits:
    """Products of [N, D] and [N, E] digits as digits [N, D + E]: a column's total fits 64 bits at any length."""
    right = right[:, : int(lengths_of(right).max(initial=1))]
    product = np.zeros((len(left), left.shape[1] + right.shape[1]), np.int64)
    for place in range(right.shape[1]):
        product[:, place : place + left.shape[1]] += left * right[:, place, None].astype(np.int64)
    for place in range(product.shape[1] - 1):
        product[:, place + 1] += product[:, place] // 10
        product[:, place] %= 10
    return product.astype(np.uint8)


def divide(left: Digits, right: Digits) -> tuple[Digits, Digits]:
    """Quotients [N, D] and remainders [N, E] of [N, D] digits by [N, E] digits, none of which are zero: long division,
    whose digits are found by subtracting 8, 4, 2 and 1 times the divisor where there is room for it."""
    width = int(lengths_of(right).max(initial=1)) + 1
    once = widen(right, width)[:, :width]
    multiples = [multiply(once, np.full((len(right), 1), k, np.uint8))[:, :width] for k in (8, 4, 2, 1)]
    quotient, rest = np.zeros(left.shape, np.uint8), np.zeros(once.shape, np.uint8)
    for place in reversed(range(left.shape[1])):
        rest = np.concatenate([left[:, place, None], rest[:, :-1]], axis=1)
        for times, multiple in zip((8, 4, 2, 1), multiples, strict=True):
            less, borrowed = _difference(rest, multiple)
            rest = np.where(borrowed[:, None], rest, less)
            quotient[:, place] += np.where(borrowed, np.uint8(0), np.uint8(times))
    return quotient, widen(rest, right.shape[1])[:, : right.shape[1]]


def _difference(left: Digits, right: Digits) -> tuple[Digits, Bools]:
    """left - right [N, D], and where [N] that is below zero (and the digits are those of 10**D more)."""
    difference = left.astype(np.int8) - right.astype(np.int8)
    # a place borrows where the next one below it that is not 0 is less than 0
    mark = 2 * np.arange(1, left.shape[1] + 1) + (difference < 0)
    borrows = np.maximum.accumulate(mark * (difference != 0), axis=1) & 1
    difference[:, 1:] -= borrows[:, :-1].astype(np.int8)
    return (difference % 10).astype(np.uint8), borrows[:, -1] == 1


def compare(left: Digits, right: Digits) -> Ints:
    """-1, 0 or 1 [N]: how left [N, D] stands to right [N, D]."""
    difference = np.sign(left.astype(np.int8) - right.astype(np.int8))[:, ::-1]
    first = (difference != 0).argmax(1)
    result: Ints = difference[np.arange(len(left)), first].astype(np.int64)
    return result


def longest_run(flags: NDArray[Any]) -> Ints:
    """The longest run of true values in each row of [N, D], of carries for example."""
    current = np.zeros(len(flags), np.int64)
    best = current.copy()
    for place in range(flags.shape[1]):
        current = (current + 1) * (flags[:, place] != 0)
        np.maximum(best, current, out=best)
    return best


def random_digits(rng: np.random.Generator, lengths: Ints, width: int) -> Digits:
    """Uniform numbers of exactly the given lengths [...], as digits [..., width]; one digit may be 0."""
    digits = rng.integers(0, 10, (*lengths.shape, width), dtype=np.uint8)
    digits *= np.arange(width) < lengths[..., None]
    top = rng.integers(1, 10, lengths.shape, dtype=np.uint8)
    first = np.take_along_axis(digits, lengths[..., None] - 1, -1)
    first = np.where(lengths[..., None] > 1, top[..., None], first)
    np.put_along_axis(digits, lengths[..., None] - 1, first, -1)
    return digits
