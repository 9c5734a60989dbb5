"""Column arithmetic as in school, the default: `658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>`.

Every step is a true equation about one column: the digits of all operands (0 where one has none), the carry
or borrow if there is one, and what that makes. In a subtraction the steps take the smaller number from the
larger one, and may come out below zero (`2-9=-7`), which is a borrow: the answer's digit is then ten more. A
negative result shows only in the answer's sign. A product is by a factor of one digit: `8*7=56 5*7+5=40`.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format, Thought
from mathllm.formats.follow import NOTHING, Follower
from mathllm.tasks import Problems
from mathllm.tasks.numbers import (
    Bools,
    Ints,
    Numbers,
    column_differences,
    column_products,
    column_sums,
)
from mathllm.tasks.slots import Slots, operator_slots, stack, token_slot, value_slots
from mathllm.tasks.subtraction import by_size
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, MULTIPLY, PLUS, Ids


def _carry_and_total(carry: Ints, total: Ints, shown: Bools, total_digits: int) -> list[Slots]:
    carried = shown & (carry > 0)
    return [
        token_slot(PLUS, carried),
        value_slots(carry, len(str(int(carry.max(initial=0)))), carried),
        token_slot(EQUALS, shown),
        value_slots(total, total_digits, shown),
    ]


# `-10`, by how many tokens it is behind its `=`
TEN = np.array([NOTHING, MINUS, 1, 0, NOTHING, NOTHING], np.uint8)


class StepFollower(Follower):
    """Inside the thought a token's place is that of its step, and of the next step behind the `=`; the thought
    announces one digit of the answer for each step, and all digits of the last one's total."""

    def __init__(self, n: int, announced: Ints | None) -> None:
        super().__init__(n, np.zeros(n, np.int64) if announced is None else announced)
        self.known = announced is not None
        self.equals = np.zeros(n, np.int64)  # how many of them have come, the prompt's too
        self.since = np.zeros(n, np.int64)  # tokens since the last one
        self.single = np.zeros(n, np.bool_)  # has the answer a single digit, whatever the steps are?

    def think(self, ids: Ids) -> Ints:
        equals, closing = ids == EQUALS, (ids == END_THINK) & ~self.answering
        self.since = (self.since + 1) * ~equals
        if not self.known:
            self.count(ids, equals, closing)
        self.answering |= closing
        place: Ints = self.equals * ~self.answering
        self.equals += equals
        return place

    def count(self, ids: Ids, equals: Bools, closing: Bools) -> None:
        """Sees how many digits the answer has, where the thought closes."""
        if closing.any():
            digits = np.where(self.single, 1, np.maximum(self.equals + self.since - 3, 0))
            self.announced = np.where(closing, digits, self.announced)


class DifferenceFollower(StepFollower):
    """The same for differences: the highest step whose digit is not 0 announces the digits; it is 0 after `=0` and
    `=-10`.

    `=-10` is told from `=-1` and the next step's 0 by the digit that comes behind.
    """

    def __init__(self, n: int, announced: Ints | None) -> None:
        super().__init__(n, announced)
        self.highest = np.ones(n, np.int64)
        self.nonzero, self.ten = np.zeros((2, n), np.bool_)  # of the step that is being read

    def count(self, ids: Ids, equals: Bools, closing: Bools) -> None:
        since = np.minimum(self.since, 5)
        begins = since == 1
        self.nonzero &= ~(self.ten & (since == 4) & (ids < 10))
        self.nonzero = np.where(begins, ids != 0, self.nonzero)
        self.ten = (ids == TEN[since]) & (self.ten | begins) | (self.ten & (since > 3))
        step = np.where(self.nonzero & (equals | closing), self.equals - 1, 0)
        self.highest = np.maximum(self.highest, step)
        if closing.any():
            self.announced = np.where(closing, self.highest, self.announced)


class ColumnThought(Thought):
    """Steps by columns, from the units on."""

    follower: type[StepFollower] = StepFollower

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return self.follower(len(problems), announced)

    def step_starts(self, ids: Ids) -> Bools:
        """A run of digits between `=` and the next operator ends one digit before the run does: a step starts with an
        operand of one digit."""
        # one flat array, with something that is no digit around each row
        flat = np.pad(ids, ((0, 0), (2, 1)), constant_values=END_THINK).ravel()
        digit = flat < 10
        operator = (flat == PLUS) | (flat == MINUS)
        ends = np.flatnonzero(digit[2:-1] & digit[1:-2] & operator[3:]) + 2  # of runs, before an operator
        # the last token that is no digit
        opener = np.maximum.accumulate(np.where(digit, 0, np.arange(len(flat), dtype=np.int32)))[ends]
        result = (flat[opener] == EQUALS) | ((flat[opener] == MINUS) & (flat[opener - 1] == EQUALS))
        starts = np.zeros(len(flat), np.bool_)
        starts[ends[result]] = True
        starts = starts.reshape(len(ids), -1)[:, 2:-1]
        return starts


class Sums(ColumnThought):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
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
            parts += _carry_and_total(carries[:, place], totals[:, place], shown, total_digits)
        return stack(parts)


class Differences(ColumnThought):
    follower = DifferenceFollower

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
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


class Products(ColumnThought):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        digits, factors = problems.operands[:, 0], problems.operands[:, 1, 0]
        totals, carries = column_products(digits, factors)
        parts: list[Slots] = []
        for place in range(digits.shape[1]):
            shown = place < problems.lengths[:, 0]
            parts.append(value_slots(digits[:, place], 1, shown))
            parts.append(operator_slots(np.uint8(MULTIPLY) * shown))
            parts.append(value_slots(factors, 1, shown))
            parts += _carry_and_total(carries[:, place], totals[:, place], shown, 2)
        return stack(parts)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        follower = super().follow(problems, announced)
        assert isinstance(follower, StepFollower)
        follower.single = (problems.operands[:, 1] == 0).all(1)
        return follower

    def refusal(self, problems: Problems) -> tuple[Bools, str]:
        unlike = (problems.lengths[:, 1] > 1) | (problems.num_operands > 2)
        return unlike, "a column of products has a factor of one digit, the second one"


COLUMN = Format(
    "column",
    "digit columns with carries and borrows, as in school",
    thoughts={
        "addition": Sums(),
        "subtraction": Differences(),
        "multiplication": Products(),
    },
)
