"""What a format writes between `<think>` and `</think>`: the one class that a thought of a task is a subclass of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mathllm.formats.follow import Follower
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers
from mathllm.tasks.slots import Slots
from mathllm.tokenizer import THINK, Ids


class Thought:
    """What stands between `<think>` and `</think>` for one task in one format: a subclass in the format's file."""

    counted = False  # is it digits whose number follows from the problem, so that a model can be held to it?
    given = False  # is it a part of the prompt?
    thinks = True  # does it write a thought at all?
    true = True  # is what is written here the truth, or a placeholder?
    pads = True  # may numbers be padded with zeros?
    axes: tuple[str, ...] = ("place",)

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        """The thoughts of problems with these results; `widths` [N] is what answers are padded to, or None."""
        raise NotImplementedError

    def estimate(self, problems: Problems) -> Ints:
        """About how many tokens [N] the thoughts have, known without writing them; 0 where that is like the numbers
        themselves. Thoughts that grow by the square of these have to say it, since a few digits would fill memory."""
        return np.zeros(len(problems), np.int64)

    def most(self, problems: Problems) -> Ints:
        """The most tokens [N] of thoughts to problems of the task with numbers as long as these, where the task's own
        longest problem need not have the longest one; else 0."""
        return np.zeros(len(problems), np.int64)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        """What follows the texts of these problems; `announced` [N] are the digits of their answers, or None where
        that is not known from the problem."""
        raise NotImplementedError

    def refusal(self, problems: Problems) -> tuple[Bools, str]:
        """Which problems [N] of the task it cannot reason about, and why."""
        return np.zeros(len(problems), np.bool_), ""

    def knows_places(self, announced: bool, operands: int) -> bool:
        """Can the places of an answer be told before it is written, in problems of up to so many operands?"""
        return True

    def prompt_coordinates(self, problems: Problems, ids: Ids) -> dict[str, Ints] | None:
        """Those [N, T] of what stands in texts up to their first `=`; what they are behind it does not matter. None
        where digits have their own places and nothing else has one."""
        return None

    def resume(self, problems: Problems, states: Digits, done: int) -> Digits:
        """Where a thought is a digit a step: the answers [N] if the first `done` steps had led to the states [N]."""
        raise NotImplementedError

    def parts(self, problems: Problems, ids: Ids, columns: Ints) -> list[list[tuple[str, str]]]:
        """What the tokens of some columns [N, K] of each text [N, T] belong to, all of the thought: in a word or two,
        and where exactly that is."""
        start = (ids == THINK).argmax(1)
        return [[("thought", str(at)) for at in row] for row in (columns - start[:, None]).tolist()]

    def reader(self, expression: str) -> Callable[[str], str]:
        """What tells, row by row, what the rows of a thought say, in numbers as people write them; "" where a row needs
        no such words. The expression is as the format writes it."""
        return lambda row: ""

    def step_starts(self, ids: Ids) -> Bools | None:
        """Before which tokens [N, T] of texts a step begins that no token separates from the one before; None:
        none."""
        return None
