"""Following texts token by token: where each one stands (its coordinates), and which may come next.

A `Walk` follows a batch; training, scoring and decoding use the same one. It reads prompts whole, since the place of
a digit is counted from its number's end; from `=` on one token a row at a time, so that a token costs the same at any
length, and nothing changes when another one is appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mathllm.registry import OWN
from mathllm.tasks import TASKS, Problems, Task, by_task
from mathllm.tasks.numbers import Bools, Ints
from mathllm.tokenizer import END, END_THINK, EQUALS, THINK, VOCAB_SIZE, Ids

# by axis, 0 where a token is about none. `place` is the digit place that it is about (units 1, tens 2; the token before
# an answer's digit i has place i), `run` the position of a digit in its own number, from the left, `segment` 1 from the
# first `=` on. A thought may tell others. `own_place` and so on are those of a token itself: what `place` was one token
# before
Coordinates = Mapping[str, "Ints | int"]

NOTHING = 255  # is no token: what a follower is told before its text's `=` has come

# what may follow a token: anything, `<think>`, a digit of a thought, or `</think>`
ANY, OPEN, DIGIT, CLOSE = range(4)
ALLOWED = np.ones((4, VOCAB_SIZE), np.bool_)
ALLOWED[OPEN:] = False
ALLOWED[OPEN, THINK], ALLOWED[DIGIT, :10], ALLOWED[CLOSE, END_THINK] = True, True, True


class Follower:
    """Where the tokens of n texts stand, from `=` on; this one is for texts without a thought.

    An answer counts up from its units (`announced` None), or down from as many digits as are `announced` [N] for it.
    With a thought a subclass says in `think` where its tokens stand, and when the answer begins."""

    def __init__(self, n: int, announced: Ints | None = None, hints: bool = False) -> None:
        self.counts_up, self.hints = announced is None, hints
        self.announced = np.zeros(n, np.int64) if announced is None else announced
        self.started, self.answering, self.ended = np.zeros((3, n), np.bool_)
        self.written = np.zeros(n, np.int64)  # digits of the answer
        self.choice = np.zeros(n, np.uint8)  # what may come next: an index into ALLOWED
        self.waiting = True  # for the `=` of some text

    def push(self, ids: Ids) -> Coordinates:
        """Takes the next token [N] of each text and returns its coordinates [N], 0 before `=`."""
        if self.waiting:
            self.started |= ids == EQUALS
            ids = np.where(self.started, ids, NOTHING)
            self.waiting = not self.started.all()
        place = self.think(ids)
        if not self.answering.any():
            return {"place": place}
        self.written += (ids < 10) & self.answering
        self.ended |= (ids == END) & self.answering
        if self.counts_up:
            # a hint and its digit have one place
            said = (self.written + 2) // 2 if self.hints else self.written + 1
        else:
            said = np.maximum(self.announced - self.written, 0)
        return {"place": np.where(self.answering & ~self.ended, said, place)}

    @property
    def resting(self) -> bool:
        """Have all texts ended, so that from the next token on nothing changes any more?"""
        return False

    def think(self, ids: Ids) -> Ints | int:
        """The places [N] of tokens that are no part of the answer, which begins with the token that ends the
        thought."""
        self.answering |= ids == EQUALS
        return 0

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Goes on with these rows alone, in this order."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[rows])


class Followed(Protocol):
    """What a walk asks of a format, see there."""

    @property
    def hints(self) -> bool: ...

    @property
    def thoughts(self) -> Mapping[str, Any]: ...

    def follow(self, task: Task, problems: Problems) -> Follower: ...

    def prompt_coordinates(self, task: Task, problems: Problems, ids: Ids) -> Mapping[str, Ints]: ...


class Walk:
    """Follows texts of problems in one format; `axes` are the coordinates that are asked for."""

    def __init__(self, format: Followed, problems: Problems, axes: Sequence[str]) -> None:
        self.format, self.axes, self.problems = format, tuple(axes), problems
        self.task, self.run = problems.task, np.zeros(len(problems), np.int64)
        thoughts = [format.thoughts.get(task.name) for task, _ in by_task(problems)]
        self.restricts = any(thought is not None and thought.counted for thought in thoughts)
        # thoughts with many kinds of rows say themselves what segment a token is in, and some what a token itself is
        told = {axis for thought in thoughts if thought is not None for axis in thought.axes}
        self.rows_told = "segment" in told
        self.own_told = {axis for axis in told if axis.startswith(OWN)}
        named = dict.fromkeys(axis if axis in self.own_told else axis.removeprefix(OWN) for axis in self.axes)
        elsewhere = ("run",) if self.rows_told else ("run", "segment")
        self.followed = tuple(axis for axis in named if axis not in elsewhere)
        self.last: dict[str, Ints] = {}  # the coordinates [N] of what comes next
        self.followers: dict[int, Follower] = {}  # by the code of a task
        if self.followed or self.restricts:
            for task, rows in by_task(problems):
                self.followers[task.code] = format.follow(task, problems[rows])

    def _parts(self) -> list[tuple[Task, NDArray[np.int64] | slice, Follower]]:
        if len(self.followers) == 1:
            return [(TASKS[code], slice(None), follower) for code, follower in self.followers.items()]
        rows = {code: np.flatnonzero(self.task == code) for code in self.followers}
        return [(TASKS[code], rows[code], follower) for code, follower in self.followers.items()]

    def read(self, ids: Ids) -> dict[str, Ints]:
        """The coordinates [N, T] of texts, or of their beginnings, of which the walk has seen nothing yet."""
        equals = np.cumsum(ids == EQUALS, 1)
        prompt = equals == 0
        begins = prompt | ((equals == 1) & (ids == EQUALS))  # whose own coordinates are the prompt's
        found = {axis: np.zeros(ids.shape, np.int64) for axis in self.followed}
        of_prompt = {axis: np.zeros(ids.shape, np.int64) for axis in self.followed}
        self.choices = np.zeros(ids.shape, np.uint8)  # after each token, an index into ALLOWED
        for task, rows, follower in self._parts():
            part, inside = ids[rows], prompt[rows]
            columns = np.ascontiguousarray(part.T)
            told = {axis: np.zeros(columns.shape, np.int64) for axis in self.followed}
            choices = np.zeros(columns.shape, np.uint8)
            for column in range(int(inside.sum(1).min(initial=ids.shape[1])), ids.shape[1]):
                resting = follower.resting
                coordinates = follower.push(columns[column])
                rest = slice(column, None) if resting else column
                for axis in self.followed:
                    told[axis][rest] = coordinates.get(axis, 0)
                choices[rest] = follower.choice
                if resting:
                    break
            self.choices[rows] = choices.T
            stand = self.format.prompt_coordinates(task, self.problems[rows], part) if self.followed else {}
            for axis in self.followed:
                of_prompt[axis][rows] = stand.get(axis, 0)
                first = begins[rows] if axis in self.own_told else inside
                found[axis][rows] = np.where(first, of_prompt[axis][rows], told[axis].T)
        if "run" in self.axes:
            run = run_positions(ids < 10)
            self.run = run[:, -1]
            found["run"] = self._with_hints(run)
        if not self.rows_told:
            found["segment"] = (~prompt).astype(np.int64)
        self.last = {axis: known[:, -1] for axis, known in found.items()}
        own = {axis.removeprefix(OWN) for axis in self.axes if axis.startswith(OWN)}
        for axis in own - {axis.removeprefix(OWN) for axis in self.own_told}:
            before = np.pad(found[axis][:, :-1], ((0, 0), (1, 0)))
            found[OWN + axis] = np.where(begins, of_prompt.get(axis, 0), before)
        return {axis: found[axis] for axis in self.axes}

    def push(self, ids: Ids) -> dict[str, Ints]:
        """The coordinates [N] of the next token of each text, all of which are past their `=`."""
        found = {axis: np.zeros(len(ids), np.int64) for axis in self.followed}
        for _, rows, follower in self._parts():
            coordinates = follower.push(ids[rows])
            for axis in self.followed:
                found[axis][rows] = coordinates.get(axis, 0)
        if "run" in self.axes:
            self.run = (self.run + 1) * (ids < 10)
            found["run"] = self._with_hints(self.run)
        if not self.rows_told:
            found["segment"] = np.ones(len(ids), np.int64)
        own = {OWN + axis: known for axis, known in self.last.items()}
        self.last = found
        return {axis: (own | found)[axis] for axis in self.axes}

    def allowed(self) -> Bools | None:
        """Which token may follow the one that came last [N, V]; None where anything may."""
        if not self.restricts:
            return None
        choice = np.zeros(len(self.task), np.uint8)
        for _, rows, follower in self._parts():
            choice[rows] = follower.choice
        return ALLOWED[choice]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Goes on with these rows alone, in this order."""
        for code, follower in self.followers.items():
            # a follower's rows are those of its task, in their order
            follower.keep((np.cumsum(self.task == code) - 1)[rows[self.task[rows] == code]])
        self.task, self.run = self.task[rows], self.run[rows]
        self.last = {axis: known[rows] for axis, known in self.last.items()}

    def _with_hints(self, run: Ints) -> Ints:
        # a hint and its digit are at one position
        return (run + 1) // 2 if self.format.hints else run


def number_places(ids: Ids, where: Bools, least_significant_first: bool) -> Ints:
    """Places [N, T] of the digits of every number inside `where`, counted from the number's units."""
    digit = (ids < 10) & where
    if least_significant_first:
        return run_positions(digit)
    return run_positions(digit[:, ::-1])[:, ::-1]


def run_positions(flags: Bools) -> Ints:
    """1, 2, 3 ... inside every run of true values in the rows of [N, T], 0 outside."""
    column = np.arange(1, flags.shape[1] + 1)
    last_gap = np.maximum.accumulate(np.where(flags, 0, column), 1)
    positions: Ints = column - last_gap
    return positions
