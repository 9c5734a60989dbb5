"""What a problem is, and what every task must be able to do.

A problem is operands and an operation, held as arrays of digits; how it is written down is a format's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, lengths_of, widen
from mathllm.tasks.sampling import Sampling


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


class Task(Protocol):
    """One operation. `symbol` is what a person types, `operator` the token ids that stand for it; `factor_digits` is
    the most digits of any operand but the first in the problems that are drawn (0: as many as the first), `signed` says
    whether results may be negative, if asked for, and `samplings` by which methods operands can be drawn."""

    name: str
    symbol: str
    operator: tuple[int, ...]
    commutative: bool
    max_operands: int
    signed: bool
    samplings: tuple[str, ...]
    factor_digits: int

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Digits:
        """Operands [n, K, D] drawn by one method; of row i, only the first counts[i] will be used."""

    def of_length(self, rng: np.random.Generator, n: int, operands: int, digits: int, stress: bool) -> Digits:
        """Operands [n, operands, digits]: random ones of exactly that many digits, or carries that run far in a
        first operand of that many (a difference's may have one less)."""

    def answer(self, problems: Problems) -> Numbers:
        """The exact results of problems of this task."""

    def answer_widths(self, problems: Problems) -> Ints:
        """Digits [N] that hold any answer to operands of these widths: what zero-padding pads to."""

    def chain_lengths(self, problems: Problems) -> Ints:
        """The longest chain [N] of carries or borrows."""

    def extreme(self, max_digits: int, max_operands: int, signed: bool) -> Digits:
        """Operands [1, K, max_digits] of the problem whose text is the longest of this task, in any format."""


def select(condition: Bools, yes: Digits, no: Digits) -> Digits:
    """Rows of `yes` where the condition [N] holds, else of `no`."""
    chosen: Digits = np.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
    return chosen
