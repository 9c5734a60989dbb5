"""The whole sum again, turned round: `99+21=<think>99+12=021</think>120<end>`.

Inside the thought, numbers are least significant digit first, so that every digit of the result can be told
from what stands before it. Several operands are folded two by two, a thought each:
`99+21+5=<think>99+12=021</think><think>021+5=521</think>125<end>`.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format, signed_slots
from mathllm.formats.places import count_since, last_where, number_places
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, add, lengths_of, widen
from mathllm.tasks.slots import Slots, constant, number_slots, stack, token_slot
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, PLUS, THINK, Ids


def addition_fold(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
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


def subtraction_pair(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
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


def read_pairs(ids: Ids, prompt: Bools) -> tuple[Ints, Bools, Ints]:
    """Operands' digits have their own places; from `=` on, a token has that of the digit that follows it."""
    digit = (ids < 10) & ~prompt
    equals = (ids == EQUALS) & ~prompt
    closing = (ids == END_THINK) & ~prompt
    pairs = (prompt & ((ids == PLUS) | (ids == MINUS))).sum(1)
    answering = np.cumsum(closing, 1) >= np.maximum(pairs, 1)[:, None]
    thinking = (np.cumsum((ids == THINK) & ~prompt, 1) > np.cumsum(closing, 1)) & ~answering
    opened = np.cumsum((ids == THINK) & ~prompt, 1)
    in_result = thinking & (np.cumsum(equals, 1) > opened)  # the prompt's `=` counts as well
    result_places = count_since(digit, equals) + 1
    inside = np.where(in_result, result_places, number_places(ids, thinking, least_significant_first=True))
    end = np.where(answering.any(1), answering.argmax(1), 0)
    column = np.arange(ids.shape[1])
    after = last_where(equals, end)[:, None]
    announced = (digit & (column > after) & (column < end[:, None])).sum(1)
    return np.where(thinking, inside, 0), answering, announced


PAIRWISE = Format(
    "pairwise",
    "the sum again inside the thought, least significant digit first",
    thoughts={"addition": addition_fold, "subtraction": subtraction_pair},
    read_thoughts=read_pairs,
)
