"""Writing many rows of different lengths at once.

A row is laid out in slots: fixed columns wide enough for any row, ABSENT where this row has nothing. Then
`compact` moves what is present to the left. So rows are written column by column, with no loop over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, widen
from mathllm.tokenizer import MINUS, OPERATORS, Ids, unflatten

ABSENT = 255
# two slots for every operator, by its code
_OPERATOR_SLOTS = np.full((1 + len(OPERATORS), 2), ABSENT, np.uint8)
for _code, _tokens in enumerate(OPERATORS.values(), 1):
    _OPERATOR_SLOTS[_code, : len(_tokens)] = _tokens

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
    """`658+189`: the operands, with a minus where they are negative, and the operators between them; `widths` [N] pads
    every operand with zeros."""
    parts: list[Slots] = []
    for k in range(problems.operands.shape[1]):
        lengths = problems.lengths[:, k]
        if k:
            parts.append(operator_slots(problems.operators[:, k - 1]))
        if widths is not None:
            lengths = widths * (lengths > 0)
        if problems.negative[:, k].any():
            parts.append(token_slot(MINUS, problems.negative[:, k]))
        parts.append(number_slots(problems.operands[:, k], lengths, least_significant_first, hints))
    return stack(parts)


def operator_slots(operators: Digits) -> Slots:
    """The tokens of operators [N], given as codes: [2, N]."""
    return _OPERATOR_SLOTS[operators].T


def expression_lengths(problems: Problems, widths: Ints | None = None, hints: bool = False) -> Ints:
    """How many tokens [N] `expression_slots` writes."""
    lengths = problems.lengths if widths is None else widths[:, None] * (problems.lengths > 0)
    tokens = (_OPERATOR_SLOTS != ABSENT).sum(1)
    signs = problems.negative.sum(1)
    total: Ints = lengths.sum(1) * (1 + hints) + signs + tokens[problems.operators].sum(1)
    return total


def signed_slots(
    number: Numbers, widths: Ints | None, least_significant_first: bool, hints: bool = False
) -> Slots:
    """Numbers with a minus sign in front where they are negative; `widths` [N] pads them with zeros."""
    lengths = number.lengths if widths is None else np.maximum(number.lengths, widths)
    digits = number_slots(number.digits, lengths, least_significant_first, hints)
    return stack([token_slot(MINUS, number.negative), digits])
