"""How a problem is written down: the one `Format` class that every format is a value of.

A format file says only what is its own: the order of digits, and a `Thought` for each task that it can reason
about. Rendering and parsing are the same for all of them and stand here; how texts are followed is in
`formats.follow`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.formats.follow import Follower, Walk, number_places
from mathllm.formats.thought import Thought
from mathllm.limits import MAX_LENGTH
from mathllm.registry import OWN
from mathllm.tasks import Problems, Sampling, Task, answer, answer_widths, by_task, concatenate
from mathllm.tasks.expressions import numbers_from_ids, without_hints
from mathllm.tasks.numbers import Bools, Ints, Numbers
from mathllm.tasks.slots import (
    ABSENT,
    Slots,
    compact,
    constant,
    expression_lengths,
    expression_slots,
    signed_slots,
    stack,
)
from mathllm.tokenizer import END, END_THINK, EQUALS, THINK, TOKENS, Ids, decode, decode_rows


@dataclass(frozen=True)
class Rendered:
    """Problems and their texts: ids uint8 [N, T] padded with `<end>`, lengths [N], and the prompts' lengths [N].

    The prompt is everything up to and including the first `=`, and a thought that is given; what follows, `<end>`
    included, is the completion.
    """

    problems: Problems
    ids: Ids
    lengths: Ints
    prompt_lengths: Ints

    def __getitem__(self, rows: Any) -> Rendered:
        return Rendered(self.problems[rows], self.ids[rows], self.lengths[rows], self.prompt_lengths[rows])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def loss_mask(self) -> Bools:
        """True [N, T] for the tokens of the completion: the ones that a model is trained to predict."""
        column = np.arange(self.ids.shape[1])
        mask: Bools = (column >= self.prompt_lengths[:, None]) & (column < self.lengths[:, None])
        return mask


@dataclass(frozen=True)
class Parsed:
    """What a text says: the answer, where the thought and the answer stand, and what is wrong with the text.

    Spans are half open. `well_formed` means that the answer is a number and, where the format thinks, that a
    thought stands before it; `ended` that `<end>` was reached.
    """

    answer: Numbers
    well_formed: Bools
    ended: Bools
    thought_start: Ints
    thought_end: Ints
    answer_start: Ints
    answer_end: Ints


@dataclass(frozen=True)
class Format:
    """One format. `thoughts` has a thought for each task that it can reason about (by name); without any, it writes
    every task and no thought. `hints` puts its place before every digit, for numbers least significant digit
    first."""

    name: str
    summary: str
    least_significant_first: bool = False
    thoughts: Mapping[str, Thought] = field(default_factory=dict)
    hints: bool = False
    zero_pad: bool = field(default=False, kw_only=True)

    def knows_task(self, task: Task) -> bool:
        """Can it write problems of that task?"""
        if task.one_digit and (self.hints or self.least_significant_first or self.zero_pad):
            return False  # it would be written as without
        if self.zero_pad and task.name in self.thoughts and not self.thoughts[task.name].pads:
            return False
        return not self.thoughts or task.name in self.thoughts

    def check_task(self, task: Task) -> None:
        """Raises UsageError where this format does not know how to write, or reason about, a task."""
        if self.knows_task(task):
            return
        if task.one_digit and (self.zero_pad or not self.thoughts):
            what = f"format {self.name!r} cannot write task {task.name!r}"
            what += ": numbers of one digit have no order, no padding and no hints"
            raise UsageError(what, "leave out --zero-pad" if self.zero_pad else "use --format plain")
        if self.zero_pad and task.name in self.thoughts:
            what = (
                f"format {self.name!r} has rows of as many digits as its working needs, and pads no numbers"
            )
            raise UsageError(what, "leave out --zero-pad")
        what = f"format {self.name!r} has no thought for task {task.name!r}"
        raise UsageError(what, "use --format plain, or write one: see mathllm/formats")

    @property
    def thinks(self) -> bool:
        """Is there a thought in its texts?"""
        return any(thought.thinks for thought in self.thoughts.values())

    @property
    def true_thoughts(self) -> bool:
        """Are its thoughts the truth, so that they can be right or wrong?"""
        return self.thinks and all(thought.true for thought in self.thoughts.values())

    @property
    def own_thoughts(self) -> bool:
        """Are its thoughts for a model to make up, so that no text of them is the truth?"""
        return self.thinks and not self.true_thoughts

    @property
    def counted(self) -> bool:
        """Are its thoughts digits whose number follows from the problem, and are they the model's to write?"""
        return bool(self.thoughts) and all(thought.counted for thought in self.thoughts.values())

    def refusals(self, problems: Problems) -> dict[int, UsageError]:
        """The rows that this format cannot write, and why."""
        refused: dict[int, UsageError] = {}
        for task, rows in by_task(problems):
            part = problems[rows]
            try:
                self.check_task(task)
                bad, reason = self.thoughts.get(task.name, Thought()).refusal(part)
                hint = "write it in another way, or use another format"
                error = UsageError(f"format {self.name!r} cannot write this: {reason}", hint)
            except UsageError as unknown:
                bad, error = np.ones(len(part), np.bool_), unknown
            if bad.any():
                refused |= dict.fromkeys(np.arange(len(problems))[rows][bad].tolist(), error)
        return refused

    def render(self, problems: Problems) -> Rendered:
        """Problem, thought and answer of every row. Raises UsageError for the first that cannot be written."""
        if refused := self.refusals(problems):
            raise refused[min(refused)]
        parts = [(rows, self._render_task(task, problems[rows])) for task, rows in by_task(problems)]
        if len(parts) == 1:
            return parts[0][1]
        width = max((part.ids.shape[1] for _, part in parts), default=0)
        ids = np.full((len(problems), width), END, np.uint8)
        lengths, prompt_lengths = np.zeros((2, len(problems)), np.int64)
        for rows, part in parts:
            ids[rows, : part.ids.shape[1]] = part.ids
            lengths[rows], prompt_lengths[rows] = part.lengths, part.prompt_lengths
        return Rendered(problems, ids, lengths, prompt_lengths)

    def _render_task(self, task: Task, problems: Problems) -> Rendered:
        n, thought = len(problems), self.thoughts.get(task.name)
        result = answer(problems)
        width = answer_widths(problems) if self.zero_pad else None
        prompt = self._prompt_slots(task, problems)
        parts = [prompt]
        if thought is not None and thought.thinks and not thought.given:
            parts.append(_enclosed(thought.write(problems, result, width)))
        parts += [signed_slots(result, width, self.least_significant_first, self.hints), constant(n, END)]
        ids, lengths = compact(stack(parts))
        return Rendered(problems, ids, lengths, (prompt != ABSENT).sum(0))

    def _prompt_slots(self, task: Task, problems: Problems) -> Slots:
        widths, thought = problems.widths if self.zero_pad else None, self.thoughts.get(task.name)
        expression = expression_slots(problems, self.least_significant_first, widths, self.hints)
        prompt = [expression, constant(len(problems), EQUALS)]
        if thought is not None and thought.given:
            prompt.append(_enclosed(thought.write(problems, answer(problems), widths)))
        return stack(prompt)

    def prompt_lengths(self, problems: Problems) -> Ints:
        """Tokens [N] of the prompts up to `=`, without writing them."""
        return 1 + expression_lengths(problems, problems.widths if self.zero_pad else None, self.hints)

    def estimates(self, problems: Problems) -> Ints:
        """About how many tokens [N] texts have, known without writing them: mostly no more than those of the
        prompts."""
        found = self.prompt_lengths(problems)
        for task, rows in by_task(problems):
            if task.name in self.thoughts:
                found[rows] += self.thoughts[task.name].estimate(problems[rows])
        return found

    def longest(self, tasks: Sequence[Task], size: Sampling) -> int:
        """Tokens of the longest text of these tasks with operands up to this size."""
        extremes = concatenate([task.extreme(size) for task in tasks])
        most = np.zeros(len(extremes), np.int64)
        for task, rows in by_task(extremes):
            if task.name in self.thoughts:
                most[rows] = self.thoughts[task.name].most(extremes[rows])
        # with <think>, </think>, a sign and <end>
        bounds = (self.prompt_lengths(extremes) + most + answer_widths(extremes) + 4)[most > 0]
        extremes = extremes[most == 0]
        about = max(int(self.estimates(extremes).max(initial=0)), int(bounds.max(initial=0)))
        # nobody writes such texts, or will
        return (
            about if about > 2 * MAX_LENGTH else max(about, int(self.render(extremes).lengths.max(initial=0)))
        )

    def parse(self, ids: Ids) -> Parsed:
        """Reads texts [N, T], rendered or written by a model; what follows the first `<end>` is ignored."""
        n, width = ids.shape
        ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=END)  # (N, T + 1): every row has an end
        column = np.arange(width + 1)
        end = (ids == END).argmax(1)
        ended = end < width
        before_end = column < end[:, None]
        equals = _first((ids == EQUALS) & before_end, end)
        thought_start = thought_end = answer_start = np.minimum(equals + 1, end)
        well_formed = equals < end
        if self.thinks:
            closing = (ids == END_THINK) & before_end & (column > equals[:, None])
            closed = closing.any(1)
            thought_end = np.where(closed, width + 1 - closing[:, ::-1].argmax(1), thought_start)
            opened = ids[np.arange(n), thought_start] == THINK
            answer_start = thought_end
            well_formed &= closed & opened
        # the answer, moved to the left
        lengths = end - answer_start
        source = np.minimum(answer_start[:, None] + np.arange(lengths.max(initial=1)), width)
        body = ids[np.arange(n)[:, None], source]
        if self.hints:
            body, lengths, right = without_hints(body, lengths)
            well_formed &= right
        number, is_number = numbers_from_ids(body, lengths, self.least_significant_first)
        return Parsed(number, well_formed & is_number, ended, thought_start, thought_end, answer_start, end)

    def texts(self, problems: Problems, ids: Ids, lengths: Ints | None = None) -> list[str]:
        """Texts [N, T] of problems, or parts of them, for people: with a space between the steps of a thought."""
        return decode_rows(ids, lengths, self.step_starts(problems, ids))

    def parts(self, gold: Rendered, columns: Ints) -> list[tuple[str, str]]:
        """What the token of a column [N] of each gold text belongs to, in a word or two, and where exactly that is."""
        closed = np.cumsum((gold.ids == END_THINK)[:, ::-1], 1)[:, ::-1]
        column = np.minimum(columns, gold.ids.shape[1] - 1)
        inside = closed[np.arange(len(gold)), column] > 0
        found = [("answer", "")] * len(gold)
        for task, rows in by_task(gold.problems):
            thought = self.thoughts.get(task.name)
            chosen = np.arange(len(gold))[rows]
            chosen = chosen[inside[chosen]]
            if thought is not None and len(chosen):
                named = thought.parts(gold.problems[chosen], gold.ids[chosen], columns[chosen, None])
                for row, (part,) in zip(chosen.tolist(), named, strict=True):
                    found[row] = part
        return found

    def reader(self, asked: Rendered) -> Callable[[str], str]:
        """What tells what the rows of the thought to one problem [1] say: see `Thought.reader`."""
        ((task, _),) = by_task(asked.problems)
        prompt = decode(asked.ids[0, : asked.prompt_lengths[0]]).partition(TOKENS[EQUALS])[0]
        return self.thoughts.get(task.name, Thought()).reader(prompt)

    def step_starts(self, problems: Problems, ids: Ids) -> Bools | None:
        """Before which tokens [N, T] of texts a step begins that no token separates from the one before; None:
        nowhere."""
        starts: Bools | None = None
        for task, rows in by_task(problems):
            thought = self.thoughts.get(task.name)
            found = thought.step_starts(ids[rows]) if thought else None
            if found is not None:
                starts = np.zeros(ids.shape, np.bool_) if starts is None else starts
                starts[rows] = found
        return starts

    def axes(self, tasks: Sequence[Task], operands: int = 2) -> tuple[str, ...]:
        """The coordinates that can be told of its texts of problems with up to so many operands."""
        known = ["segment", OWN + "segment"]
        if self.least_significant_first:
            known.append("run")  # of a digit in its number: it is the digit's place
        announced = self.zero_pad or self.least_significant_first
        thoughts = [self.thoughts.get(task.name) for task in tasks]
        if all(thought.knows_places(announced, operands) if thought else announced for thought in thoughts):
            told = dict.fromkeys(axis for t in thoughts for axis in (t.axes if t else ("place",)))
            known += [axis for axis in told if axis not in known]
            known += [OWN + axis for axis in told if OWN + axis not in known and not axis.startswith(OWN)]
        return tuple(known)

    def check_axes(self, axes: Sequence[str], tasks: Sequence[Task], operands: int = 2) -> None:
        """Raises UsageError where a model wants to be told what cannot be known."""
        known = self.axes(tasks, operands)
        missing = [axis for axis in axes if axis not in known]
        reasoned = [task.name for task in tasks if task.name in self.thoughts]
        lost = [name for name in reasoned if not self.thoughts[name].knows_places(True, operands)]
        if "place" in missing and lost:
            several = " of more than two numbers" * self.thoughts[lost[0]].knows_places(True, 2)
            what = (
                f"format {self.name!r} cannot tell the places of tokens in the working of {lost[0]}{several}"
            )
            raise UsageError(what, "use --format scratchpad, or --position rope, which needs no places")
        if "place" in missing:
            raise UsageError(
                f"format {self.name!r} cannot tell the places of an answer whose length is unknown",
                "use --format reversed, column or pairwise, or zero-padding (--zero-pad)",
            )
        if "run" in missing:
            raise UsageError(
                f"in format {self.name!r} the position of a digit in its number is not its place",
                "use --format reversed: all numbers least significant digit first",
            )
        if missing:
            told = ", ".join(axis for axis in known if not axis.startswith(OWN))
            what = f"format {self.name!r} does not tell the coordinate {missing[0]!r} for these tasks"
            raise UsageError(what, f"it tells {told}")

    def follow(self, task: Task, problems: Problems) -> Follower:
        """What follows the texts of problems of one task."""
        thought = self.thoughts.get(task.name)
        announced = answer_widths(problems) if self.zero_pad and not self.least_significant_first else None
        if thought is not None:
            return thought.follow(problems, announced)
        return Follower(len(problems), announced, self.hints)

    def prompt_coordinates(self, task: Task, problems: Problems, ids: Ids) -> dict[str, Ints]:
        """Those [N, T] of what stands in texts of one task up to their first `=`; what they are behind it does not
        matter."""
        thought = self.thoughts.get(task.name)
        own = thought.prompt_coordinates(problems, ids) if thought else None
        if own is not None:
            return own
        placed = prompt = np.cumsum(ids == EQUALS, 1) == 0
        if task.aligned is not None:
            digit = ids < 10
            begins = digit & ~np.pad(digit[:, :-1], ((0, 0), (1, 0)))  # a number
            placed = prompt & (np.cumsum(begins, 1) <= task.aligned)
        places = number_places(ids, placed, self.least_significant_first)
        return {"place": (places + 1) // 2 if self.hints else places}

    def coordinates(self, problems: Problems, ids: Ids, axes: Sequence[str]) -> dict[str, Ints]:
        """What a model is told of texts, or of their beginnings [N, T], beside their tokens: see formats.follow."""
        return Walk(self, problems, axes).read(ids)


def _enclosed(thought: Slots) -> Slots:
    n = thought.shape[1]
    return stack([constant(n, THINK), thought, constant(n, END_THINK)])


def _first(flags: NDArray[np.bool_], otherwise: Ints) -> Ints:
    """Column [N] of the first true value in each row."""
    return np.where(flags.any(1), flags.argmax(1), otherwise)
