"""A sum, and before it a thought that is the model's own: `99+21=<think>000</think>120<end>`.

As many tokens as the longer operand has digits, and one, or as many as `data.thought_length` says. Nobody says what
they should be: what is written here for them are zeros, and only the answer is to be scored.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.follow import ANY, CLOSE, DIGIT, OPEN, Follower
from mathllm.formats.thought import Thought
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Ints, Numbers
from mathllm.tasks.slots import ABSENT, Slots
from mathllm.tokenizer import END_THINK, Ids


class CountedFollower(Follower):
    """Holds thoughts to `length` [N] digits. `<think>` and each thought have the place of the thought that follows,
    and the answer begins with `</think>`."""

    def __init__(self, length: Ints, announced: Ints | None = None) -> None:
        super().__init__(len(length), np.zeros(len(length), np.int64) if announced is None else announced)
        self.length, self.here = length, np.full(len(length), -1)  # tokens since `=`

    def think(self, ids: Ids) -> Ints:
        self.here += self.started
        self.answering |= self.started & (ids == END_THINK)
        thinks = np.where(self.here <= self.length, DIGIT, np.where(self.here == self.length + 1, CLOSE, ANY))
        self.choice = np.where(self.here < 0, ANY, np.where(self.here == 0, OPEN, thinks)).astype(np.uint8)
        place: Ints = np.clip(self.here, 0, self.length + 1) * ~self.answering
        return place


class Slot(Thought):
    """Room for `constant` thoughts (0: as many as the longer operand has digits, and one)."""

    counted, true = True, False

    def __init__(self, constant: int = 0) -> None:
        self.constant = constant

    def length(self, problems: Problems) -> Ints:
        return np.where(self.constant, self.constant, problems.widths + 1)

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        length = self.length(problems)
        present = np.arange(int(length.max(initial=1)))[:, None] < length
        return np.where(present, 0, ABSENT).astype(np.uint8)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return CountedFollower(self.length(problems), announced)

    def knows_places(self, announced: bool, operands: int) -> bool:
        return announced


def slots_format(constant: int = 0) -> Format:
    """The format with `constant` thoughts in every text."""
    thought = Slot(constant)
    return Format(
        "slots",
        "a thought of the model's own, then the answer",
        thoughts={"addition": thought, "subtraction": thought, "multiplication": thought},
    )


SLOTS = slots_format()
