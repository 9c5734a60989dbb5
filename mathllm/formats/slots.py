"""A sum, and before it a thought that is the model's own: `99+21=<think>000</think>120<end>`.

As many tokens as the longer operand has digits, and one, or as many as `data.thought_length` says. Nobody says what
they should be: what is written here for them are zeros (see training.objectives.gumbel).
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints, Numbers, longest_run
from mathllm.tasks.slots import ABSENT, Slots
from mathllm.tokenizer import Ids


def slots_format(constant: int = 0) -> Format:
    """The notation with so many thoughts in every text (0: as many as the longer operand has digits, and one)."""

    def zeros(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        length = np.where(constant, constant, problems.widths + 1)
        present = np.arange(int(length.max(initial=1)))[:, None] < length
        return np.where(present, 0, ABSENT).astype(np.uint8)

    def count(ids: Ids, prompt: Bools) -> Ints:
        length: Ints = np.where(constant, constant, longest_run((ids < 10) & prompt) + 1)
        return length

    return Format(
        "slots",
        "a thought of the model's own, then the answer",
        thoughts={"addition": zeros, "subtraction": zeros, "multiplication": zeros},
        thought_length=count,
        true_thoughts=False,
    )


SLOTS = slots_format()
