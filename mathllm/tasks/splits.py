"""Which split a problem belongs to: a property of the problem, not of a row or of a run.

A keyed hash of the canonical problem (a+b and b+a are one) gives a number from 0 to 1; its place decides. So
an endless stream of training data can never show a problem of the test split, whatever its seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.tasks import Problems, Task, at_once, by_task, canonical

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
_KEY = 0x6D6174686C6C6D31  # fixed for ever: a new key would move test problems into training
_NEGATIVE = 0x2545F4914F6CDD1D


Parts = Iterator[tuple[int, Problems]]  # rows of one split at a time


@dataclass(frozen=True)
class SplitRatios:
    """Shares of all problems; what train and val leave is the test split."""

    train: float = 0.9
    val: float = 0.05

    def __post_init__(self) -> None:
        if not (self.train > 0 and self.val >= 0 and self.train + self.val <= 1 + 1e-9):
            raise UsageError(
                f"train ratio {self.train:g} and val ratio {self.val:g} must be shares of a whole",
                "for example --train-ratio 0.9 --val-ratio 0.05 leaves 0.05 for the test split",
            )


def split_of(problems: Problems, ratios: SplitRatios) -> NDArray[np.uint8]:
    """TRAIN, VAL or TEST for each problem [N]."""
    point = (hash_problems(problems) >> np.uint64(11)).astype(np.float64) / 2.0**53
    test = max(0.0, 1.0 - ratios.train - ratios.val)
    test = 0.0 if test < 1e-9 else test
    # test comes first, so that a smaller test share is a part of a larger one
    split: NDArray[np.uint8] = np.where(point < test, TEST, np.where(point < test + ratios.val, VAL, TRAIN))
    return split.astype(np.uint8)


class Dealer:
    """Deals problems out until every split has as many as it wants; val and test take each problem only once."""

    def __init__(self, ratios: SplitRatios, wanted: Sequence[int]) -> None:
        self.ratios, self.missing = ratios, list(wanted)
        self.seen: NDArray[np.uint64] = np.zeros(0, np.uint64)  # hashes of val and test, ascending

    def deal(self, problems: Problems) -> Parts:
        splits = split_of(problems, self.ratios)
        for split, missing in enumerate(self.missing):
            if missing:
                part = problems[np.flatnonzero(splits == split)]
                part = (part if split == TRAIN else self._unseen(part))[:missing]
                self.missing[split] -= len(part)
                if len(part):
                    yield split, part

    def _unseen(self, problems: Problems) -> Problems:
        hashes, first = np.unique(hash_problems(problems), return_index=True)
        place = np.searchsorted(self.seen, hashes)
        fresh = np.append(self.seen, np.uint64(0))[place] != hashes
        self.seen = np.insert(self.seen, place[fresh], hashes[fresh])
        return problems[np.sort(first[fresh])]


def hash_problems(problems: Problems) -> NDArray[np.uint64]:
    """A 64-bit hash [N] of each canonical problem; the order of operands counts only where it matters."""
    problems = canonical(problems)
    total = np.zeros(len(problems), np.uint64)
    for part in at_once(problems):
        for task, rows in by_task(problems[part]):
            total[part][rows] = _sum_of_hashes(task, problems[part][rows])
    return _mix(total + problems.task * np.uint64(0xD1B54A32D192ED03))


def _sum_of_hashes(task: Task, problems: Problems) -> NDArray[np.uint64]:
    numbers, present = task.identity(problems)
    # only of problems whose numbers are the operands
    negative = problems.negative if problems.negative.any() else np.zeros(numbers.shape[:2], np.bool_)
    weights = _mix(np.arange(1, numbers.shape[2] + 1, dtype=np.uint64) + np.uint64(_KEY)) | np.uint64(1)
    total = np.zeros(len(problems), np.uint64)
    for k in range(numbers.shape[1]):
        value = (numbers[:, k].astype(np.uint64) * weights).sum(1, dtype=np.uint64)
        place = 1 if task.commutative else 1 + k
        value += negative[:, k].astype(np.uint64) * np.uint64(_NEGATIVE)
        total += _mix(value + np.uint64(place * 0x9E3779B97F4A7C15 % 2**64)) * present[:, k]
    return total


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of the input reaches every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
