"""The whole sum again, turned round: `99+21=<think>99+12=021</think>120<end>`.

Inside the thought, numbers are least significant digit first, so that every digit of the result can be told from
what stands before it. Several operands are folded two by two, a thought each:
`99+21+5=<think>99+12=021</think><think>021+5=521</think>125<end>`.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format, signed_slots
from mathllm.formats.places import count_since, last_where, number_places
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints, Numbers, add, significant
from mathllm.tasks.slots import Slots, number_slots, stack, token_slot
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, PLUS, THINK, Ids


def addition_fold(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    parts: list[Slots] = []
    left = significant(problems.operands[:, 0])
    for k in range(1, problems.operands.shape[1]):
        present = problems.lengths[:, k] > 0
        if k > 1:
            parts += [token_slot(END_THINK, present), token_slot(THINK, present)]
        parts.append(_reversed(left, present, widths if k > 1 else _operand_widths(problems, widths)))
        parts.append(token_slot(PLUS, present))
        right = Numbers(problems.operands[:, k], np.maximum(problems.lengths[:, k], 1), left.negative)
        parts.append(_reversed(right, present, _operand_widths(problems, widths)))
        parts.append(token_slot(EQUALS, present))
        digits = max(left.digits.shape[1], problems.operands.shape[2])
        pair = np.zeros((len(problems), 2, digits), np.uint8)
        pair[:, 0, : left.digits.shape[1]] = left.digits
        pair[:, 1, : problems.operands.shape[2]] = problems.operands[:, k]
        left = significant(add(pair))
        parts.append(_reversed(left, present, widths))
    return stack(parts)


def subtraction_pair(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    n = len(problems)
    everywhere = np.ones(n, np.bool_)
    padded = _operand_widths(problems, widths)
    left, right = (significant(problems.operands[:, k]) for k in (0, 1))
    return stack(
        [
            _reversed(left, everywhere, padded),
            token_slot(MINUS, everywhere),
            _reversed(right, everywhere, padded),
            token_slot(EQUALS, everywhere),
            signed_slots(result, widths, least_significant_first=True),
        ]
    )


def _operand_widths(problems: Problems, widths: Ints | None) -> Ints | None:
    return None if widths is None else problems.widths


def _reversed(number: Numbers, present: Bools, widths: Ints | None) -> Slots:
    lengths = number.lengths if widths is None else np.maximum(number.lengths, widths)
    digits = number.digits
    missing = int(lengths.max(initial=1)) - digits.shape[1]
    if missing > 0:
        digits = np.pad(digits, ((0, 0), (0, missing)))
    return number_slots(digits, lengths * present, least_significant_first=True)


def read_pairs(ids: Ids, prompt: Bools) -> tuple[Ints, Bools, Ints]:
    """Operands have their own digits' places; from `=` on, a token has the place of the digit that follows it."""
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
