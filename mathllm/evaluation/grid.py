"""Exact match by the lengths of both operands: how far beyond its training a model is right, and where it breaks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mathllm.errors import UsageError, check_at_least
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exact_match import Progress
from mathllm.evaluation.lengths import check_length
from mathllm.evaluation.report import judged_parts
from mathllm.inference.texts import Reasoner
from mathllm.limits import check_cells
from mathllm.tasks import Problems, Sampling, Task
from mathllm.tasks.numbers import Ints


@dataclass(frozen=True)
class Grid:
    """Right answers and problems [L, L] by the number of digits of the first and of the second operand.

    `lengths` [L] are those numbers of digits. Cells without problems are differences that would be negative, or
    second operands of more digits than the task has.
    """

    lengths: Ints
    correct: Ints
    num_examples: Ints
    seconds: float

    @property
    def answers(self) -> Count:
        return Count(int(self.correct.sum()), int(self.num_examples.sum()))

    def to_dict(self) -> dict[str, Any]:
        """All of it for a JSON document: rows are lengths of the first operand."""
        return {
            **self.answers.to_dict(),
            "grid_lengths": self.lengths.tolist(),
            "grid_correct": self.correct.tolist(),
            "grid_num_examples": self.num_examples.tolist(),
            "seconds": round(self.seconds, 3),
        }


def grid_lengths(limit: int, step: int) -> Ints:
    """1 and the multiples of `step` up to `limit`. Raises UsageError where there are none."""
    if limit < 1 or not 1 <= step <= limit:
        raise UsageError(f"a grid up to {limit} in steps of {step} has no cells", "for example --grid 100")
    return np.unique([1, *range(step, limit + 1, step)])


def draw_cells(
    task: Task, lengths: Ints, per_cell: int, *, signed: bool, seed: int = 0, second_digits: int = 0
) -> tuple[Problems, Ints]:
    """Random problems for every pair of lengths, and the cell [N, 2] of each, as indexes into `lengths`."""
    task.check_pairs()
    cells = np.stack(np.meshgrid(np.arange(len(lengths)), np.arange(len(lengths)), indexing="ij"), -1)
    cells = cells.reshape(-1, 2)
    if task.ordered(signed):
        cells = cells[cells[:, 0] >= cells[:, 1]]
    size = Sampling(int(lengths.max()), second_digits=second_digits)
    cells = cells[lengths[cells[:, 1]] <= task.digits_of(1, size)]
    cells = np.repeat(cells, per_cell, axis=0)
    return task.of_lengths(np.random.default_rng([seed, task.code]), lengths[cells], signed), cells


def evaluate_grid(
    model: Reasoner,
    task: Task,
    limit: int,
    *,
    step: int = 1,
    per_cell: int = 10,
    second_digits: int = 0,
    signed: bool = False,
    seed: int = 0,
    draft: bool = True,
    batch_size: int = 1024,
    progress: Progress | None = None,
) -> Grid:
    """Exact match of a task on random operands of every pair of lengths; `progress` gets problems done and in all.

    Raises UsageError where the longest text is longer than the model can write.
    """
    started = time.perf_counter()
    check_at_least("the grid's limit", limit, 1)
    longest = check_length(
        model.format, model.max_length, task, limit, signed=signed, second_digits=second_digits
    )
    lengths = grid_lengths(limit, step)
    check_cells("--grid", per_cell * len(lengths) ** 2, 2, limit)
    problems, cells = draw_cells(
        task, lengths, per_cell, signed=signed, seed=seed, second_digits=second_digits
    )
    correct, num_examples = np.zeros((2, len(lengths), len(lengths)), np.int64)
    parts = judged_parts(model, problems, longest, progress, batch_size=batch_size, draft=draft)
    for part, verdicts in parts:
        np.add.at(correct, tuple(cells[part].T), verdicts.answer_correct)
        np.add.at(num_examples, tuple(cells[part].T), 1)
    return Grid(lengths, correct, num_examples, time.perf_counter() - started)
