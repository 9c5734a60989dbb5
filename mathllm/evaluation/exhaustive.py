"""All problems there are, where they are few enough: every pair of operands up to a limit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mathllm.errors import UsageError
from mathllm.formats import Format
from mathllm.tasks import Problems, Sampling, Task, concatenate
from mathllm.tasks.base import plural
from mathllm.tasks.numbers import Ints

MOST = 10**10  # as many as a machine could judge in days: more is a slip of the hand


class AllPairs:
    """Every problem of two operands from 0 to `limit`, once: a sequence that makes the slices one asks for.

    General tasks stand back for others. Of a task that has its operands in order (subtraction, unless results are
    `signed`), only those whose first operand is not the smaller; second operands that a task has a name for have up to
    `second_digits` (0: any), and are never less than the least. Raises UsageError where there would be none, or more
    than MOST."""

    def __init__(
        self, tasks: Sequence[Task], limit: int, signed: bool = False, second_digits: int = 0
    ) -> None:
        self.tasks, self.limit, self.signed = of_pairs(tasks), limit, signed
        base, self.size = limit + 1, Sampling(len(str(limit)), signed=signed, second_digits=second_digits)
        self.bases, sizes = [], []  # numbers of second operands, and of problems
        for task in self.tasks:
            task.check_pairs()
            second = min(base, 10 ** task.digits_of(1, self.size)) - task.least_second
            self.bases.append(second)
            sizes.append(base * (base + 1) // 2 if task.ordered(signed) else base * second)
        self.ends = list(itertools.accumulate(sizes))
        if limit < 0 or not 0 < self.ends[-1] <= MOST:
            raise UsageError(
                f"cannot try all pairs of operands from 0 to {limit:,}", "for example --exhaustive 999"
            )

    @property
    def about(self) -> str:
        """Which problems these are."""
        names = ",".join(task.name for task in self.tasks)
        narrow = dict.fromkeys(
            task.second for task in self.tasks if 10 ** task.digits_of(1, self.size) <= self.limit
        )
        bounds = [f", {second}s of up to {plural(self.size.second, 'digit')}" for second in narrow]
        if any(task.least_second for task in self.tasks):
            bounds.append(", none by 0")
        return f"all problems of {names} with two operands from 0 to {self.limit:,}{''.join(bounds)}"

    def __len__(self) -> int:
        return self.ends[-1]

    def longest_text(self, format: Format) -> int:
        """Tokens that hold any of these problems with its answer."""
        return format.longest(self.tasks, self.size)

    def __getitem__(self, rows: slice) -> Problems:
        start, stop, step = rows.indices(len(self))
        assert step == 1, "only slices without a step"
        parts, offset = [], 0
        for task, second, end in zip(self.tasks, self.bases, self.ends, strict=True):
            index = np.arange(max(start, offset), min(stop, end), dtype=np.int64) - offset
            left, right = _triangle(index) if task.ordered(self.signed) else np.divmod(index, max(second, 1))
            pairs = np.stack([left, right + task.least_second], 1)[..., None]
            digits = pairs // 10 ** np.arange(self.size.max_digits) % 10
            parts.append(task.problems(digits.astype(np.uint8)))
            offset = end
        return concatenate(parts)


def of_pairs(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Those of tasks whose pairs are tried: general ones only where there are no others."""
    return tuple(task for task in tasks if not task.general) or tuple(tasks)


def _triangle(index: Ints) -> tuple[Ints, Ints]:
    """The pair a >= b >= 0 at each index [N] of 0-0, 1-0, 1-1, 2-0, ..."""
    # a (a + 1) / 2 pairs come before the first one of a; up to MOST pairs float64 leaves no doubt about a
    a = ((np.sqrt(8.0 * index + 1) - 1) / 2).astype(np.int64)
    return a, index - a * (a + 1) // 2
