"""Chains with a thought of one token a step: `3+4*7=<think>79</think>9<end>`, the state after each step.

The number of thoughts follows from the problem alone, so that decoding can hold a model to it: it writes digits
between `<think>` and `</think>`, and may mean by them what it likes.

Three more formats are controls: no thought at all, and thoughts that are given with the problem and say nothing.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.follow import Coordinates, Follower
from mathllm.formats.slots import CountedFollower
from mathllm.formats.thought import Thought
from mathllm.tasks import Problems
from mathllm.tasks.chain import apply_steps, running_states
from mathllm.tasks.numbers import Digits, Ints, Numbers
from mathllm.tasks.slots import ABSENT, Slots
from mathllm.tasks.splits import hash_problems
from mathllm.tokenizer import END, END_THINK, EQUALS, Ids


class StepsFollower(CountedFollower):
    """Places are steps: `<think>` and each thought have that of the step which follows, and so has `</think>`, before
    the answer: it is one past the last step. So at its own place a step finds all that it needs, and the answer
    nothing but the last thought."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems.num_operands - 1)
        self.over = np.zeros(len(problems), np.bool_)

    def push(self, ids: Ids) -> Coordinates:
        place = super().push(ids)["place"] + (self.length + 1) * (self.answering & (ids == END_THINK))
        self.over |= self.started & (ids == END)
        return {"place": place * ~self.over}


class AnswerFollower(StepsFollower):
    """The same without a thought: `=`, before the answer, is one past the last step."""

    def think(self, ids: Ids) -> Ints:
        self.here += self.started
        place: Ints = (self.length + 1) * (self.here == 0)
        return place


class ChainThought(Thought):
    """One digit a step."""

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return StepsFollower(problems)

    def prompt_coordinates(self, problems: Problems, ids: Ids) -> dict[str, Ints]:
        """The steps that operators and numbers belong to; the first number belongs to step 1."""
        prompt = np.cumsum(ids == EQUALS, 1) == 0
        digit = (ids < 10) & prompt
        numbers = np.cumsum(digit, 1)
        return {"place": np.maximum(np.where(digit, numbers - 1, numbers), 1) * prompt}


class States(ChainThought):
    counted = True

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return one_a_step(problems, running_states(problems)[:, 1:])

    def resume(self, problems: Problems, states: Digits, done: int) -> Digits:
        return apply_steps(problems, states, done)


class NoThought(ChainThought):
    thinks = False

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return AnswerFollower(problems)


class Filler(ChainThought):
    given, true = True, False

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return one_a_step(problems, np.zeros_like(problems.operators))


class RandomDigits(Filler):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        """Digits of each problem's hash, so that a problem always has the same ones."""
        hashes = hash_problems(problems)[:, None]
        place = np.arange(1, problems.operands.shape[1], dtype=np.uint64)
        mixed = (hashes ^ (hashes >> np.uint64(29))) * (place * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1))
        return one_a_step(problems, (mixed >> np.uint64(40)).astype(np.int64) % 10)


def one_a_step(problems: Problems, values: Digits | Ints) -> Slots:
    """Values [N, K - 1] where there are steps."""
    return np.where(problems.operators > 0, values, ABSENT).astype(np.uint8).T


STEPS = Format("steps", "chains, with the state after each step", thoughts={"chain": States()})
NO_STEPS = Format("no-steps", "chains without a thought", thoughts={"chain": NoThought()})
FILLER = Format("filler", "chains, with a 0 given for each step", thoughts={"chain": Filler()})
RANDOM_STEPS = Format(
    "random-steps", "chains, with a random digit given for each step", thoughts={"chain": RandomDigits()}
)
