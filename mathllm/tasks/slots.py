"""Writing many rows of different lengths at once.

A row is laid out in slots: fixed columns wide enough for any row, ABSENT where this row has nothing. Then
`compact` moves what is present to the left. So rows are written column by column, with no loop over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mathllm.tasks import CHAIN, TASKS
from mathllm.tasks.base import Problems
from mathllm.tasks.chain import MULTIPLY, SUBTRACT, count_numbers
from mathllm.tasks.numbers import Bools, Digits, Ints, widen
from mathllm.tokenizer import MINUS, PLUS, Ids, unflatten

ABSENT = 255

# slots are kept with the row last, [S, N], so that writing one of them touches contiguous memory
Slots = NDArray[np.uint8]


def token_slot(token: int, present: Bools) -> Slots:
    """One slot [1, N] with a token where `present` [N]."""
    return np.where(present, np.uint8(token), np.uint8(ABSENT))[None]


def constant(n: int, *tokens: int) -> Slots:
    """The same tokens in every row: [len(tokens), n]."""
    return np.repeat(np.array(tokens, np.uint8)[:, None], n, axis=1)


def number_slots(
    digits: Digits, lengths: Ints, least_significant_first: bool = False, hints: bool = False
) -> Slots:
    """The first `lengths` [N] of the digits [N, D] (zeros beyond them), as [S, N], in the order asked for; with
    `hints`, the last digit of its place (1 for the units) before each."""
    # a copy also where the transpose is contiguous already: the problems must not change
    slots = widen(digits, int(lengths.max(initial=1))).T.copy()
    slots[np.arange(len(slots))[:, None] >= lengths] = ABSENT
    if hints:
        assert least_significant_first, "a hint is counted from the units"
        place = np.arange(1, len(slots) + 1, dtype=np.uint8)[:, None] % 10
        slots = np.stack([np.where(slots == ABSENT, slots, place), slots], axis=1)  # [D, 2, N]
        return slots.reshape(2 * len(slots), -1 if slots.size else 0)
    return slots if least_significant_first else slots[::-1]


def value_slots(values: Ints | Digits, width: int, present: Bools | None = None) -> Slots:
    """Non-negative integers [N] in decimal, most significant digit first, in [width, N]."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    shown = values >= powers[:, None]
    shown[-1] = True
    if present is not None:
        shown &= present
    return np.where(shown, values // powers[:, None] % 10, ABSENT).astype(np.uint8)


def stack(parts: Sequence[Slots]) -> Slots:
    """Slots one after the other."""
    return np.concatenate(parts)


def compact(slots: Slots) -> tuple[Ids, Ints]:
    """Ids [N, T] (padded with `<end>`) and lengths [N] of slots [S, N]."""
    slots = np.ascontiguousarray(slots.T)
    present = slots != ABSENT
    lengths: Ints = present.sum(1)
    return unflatten(slots[present], lengths), lengths


def expression_slots(
    problems: Problems,
    least_significant_first: bool = False,
    widths: Ints | None = None,
    hints: bool = False,
) -> Slots:
    """`658+189`: the operands and the operator between them; `widths` [N] pads every operand with zeros."""
    if len(problems) and problems.task[0] == CHAIN:  # it goes with no other task
        return chain_slots(problems)
    longest = max(len(task.operator) for task in TASKS)
    operators = np.full((len(TASKS), longest), ABSENT, np.uint8)
    for code, task in enumerate(TASKS):
        operators[code, : len(task.operator)] = task.operator
    operator = operators[problems.task].T
    parts: list[Slots] = []
    for k in range(problems.operands.shape[1]):
        lengths = problems.lengths[:, k]
        present = lengths > 0
        if k:
            parts.append(np.where(present, operator, np.uint8(ABSENT)))
        if widths is not None:
            lengths = widths * present
        parts.append(number_slots(problems.operands[:, k], lengths, least_significant_first, hints))
    return stack(parts)


def chain_slots(problems: Problems) -> Slots:
    """`3+4*7`: the numbers of a chain and the operators between them."""
    digits, operators = problems.operands[:, 0].T, problems.operands[:, 1].T  # [D, N]
    first = np.where(operators == SUBTRACT, np.uint8(MINUS), np.uint8(PLUS))
    first = np.where(operators > 0, first, np.uint8(ABSENT))
    second = np.where(operators == MULTIPLY, np.uint8(PLUS), np.uint8(ABSENT))
    present = np.arange(len(digits))[:, None] < count_numbers(problems)
    slots = np.stack([first, second, np.where(present, digits, np.uint8(ABSENT))], axis=1)
    return slots.reshape(3 * len(digits), -1 if slots.size else 0)
