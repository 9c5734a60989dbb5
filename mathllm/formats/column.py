"""Column arithmetic as in school, the default: `658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>`.

Every step is a true equation about one column: the digits of all operands (0 where one has none), the carry
or borrow if there is one, and what that makes. In a subtraction the steps take the smaller number from the
larger one, and may come out below zero (`2-9=-7`), which is a borrow: the answer's digit is then ten more. A
negative result shows only in the answer's sign. Longer working is made of such steps:

| problem | thought |
| --- | --- |
| 58*7 | `8*7=56 5*7+5=40` |
| 12*34 | `2*4=8 1*4=4 2*3=6 1*3=3 8+0=8 4+6=10 0+3+1=4`: by each digit, and the sum |
| 98/12 | `98/12=8 2*8=16 1*8+1=9 8-6=2 9-9=0`: how often it goes, the product back, and what is left; unless it is 0 |
| 2+3*4 | `3*4=<think>3*4=12</think>12</think><think>2+12=<think>2+2=4 0+1=1</think>14`: formats.nested |
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.formats.column_parts import named_parts
from mathllm.formats.follow import NOTHING, Follower
from mathllm.formats.long_working import differences, least_tokens, most_tokens, sums, working
from mathllm.formats.nested import operations, workings
from mathllm.formats.thought import Thought
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints, Numbers
from mathllm.tasks.slots import Slots
from mathllm.tasks.subtraction import by_size
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, PLUS, Ids

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
        place: Ints = self.column() * ~self.answering
        self.equals += equals
        return place

    def column(self) -> Ints:
        """The place [N] of the step."""
        return self.equals

    def count(self, ids: Ids, equals: Bools, closing: Bools) -> None:
        """Sees how many digits the answer has, where the thought closes."""
        if closing.any():
            digits = np.where(self.single, 1, np.maximum(self.column() + self.since - 3, 0))
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


class ProductFollower(StepFollower):
    """The same for products of two numbers with so many digits [N]: the digit i of the product with digit j is about
    place i + j - 1, and the sum of these starts from the units again. Of more numbers no token has a place."""

    def __init__(self, problems: Problems, announced: Ints | None) -> None:
        super().__init__(len(problems), announced)
        self.single = (problems.operands[:, 1] == 0).all(1)
        self.several = problems.num_operands > 2
        self.length, factors = problems.lengths[:, 0].copy(), problems.lengths[:, 1]
        self.before_sum = self.length * factors * (factors > 1)

    def think(self, ids: Ids) -> Ints:
        place = super().think(ids)
        self.answering &= ~self.several
        return place * ~self.several

    def column(self) -> Ints:
        factor, digit = np.divmod(np.maximum(self.equals - 1, 0), self.length)
        inside = (self.equals > 0) & (self.equals <= self.before_sum)
        return np.where(inside, factor + digit + 1, np.maximum(self.equals - self.before_sum, 0))


class NoPlaces(Follower):
    """For workings that go up and down between places, so that no token has one."""

    def think(self, ids: Ids) -> int:
        return 0


class ColumnThought(Thought):
    """Steps by columns, from the units on."""

    follower: type[StepFollower] = StepFollower

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return self.follower(len(problems), announced)

    def step_starts(self, ids: Ids) -> Bools:
        return steps_begin(ids)

    def parts(self, problems: Problems, ids: Ids, columns: Ints) -> list[list[tuple[str, str]]]:
        return named_parts(problems, ids, columns, self.step_starts(ids))


class Sums(ColumnThought):
    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return sums(problems.operands, problems.lengths > 0, problems.widths)


class Differences(ColumnThought):
    follower = DifferenceFollower

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        larger, smaller, _ = by_size(problems)
        return differences(larger, smaller, problems.widths)[0]


class Expressions(ColumnThought):
    """Long working of one operation, or of several one after the other."""

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return workings(problems, working, least_significant_first=False)

    def estimate(self, problems: Problems) -> Ints:
        return operations(problems, least_tokens)

    def most(self, problems: Problems) -> Ints:
        return operations(problems, most_tokens)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return NoPlaces(len(problems))

    def knows_places(self, announced: bool, operands: int) -> bool:
        return False

    def step_starts(self, ids: Ids) -> Bools:
        return steps_begin(ids, quotients=True)


class Products(Expressions):
    """That of a single digit is the column itself."""

    def most(self, problems: Problems) -> Ints:
        return super().most(problems) * (problems.num_operands > 2)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return ProductFollower(problems, announced)

    def knows_places(self, announced: bool, operands: int) -> bool:
        return operands == 2

    def step_starts(self, ids: Ids) -> Bools:
        return steps_begin(ids)


def steps_begin(ids: Ids, quotients: bool = False) -> Bools:
    """Before which tokens [N, T] a step begins that no token separates from the one before: it starts with an operand
    of one digit, so a run of digits between `=` and the next operator ends one digit before the run does. With
    `quotients` a step may start with a longer number, behind a digit of the quotient or a difference not below zero:
    these have one digit."""
    # one flat array, with something that is no digit around each row
    flat = np.pad(ids, ((0, 0), (2, 1)), constant_values=END_THINK).ravel()
    digit = flat < 10
    operator = (flat == PLUS) | (flat == MINUS)
    ends = np.flatnonzero(digit[2:-1] & digit[1:-2] & operator[3:]) + 2  # of runs, before an operator
    # the last token that is no digit
    openers = np.maximum.accumulate(np.where(digit, 0, np.arange(len(flat), dtype=np.int32)))
    opener = openers[ends]
    result = (flat[opener] == EQUALS) | ((flat[opener] == MINUS) & (flat[opener - 1] == EQUALS))
    starts = np.zeros(len(flat), np.bool_)
    starts[ends[result]] = True
    if quotients:
        equals = np.flatnonzero(flat == EQUALS)
        short = np.zeros(len(flat), np.bool_)  # `=` of steps with a result of one digit
        short[equals] = flat[openers[equals - 1]] == MINUS
        starts &= ~short[openers]
        starts[2:] |= short[:-2] & digit[1:-1] & digit[2:]
    starts = starts.reshape(len(ids), -1)[:, 2:-1]
    return starts


COLUMN = Format(
    "column",
    "digit columns with carries and borrows, as in school",
    thoughts={
        "addition": Sums(),
        "subtraction": Differences(),
        "multiplication": Products(),
        **dict.fromkeys(("division", "remainder", "arithmetic"), Expressions()),
    },
)
