"""What a model can be asked, and what of that it has learned: told by the settings of its data, without the weights."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from mathllm.config import DataConfig
from mathllm.data.sources import format_of, sampling
from mathllm.errors import UsageError
from mathllm.flags import listed
from mathllm.formats import Rendered
from mathllm.tasks import Problems, answer, by_task, extent, get_tasks, operands_asked, readable_beside
from mathllm.tasks.base import Task, plural
from mathllm.tasks.numbers import Bools, Ints, Numbers


class Unseen(NamedTuple):
    """What a model was not trained on, for people; the rows [N] of problems that are so; and whether that is because of
    their task, the digits of a number, how many numbers there are, or their signs."""

    what: str
    rows: Bools
    kind: Literal["task", "digits", "numbers", "signs"]


class Scope:
    """Of a model that was trained on problems like those of `data`, and has room for `max_length` tokens: its format,
    the `tasks` that it has learned, and those that are looked for in a text (`readable`): all that mean the same beside
    these."""

    def __init__(self, data: DataConfig, max_length: int) -> None:
        self.data, self.max_length = data, max_length
        self.format, self.tasks = format_of(data), get_tasks(data.task)
        self.size = sampling(data)
        self.readable = readable_beside(self.tasks)

    @property
    def meaning(self) -> str:
        """How a text is worked out."""
        return self.tasks[0].meaning

    @property
    def in_integers(self) -> bool:
        """Does a text mean what people mean by it?"""
        return self.meaning == Task.meaning

    def fit(self, problems: Problems) -> tuple[Rendered, dict[int, UsageError]]:
        """The problems that the model can be asked, with their gold texts; and why not, by row, for the others."""
        refused = {
            row: self._unlearned(problems, row, error)
            for row, error in self.format.refusals(problems).items()
        }
        limit = self.max_length
        writable = np.setdiff1d(np.arange(len(problems)), list(refused))
        # what follows a prompt that fits must fit as well, and be short enough to be written out here to see it
        needed, about = np.zeros((2, len(problems)), np.int64)
        needed[writable] = self.format.prompt_lengths(problems[writable])
        about[writable] = self.format.estimates(problems[writable])
        long = (needed >= limit) | (about > 2 * limit)
        for row in np.flatnonzero(long):
            alone = needed[row] >= limit
            what = "the problem alone takes" if alone else "the problem and its solution take about"
            refused[int(row)] = self._too_long(what, needed[row] if alone else about[row])
        rows = writable[~long[writable]]
        rendered = self.format.render(problems[rows])
        fits = rendered.lengths <= limit
        what = "the problem and its solution take"
        refused |= {
            int(row): self._too_long(what, tokens)
            for row, tokens in zip(rows[~fits], rendered.lengths[~fits], strict=True)
        }
        return (rendered if fits.all() else rendered[fits]), refused

    def _too_long(self, what: str, tokens: int) -> UsageError:
        return UsageError(
            f"{what} {tokens:,} tokens, and this model has room for {self.max_length:,}",
            f"it was trained on problems {extent(self.data.task, self.size)}",
        )

    def _unlearned(self, problems: Problems, row: int, error: UsageError) -> UsageError:
        """Why the format cannot write a problem: mostly because the model has never learned such ones."""
        task = next(task for task, _ in by_task(problems[row : row + 1]))
        if task in self.tasks:
            return error
        learned = listed((one.name for one in self.tasks), "and")
        hint = f"mathllm train --task {task.name} trains one that does"
        return UsageError(f"this model has learned {learned}, not {task.name}", hint)

    @property
    def most_numbers(self) -> int:
        """Of a problem in training."""
        return max(task.most_operands(self.size) for task in self.tasks)

    def unseen(self, problems: Problems, truth: Numbers | None = None) -> list[tuple[str, Bools]]:
        """In what ways problems lie outside all that the model was trained on, each with the rows [N] that do; mostly
        in none. `truth` are their answers, where these are known."""
        return [(way.what, way.rows) for way in self.ways(problems, truth)]

    def ways(self, problems: Problems, truth: Numbers | None = None) -> list[Unseen]:
        """The same, and of what kind each is."""
        found: list[Unseen] = []
        for task, rows in by_task(problems):
            part = problems[rows]
            ways = [Unseen(task.such, np.full(len(part), task not in self.tasks), "task")]
            ways += [Unseen(*way, "digits") for way in task.unseen(part, self.size)]
            ways += self._numbers(task, part)
            ways += [Unseen(*way, "signs") for way in self._signs(task, part, rows, truth)]
            for way in ways:
                if way.rows.any():
                    outside = np.zeros(len(problems), np.bool_)
                    outside[rows] = way.rows
                    found.append(way._replace(rows=outside))
        return found

    def _numbers(self, task: Task, part: Problems) -> list[Unseen]:
        """More numbers than in training."""
        most = task.most_operands(self.size) if task.general else max(self.data.max_operands, 2)
        more = operands_asked(part) > most
        whole = [one for one in self.tasks if one.general and not task.general]
        if not whole:
            such = task.such if task.general else "a problem"
            return [Unseen(f"{such} of more than {plural(most, 'number')}", more, "numbers")]
        # as a whole expression it may have been seen all the same; these have no signs
        ways = [Unseen(what, more & rows, "digits") for what, rows in whole[0].unseen(part, self.size)]
        most, such = whole[0].most_operands(self.size), whole[0].such
        ways.append(
            Unseen(f"{such} of more than {plural(most, 'number')}", part.num_operands > most, "numbers")
        )
        ways.append(Unseen(f"{such} with a number below zero", more & part.negative.any(1), "signs"))
        return ways

    def _signs(
        self, task: Task, part: Problems, rows: Ints | slice, truth: Numbers | None
    ) -> list[tuple[str, Bools]]:
        """Numbers below zero where there were none in training."""
        if not task.signed or self.data.signed:
            return []
        if task.signed_operands:
            return [(f"{task.signed} below zero", np.any(part.negative, axis=1))]
        negative = answer(part).negative if truth is None else truth.negative[rows]
        return [(f"{task.signed} below zero", negative)]
