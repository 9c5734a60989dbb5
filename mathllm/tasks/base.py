"""What a problem is, what every task must be able to do, and how operands are drawn.

A problem is operands and an operation, held as arrays of digits; how it is written down is a format's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mathllm.errors import UsageError, unknown_choice
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, lengths_of, random_digits, widen

SAMPLINGS = ("digits", "uniform", "balanced")
MAX_OPERANDS = 100  # a carry has at most two digits then; nothing else depends on it


@dataclass(frozen=True)
class Problems:
    """N problems: operands uint8 [N, K, D] (least significant digit first), lengths [N, K] (0: no such
    operand), and task uint8 [N], the position of each row's task in the registry."""

    operands: Digits
    lengths: Ints
    task: Digits

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, rows: Any) -> Problems:
        return Problems(self.operands[rows], self.lengths[rows], self.task[rows])

    @property
    def num_operands(self) -> Ints:
        count: Ints = (self.lengths > 0).sum(1)
        return count

    @property
    def widths(self) -> Ints:
        """Digits of each row's longest operand [N]."""
        longest: Ints = self.lengths.max(1)
        return longest


def make_problems(operands: Digits, task: int, num_operands: Ints | None = None) -> Problems:
    """Problems of one task from operands [N, K, D]; operands past a row's `num_operands` are taken out."""
    lengths = lengths_of(operands)
    if num_operands is not None:
        present = np.arange(operands.shape[1]) < num_operands[:, None]
        lengths = lengths * present
        operands = operands * present[..., None]
    return Problems(operands, lengths, np.full(len(operands), task, np.uint8))


def concatenate(parts: Sequence[Problems]) -> Problems:
    """One batch of several; operands and digits are widened to the largest."""
    operands = max(part.operands.shape[1] for part in parts)
    width = max(part.operands.shape[2] for part in parts)
    digits, lengths = [], []
    for part in parts:
        absent = operands - part.operands.shape[1]
        digits.append(np.pad(widen(part.operands, width), ((0, 0), (0, absent), (0, 0))))
        lengths.append(np.pad(part.lengths, ((0, 0), (0, absent))))
    return Problems(np.concatenate(digits), np.concatenate(lengths), np.concatenate([p.task for p in parts]))


@dataclass(frozen=True)
class Sampling:
    """How operands are drawn.

    `digits`: every operand's number of digits is uniform from 1 to max_digits (the default);
    `uniform`: operands are uniform from 0 to 10**max_digits - 1;
    `balanced`: a third each as `digits`, as `uniform`, and built so that the longest chain of carries (or
    borrows) is spread evenly: neither large numbers, nor small ones, nor 99+1 and 100-99 are rare.
    """

    max_digits: int = 3
    max_operands: int = 2
    method: str = "digits"
    signed: bool = False

    def __post_init__(self) -> None:
        if self.method not in SAMPLINGS:
            raise unknown_choice("sampling", self.method, SAMPLINGS)
        if self.max_digits < 1:
            raise UsageError(f"max_digits must be at least 1, not {self.max_digits}")
        if not 2 <= self.max_operands <= MAX_OPERANDS:
            raise UsageError(f"max_operands must be from 2 to {MAX_OPERANDS}, not {self.max_operands}")


class Task(Protocol):
    """One operation. `symbol` is what a person types, `operator` the token ids that stand for it."""

    name: str
    symbol: str
    operator: tuple[int, ...]
    commutative: bool
    max_operands: int

    def sample(self, rng: np.random.Generator, n: int, how: Sampling) -> Digits:
        """Operands [n, K, D]; rows with fewer operands are cut by the caller."""

    def answer(self, problems: Problems) -> Numbers:
        """The exact results of problems of this task."""

    def answer_widths(self, problems: Problems) -> Ints:
        """Digits [N] that hold any answer to operands of these widths: what zero-padding pads to."""

    def chain_lengths(self, problems: Problems) -> Ints:
        """The longest chain [N] of carries or borrows."""

    def extremes(self, max_digits: int, max_operands: int, signed: bool) -> list[str]:
        """Expressions among which some is the longest text of this task, in any format."""


def draw_operands(rng: np.random.Generator, n: int, operands: int, how: Sampling) -> Digits:
    """Operands [n, operands, max_digits], uniform in number of digits, or in value, or half of them in each.

    The last is for `balanced`, of which the caller makes the other third: see draw_chains.
    """
    shape = (n, operands, how.max_digits)
    if how.method == "uniform":
        return rng.integers(0, 10, shape, dtype=np.uint8)
    by_digits = random_digits(rng, rng.integers(1, how.max_digits + 1, shape[:2]), how.max_digits)
    if how.method == "digits":
        return by_digits
    return select(rng.random(n) < 0.5, rng.integers(0, 10, shape, dtype=np.uint8), by_digits)


# what a digit may be in one column: 0 beyond the number, 1..9 on top of a long one, else anything
_ABSENT, _TOP, _FREE = range(3)
_ALLOWED = {_ABSENT: range(1), _TOP: range(1, 10), _FREE: range(10)}


def _pair_tables() -> tuple[Digits, Ints]:
    """All digit pairs [3, 3, 2, 2, 100, 2] (and their counts) by kinds of digit, carry in and carry out."""
    pairs = np.zeros((3, 3, 2, 2, 100, 2), np.uint8)
    counts = np.zeros((3, 3, 2, 2), np.int64)
    for left, right, carry_in in np.ndindex(3, 3, 2):
        for a in _ALLOWED[left]:
            for b in _ALLOWED[right]:
                key = (left, right, carry_in, int(a + b + carry_in > 9))
                pairs[(*key, counts[key])] = a, b
                counts[key] += 1
    return pairs, counts


_PAIRS, _COUNTS = _pair_tables()


def draw_chains(rng: np.random.Generator, n: int, max_digits: int, overflow: bool) -> Digits:
    """Pairs of numbers [n, 2, max_digits] whose longest chain of carries in a + b is spread evenly.

    Each row gets a chain of random length at a random place and no carry elsewhere; a chain that the operands
    are too short for is cut. Without `overflow` the sum has at most max_digits digits.
    """
    lengths = rng.integers(1, max_digits + 1, (n, 2))
    longest = lengths.max(1)
    chain = rng.integers(0, longest + 1)
    start = rng.integers(0, longest - chain + 1)
    digits = np.zeros((n, 2, max_digits), np.uint8)
    carry = np.zeros(n, np.int64)
    for place in range(max_digits):
        top = (lengths == place + 1) & (lengths > 1)
        kind = np.where(place >= lengths, _ABSENT, np.where(top, _TOP, _FREE))
        wanted = ((place >= start) & (place < start + chain)).astype(np.int64)
        if place == max_digits - 1 and not overflow:
            wanted[:] = 0
        possible = _COUNTS[kind[:, 0], kind[:, 1], carry, wanted] > 0
        out = np.where(possible, wanted, 1 - wanted)
        key = (kind[:, 0], kind[:, 1], carry, out)
        choice = (rng.random(n) * _COUNTS[key]).astype(np.int64)
        digits[:, :, place] = _PAIRS[(*key, choice)]
        carry = out
    return digits


def select(condition: Bools, yes: Digits, no: Digits) -> Digits:
    """Rows of `yes` where the condition [N] holds, else of `no`."""
    chosen: Digits = np.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
    return chosen
