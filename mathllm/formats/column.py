"""Column arithmetic as in school, the default: `658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>`.

Every step is a true equation about one column: the digits of all operands (0 where one has none), the carry
or borrow if there is one, and what that makes. In a subtraction the steps take the smaller number from the
larger one, and may come out below zero (`2-9=-7`), which is a borrow: the answer's digit is then ten more. A
negative result shows only in the answer's sign.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.places import last_where, run_positions
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints, Numbers, carry_digits, column_differences, column_sums
from mathllm.tasks.slots import Slots, stack, token_slot, value_slots
from mathllm.tasks.subtraction import by_size
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, PLUS, Ids


def addition_steps(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    totals, carries = column_sums(problems.operands)
    total_digits = len(str(int(totals.max(initial=0))))
    parts: list[Slots] = []
    for place in range(problems.operands.shape[2]):
        shown = place < problems.widths
        for k in range(problems.operands.shape[1]):
            present = shown & (problems.lengths[:, k] > 0)
            if k:
                parts.append(token_slot(PLUS, present))
            parts.append(value_slots(problems.operands[:, k, place], 1, present))
        carried = shown & (carries[:, place] > 0)
        parts.append(token_slot(PLUS, carried))
        parts.append(value_slots(carries[:, place], carry_digits(problems.operands.shape[1]), carried))
        parts.append(token_slot(EQUALS, shown))
        parts.append(value_slots(totals[:, place], total_digits, shown))
    return stack(parts)


def subtraction_steps(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    larger, smaller, _ = by_size(problems)
    differences, borrows = column_differences(larger, smaller)
    parts: list[Slots] = []
    for place in range(larger.shape[1]):
        shown = place < problems.widths
        borrowed = shown & (borrows[:, place] > 0)
        difference = differences[:, place]
        parts.append(value_slots(larger[:, place], 1, shown))
        parts.append(token_slot(MINUS, shown))
        parts.append(value_slots(smaller[:, place], 1, shown))
        parts.append(token_slot(MINUS, borrowed))
        parts.append(value_slots(borrows[:, place], 1, borrowed))
        parts.append(token_slot(EQUALS, shown))
        parts.append(token_slot(MINUS, shown & (difference < 0)))
        parts.append(value_slots(np.abs(difference), 2, shown))
    return stack(parts)


def read_steps(ids: Ids, prompt: Bools) -> tuple[Ints, Bools, Ints]:
    """A step's place is one more than the number of steps whose `=` stands before."""
    equals = (ids == EQUALS) & ~prompt
    closing = (ids == END_THINK) & ~prompt
    answering = np.cumsum(closing, 1) > 0
    # the first `=` is the prompt's own: it belongs to no step
    steps_before = np.cumsum(equals, 1) - equals
    inside = np.where(prompt | answering, 0, steps_before)
    end = np.where(answering.any(1), answering.argmax(1), 0)
    subtracting = ((ids == MINUS) & prompt).any(1)
    digits = np.where(subtracting, _difference_digits(ids, equals, end), _sum_digits(equals, end))
    return inside, answering, np.maximum(digits, 0)


def _sum_digits(equals: Bools, end: Ints) -> Ints:
    """Digits [N] of a sum whose thought closes at column `end` [N]: one a step, and all of the last one's."""
    steps: Ints = (equals & (np.arange(equals.shape[1]) < end[:, None])).sum(1) - 1
    return steps + end - last_where(equals, end) - 2


def _difference_digits(ids: Ids, equals: Bools, end: Ints) -> Ints:
    """Digits [N] of a difference whose thought closes at column `end` [N].

    The highest step whose digit is not 0 says it; a step's digit is 0 after `=0` and `=-10`.
    """
    width = ids.shape[1]
    run_ends = run_positions((ids < 10)[:, ::-1])[:, ::-1]  # digits from here to the end of this run
    padded_ids = np.pad(ids, ((0, 0), (0, 3)), constant_values=EQUALS)
    runs = np.pad(run_ends, ((0, 0), (0, 3)))
    first, second, third = (padded_ids[:, i : i + width] for i in (1, 2, 3))
    ten = (first == MINUS) & (second == 1) & (third == 0) & (runs[:, 2 : width + 2] > 2)
    nonzero = equals & (first != 0) & ~ten & (np.arange(width) < end[:, None])
    step = np.cumsum(equals, 1) - 1
    highest: Ints = np.where(nonzero, step, 0).max(1, initial=1)
    return highest


COLUMN = Format(
    "column",
    "digit columns with carries and borrows, as in school",
    thoughts={"addition": addition_steps, "subtraction": subtraction_steps},
    read_thoughts=read_steps,
)
