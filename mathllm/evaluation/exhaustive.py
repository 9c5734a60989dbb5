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

    Of a task that has its operands in order (subtraction, unless results are `signed`), only those whose first
    operand is not the smaller; second operands that a task has a name for have up to `second_digits` (0: any). Raises
    UsageError where there would be more than MOST."""

    def __init__(
        self, tasks: Sequence[Task], limit: int, signed: bool = False, second_digits: int = 0
    ) -> None:
        for task in tasks:
            task.check_pairs()
        self.tasks, self.limit, self.signed = tuple(tasks), limit, signed
        base, self.size = limit + 1, Sampling(len(str(limit)), signed=signed, second_digits=second_digits)
        # numbers of second operands
        self.bases = [min(base, 10 ** task.digits_of(1, self.size)) for task in tasks]
        pairs = zip(self.tasks, self.bases, strict=True)
        sizes = (base * (base + 1) // 2 if task.ordered(signed) else base * second for task, second in pairs)
        self.ends = list(itertools.accumulate(sizes))
        if limit < 0 or self.ends[-1] > MOST:
            raise UsageError(
                f"cannot try all pairs of operands from 0 to {limit:,}", "for example --exhaustive 999"
            )

    @property
    def about(self) -> str:
        """Which problems these are."""
        names = ",".join(task.name for task in self.tasks)
        pairs = zip(self.tasks, self.bases, strict=True)
        narrow = dict.fromkeys(task.second for task, second in pairs if second <= self.limit)
        bounds = [f", {second}s of up to {plural(self.size.second, 'digit')}" for second in narrow]
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
            pairs = _triangle(index) if task.ordered(self.signed) else np.divmod(index, second)
            digits = np.stack(pairs, 1)[..., None] // 10 ** np.arange(len(str(self.limit))) % 10
            parts.append(task.problems(digits.astype(np.uint8)))
            offset = end
        return concatenate(parts)


def _triangle(index: Ints) -> tuple[Ints, Ints]:
    """The pair a >= b >= 0 at each index [N] of 0-0, 1-0, 1-1, 2-0, ..."""
    # a (a + 1) / 2 pairs come before the first one of a; up to MOST pairs float64 leaves no doubt about a
    a = ((np.sqrt(8.0 * index + 1) - 1) / 2).astype(np.int64)
    return a, index - a * (a + 1) // 2
