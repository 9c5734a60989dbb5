"""The whole sum again, turned round: `99+21=<think>99+12=021</think>120<end>`.

Inside the thought, numbers are least significant digit first, so that every digit of the result can be told
from what stands before it. Several operands are folded two by two, a thought each:
`99+21+5=<think>99+12=021</think><think>021+5=521</think>125<end>`.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.follow import Follower
from mathllm.formats.thought import Thought
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, add, lengths_of, widen
from mathllm.tasks.slots import Slots, constant, number_slots, signed_slots, stack, token_slot
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, PLUS, THINK, Ids


class PairFollower(Follower):
    """Inside a thought an operand's digits have their own places; from its `=` on, a token has that of the digit that
    follows it. The last result announces the digits of the answer."""

    def __init__(self, problems: Problems, announced: Ints | None) -> None:
        n = len(problems)
        super().__init__(n, np.zeros(n, np.int64) if announced is None else announced)
        self.known = announced is not None
        self.left = np.maximum(problems.num_operands - 1, 1)  # thoughts that are still to be closed
        self.opened, self.in_result = np.zeros((2, n), np.bool_)
        self.run, self.digits = np.zeros(
            (2, n), np.int64
        )  # digits of this number so far, and since the last `=`

    def think(self, ids: Ids) -> Ints:
        digit, equals, opening = ids < 10, ids == EQUALS, ids == THINK
        closing = (ids == END_THINK) & ~self.answering
        self.left -= closing
        self.digits = (self.digits + digit) * ~equals
        ends = closing & (self.left <= 0)
        if not self.known:
            self.announced = np.where(ends, self.digits, self.announced)
        self.answering |= ends
        self.in_result = (self.in_result | (equals & self.opened)) & ~opening
        self.opened = (self.opened | opening) & ~closing & ~self.answering
        self.run = (self.run + 1) * (digit & self.opened)
        return np.where(self.opened, np.where(self.in_result, self.digits + 1, self.run), 0)


class PairThought(Thought):
    """The operands two by two, turned round."""

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return PairFollower(problems, announced)


class Sums(PairThought):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        operand_widths = None if widths is None else problems.widths
        parts: list[Slots] = []
        left, left_widths = problems.operands[:, 0], operand_widths
        for k in range(1, problems.operands.shape[1]):
            right, present = problems.operands[:, k], problems.lengths[:, k] > 0
            if k > 1:
                parts += [token_slot(END_THINK, present), token_slot(THINK, present)]
            parts += [_reversed(left, left_widths, present), token_slot(PLUS, present)]
            parts += [_reversed(right, operand_widths, present), token_slot(EQUALS, present)]
            left, left_widths = add(np.stack([left, widen(right, left.shape[1])], axis=1)), widths
            parts.append(_reversed(left, left_widths, present))
        return stack(parts)


class Differences(PairThought):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        operand_widths = None if widths is None else problems.widths
        left, right = (_reversed(problems.operands[:, k], operand_widths) for k in (0, 1))
        minus, equals = (constant(len(problems), token) for token in (MINUS, EQUALS))
        return stack([left, minus, right, equals, signed_slots(result, widths, least_significant_first=True)])


def _reversed(digits: Digits, widths: Ints | None, present: Bools | bool = True) -> Slots:
    """Numbers [N, D], least significant digit first, where `present`; `widths` [N] pads them with zeros."""
    lengths = lengths_of(digits)
    if widths is not None:
        lengths = np.maximum(lengths, widths)
    return number_slots(digits, lengths * present, least_significant_first=True)


PAIRWISE = Format(
    "pairwise",
    "the sum again inside the thought, least significant digit first",
    thoughts={"addition": Sums(), "subtraction": Differences()},
)
