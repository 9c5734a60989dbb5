"""Where the tokens of workings in rows stand (see formats.scratchpad): an automaton, given as tables.

Its states are the kinds of tokens that come next, and are told to a model as `segment`. A text says itself what comes
next in it: of the problem only what its prompt shows is used, never its truth. The axes:

- `place`: the place of a digit in its row, 1 for the units, and one more for what ends the row;
- `row`: the row of the working; so a digit of a product's multiplier has the row of its own place;
- `block`: the digit of a quotient, and that of the dividend which is brought down for it. Each of the digits before the
  first of these is found by a block of its own, and read later as what is left in the block before it: `own_block`;
- `step`: the operation of an expression, and the operator that asks for it;
- `cell`: a digit of a number, wherever this number is written: what is copied has the cell of what it is copied from,
  its `own_cell`. A result is copied from later, but is no copy itself: it has an `own_cell` only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mathllm.formats.follow import Coordinates, Follower, run_positions
from mathllm.tasks.numbers import Bools, Digits, Ints
from mathllm.tokenizer import (
    ADD,
    DIVIDE,
    END,
    END_THINK,
    EQUALS,
    MINUS,
    MULTIPLY,
    OPERATORS,
    PLUS,
    REMAINDER,
    SUBTRACT,
    THINK,
    VOCAB_SIZE,
    Ids,
)

AXES = ("place", "row", "block", "own_block", "step", "cell", "own_cell", "segment")
CELLS = 1 << 14  # of a number, and more than any number has digits

# what comes next: a digit of a row, or what ends it; or the one token that the name says
(
    NONE,  # and in prompts: a number of a long expression
    OPEN_STEPS,
    LEFT,
    OPERATOR,  # its second sign
    RIGHT,
    OPEN,
    FACTOR_SIGN,
    FACTOR,
    FACTOR_EQUALS,
    PARTIAL,
    SUM_EQUALS,
    RUNNING,
    INITIAL,
    BROUGHT,
    BROUGHT_EQUALS,
    REST,
    LESS_EQUALS,
    DIFFERENCE,
    COUNT,
    QUOTIENT,
    AFTER_COUNT,
    FITS,
    BORROWED,
    TURNED,
    STRUCK,
    RESULT,
    NEXT_STEP,
    ANSWER,
) = range(28)

_DIGITS = tuple(range(10))
_ALL = (ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER)
_DIVIDING = (DIVIDE, REMAINDER)
_ROWS = (LEFT, RIGHT, PARTIAL, RUNNING, INITIAL, REST, DIFFERENCE, TURNED, STRUCK, RESULT, ANSWER)


def _table() -> Ids:
    """The next state [operator, state, token]; where a text has a token that belongs nowhere, the state stays."""
    table = np.empty((1 + len(OPERATORS), 1 + ANSWER, VOCAB_SIZE), np.uint8)
    table[:] = np.arange(1 + ANSWER)[:, None]

    def rule(operators: Iterable[int], state: int, tokens: int | tuple[int, ...], after: int) -> None:
        for operator in operators:
            table[operator, state, tokens] = after

    rule(_ALL, OPEN_STEPS, THINK, LEFT)
    rule(_ALL, OPERATOR, (PLUS, MINUS), RIGHT)
    rule(_ALL, RIGHT, EQUALS, OPEN)
    rule(_ALL, NEXT_STEP, THINK, LEFT)
    for operator, tokens in enumerate(OPERATORS.values(), 1):
        table[operator, LEFT, (PLUS, MINUS)] = OPERATOR if len(tokens) == 2 else RIGHT
    for operator, first in ((ADD, RUNNING), (SUBTRACT, FITS), (MULTIPLY, RUNNING)):
        table[operator, OPEN, THINK] = first
    rule(_DIVIDING, OPEN, THINK, INITIAL)
    # sums so far
    table[ADD, RUNNING, PLUS] = SUM_EQUALS
    rule((ADD, MULTIPLY), SUM_EQUALS, EQUALS, RUNNING)
    # partial products
    table[MULTIPLY, RUNNING, PLUS] = FACTOR_SIGN
    table[MULTIPLY, FACTOR_SIGN, PLUS] = FACTOR
    table[MULTIPLY, FACTOR, _DIGITS] = FACTOR_EQUALS
    table[MULTIPLY, FACTOR_EQUALS, EQUALS] = PARTIAL
    table[MULTIPLY, PARTIAL, PLUS] = SUM_EQUALS
    # quotients: bring a digit down, and subtract while it goes
    rule(_DIVIDING, INITIAL, PLUS, BROUGHT)
    rule(_DIVIDING, BROUGHT, _DIGITS, BROUGHT_EQUALS)
    rule(_DIVIDING, BROUGHT_EQUALS, EQUALS, REST)
    rule(_DIVIDING, REST, MINUS, LESS_EQUALS)
    rule(_DIVIDING, LESS_EQUALS, EQUALS, DIFFERENCE)
    rule(_DIVIDING, DIFFERENCE, PLUS, COUNT)
    rule(_DIVIDING, DIFFERENCE, MINUS, QUOTIENT)
    rule(_DIVIDING, COUNT, _DIGITS, AFTER_COUNT)
    rule(_DIVIDING, QUOTIENT, _DIGITS, AFTER_COUNT)
    rule(_DIVIDING, AFTER_COUNT, MINUS, LESS_EQUALS)
    rule(_DIVIDING, AFTER_COUNT, PLUS, BROUGHT)
    rule(_DIVIDING, AFTER_COUNT, EQUALS, STRUCK)
    # differences
    table[SUBTRACT, FITS, MINUS] = LESS_EQUALS
    table[SUBTRACT, LESS_EQUALS, EQUALS] = DIFFERENCE
    table[SUBTRACT, DIFFERENCE, PLUS] = FITS
    table[SUBTRACT, DIFFERENCE, MINUS] = BORROWED
    table[SUBTRACT, FITS, EQUALS] = STRUCK
    table[SUBTRACT, BORROWED, EQUALS] = TURNED
    table[SUBTRACT, TURNED, EQUALS] = STRUCK
    for state in (RUNNING, AFTER_COUNT, STRUCK):
        table[:, state, END_THINK] = RESULT
    rule(_ALL, RESULT, END_THINK, NEXT_STEP)
    return table


_AFTER = _table()
_IS_ROW = np.isin(np.arange(1 + ANSWER), _ROWS)
_SHAPE = (1 + len(OPERATORS), 1 + ANSWER)


def _marked(*cells: tuple[int | tuple[int, ...], int | tuple[int, ...], int]) -> Ints:
    """A table by operator and state of the numbers given for some operators and states, and 0 elsewhere."""
    table = np.zeros(_SHAPE, np.int64)
    for operators, states, value in cells:
        table[np.ix_(np.atleast_1d(operators), np.atleast_1d(states))] = value
    return table


_WORKING = (*range(FACTOR_SIGN, TURNED + 1), STRUCK, RESULT)
_ADDITIVE = (ADD, SUBTRACT)
# of the row that a text is in: how many more they are where a state begins
_NEXT_ROW = _marked(
    (ADD, SUM_EQUALS, 1),
    (MULTIPLY, FACTOR_SIGN, 1),
    (_DIVIDING, BROUGHT, 1),
    (_ALL, (LESS_EQUALS, TURNED, STRUCK), 1),
    ((ADD, SUBTRACT, REMAINDER), RESULT, 1),
)
# what is told: 1 for the row and block that a text is in, how often the place counts, and the rows of operands
_TOLD = np.stack(
    [
        _marked((_ALL, _ROWS, 1), (MULTIPLY, RIGHT, 0), (_DIVIDING, LEFT, 0), (DIVIDE, RESULT, 0)),
        _marked((_ALL, _WORKING, 1), (DIVIDE, RESULT, 0)),
        _marked((MULTIPLY, RIGHT, 1)),
        _marked((_ADDITIVE, LEFT, 1), (_ADDITIVE, RIGHT, 2)),
        _marked((_DIVIDING, tuple(range(INITIAL, AFTER_COUNT + 1)), 1)),
        _marked((_DIVIDING, (LEFT, INITIAL), 1), (DIVIDE, RESULT, 1)),
    ]
)


def stand(operator: Ints, state: Ints, place: Ints, row: Ints | int, block: Ints | int) -> dict[str, Ints]:
    """Where a token is in the working of an operation."""
    places, rows, row_by_place, operand, blocks, block_by_place = _TOLD[:, operator, state]
    return {
        "segment": state,
        "place": places * place,
        "row": rows * row + row_by_place * place + operand,
        "block": blocks * block + block_by_place * place,
    }


def _actions() -> Ints:
    """What a token does, by operator, state and token: the next state; how often the place before and the width count
    in the next place, and what is added to it; what is added to the row and to the block; whether the width is that of
    the row which ends, and how much less; whether there is more to do."""
    table = np.zeros((*_AFTER.shape, 9), np.int64)
    operator, before, token = np.indices(_AFTER.shape)
    after = _AFTER.astype(np.int64)
    same = after == before
    digit = (token < 10) | ((before == STRUCK) & (token == MINUS))
    row = _IS_ROW[before]
    ended = (token == END) & ((before == RESULT) | (before == ANSWER))
    table[..., 0] = np.where(ended, NONE, after)
    table[..., 1] = same & row & ~ended
    table[..., 2] = ~same & (after == STRUCK)
    counted = np.where(before == STRUCK, -1, 1) * (digit & row)
    table[..., 3] = np.where(same, counted, _IS_ROW[after] & (after != STRUCK))
    table[..., 4] = ~same * (_NEXT_ROW[operator, after] + (before == INITIAL))
    table[..., 5] = -(~same & (after == BROUGHT) & (before == AFTER_COUNT)).astype(np.int64)
    table[..., 6] = ~same & (before == DIFFERENCE)
    table[..., 7] = 1 + (operator == REMAINDER)
    begins = np.isin(before, (LEFT, RIGHT, OPEN)) | np.isin(after, (LEFT, NEXT_STEP))
    table[..., 8] = begins & (~same | (token == MINUS))
    return table.reshape(-1, 9)


_ACTION = _actions()


class RowsFollower(Follower):
    """Follows workings of one operation each, or (`steps`) of all operations of expressions one after the other.

    `operators` [N, R] are those of the operations in their order, `left` and `right` [N, R] the numbers that each takes
    (from 0 those of the expression, of which there are `numbers` [N], and then the results of the operations),
    `lengths` [N, 2] the digits of the numbers in texts of one operation."""

    def __init__(
        self, operators: Ints, left: Ints, right: Ints, *, numbers: Ints, lengths: Ints, steps: Bools
    ) -> None:
        n = len(operators)
        super().__init__(n)
        self.operators, self.left, self.right, self.steps = operators, left, right, steps
        self.numbers = numbers
        self.digits_left, self.digits_right = lengths[:, 0].copy(), lengths[:, 1].copy()
        self.operations = (operators > 0).sum(1)
        self.operator = operators[:, 0].copy()
        self.state, self.place, self.row, self.block, self.width = np.zeros((5, n), np.int64)
        self.step = np.where(steps, 0, 1)
        self.own_cell, self.own_block = np.zeros((2, n), np.int64)  # of what comes next
        self.signed = np.zeros(n, np.bool_)  # has the number that is being written a sign?

    @property
    def resting(self) -> bool:
        return not (self.waiting or any(told.any() for told in (self.state, self.own_cell, self.own_block)))

    def push(self, ids: Ids) -> Coordinates:
        some: Bools | None = None
        if self.waiting:
            begins = ~self.started & (ids == EQUALS)
            self.state = np.where(begins, np.where(self.steps, OPEN_STEPS, OPEN), self.state)
            self.started, some = self.started | begins, self.started
            self.waiting = not self.started.all()
        action = _ACTION[(self.operator * (1 + ANSWER) + self.state) * VOCAB_SIZE + ids]
        if some is not None:
            action = np.where(some[:, None], action, [0, 1, 0, 0, 0, 0, 0, 0, 0])
            action[:, 0] = np.where(some, action[:, 0], self.state)
        after, keeps, wide, more, rows, blocks, ends, less, begins = action.T
        place, before = self.place, self.state
        self.width = np.where(ends, place - less, self.width)
        # what a model writes may go on longer than the working does; it is about none then
        self.place = np.maximum(place * keeps + self.width * wide + more, 0)
        self.row = self.row + rows
        self.block = np.maximum(self.block + blocks, 0)
        self.state = after
        if begins.any():
            self._begin(np.flatnonzero(begins), before, place, ids)
        return self._told()

    def _begin(self, rows: NDArray[np.int64], before: Ints, place: Ints, ids: Ids) -> None:
        """In some rows a number ends that others depend on, or a new operation begins, its working, or the answer."""
        was, now, length = before[rows], self.state[rows], place[rows] - 1
        # a sign before the first digit of a number is no operator
        sign = (was == LEFT) & (length == 0) & (ids[rows] == MINUS) & ~self.signed[rows]
        self.signed[rows] |= sign
        self.state[rows[sign]], self.place[rows[sign]] = LEFT, 1
        left = (was == LEFT) & (now != LEFT) & ~sign
        self.digits_left[rows[left]] = length[left]
        right = (was == RIGHT) & (now != RIGHT)
        self.digits_right[rows[right]] = length[right]
        # -a+b is worked out as b-a, and -a-b as -(a+b)
        turned = rows[left & self.signed[rows] & (self.operator[rows] <= SUBTRACT)]
        self.operator[turned] = ADD + SUBTRACT - self.operator[turned]
        works = rows[(was == OPEN) & (now != OPEN)]
        self.row[works] = self.operator[works] != MULTIPLY
        self.block[works] = 1 + np.maximum(self.digits_left - self.digits_right, 0)[works]
        # the last result is followed by the answer
        last = rows[(now == NEXT_STEP) & (was != NEXT_STEP) & (self.step >= self.operations)[rows]]
        self.state[last], self.place[last] = ANSWER, 1
        opens = rows[(now == LEFT) & (was != LEFT)]
        self.step[opens] += 1
        self.operator[opens] = self.operators[
            opens, np.minimum(self.step[opens], self.operators.shape[1]) - 1
        ]
        self.signed[opens] = False

    def _told(self) -> Coordinates:
        state, place = self.state, self.place
        told = stand(self.operator, state, place, self.row, self.block)
        # a product's digit is the first of its row, or one of the last row's
        product = (state == RESULT) & (self.operator == MULTIPLY)
        if product.any():
            told["place"] = np.where(product, np.maximum(place - self.row, 0) + 1, told["place"])
            told["row"] = np.where(product, np.minimum(place, self.row), told["row"])
        told["step"] = self.step * ((state >= LEFT) & (state <= RESULT))
        copied = (state == RESULT) | (state == ANSWER)
        number = self.numbers + self.step
        if self.steps.any():
            operand = (state == LEFT) | (state == RIGHT)
            # those of -a+b change their roles
            told["row"] = np.where(operand & self.signed, 3 - told["row"], told["row"])
            operation = np.clip(self.step, 1, self.operators.shape[1])[:, None] - 1
            left, right = (np.take_along_axis(taken, operation, 1)[:, 0] for taken in (self.left, self.right))
            number = np.where(operand, 1 + np.where(state == LEFT, left, right), number)
            copied |= operand
        told["own_cell"], self.own_cell = self.own_cell, (number * CELLS + place) * copied
        told["cell"] = self.own_cell * (state != RESULT)
        told["own_block"] = self.own_block
        self.own_block = np.where(state == INITIAL, self.block + 1, told["block"])
        return told


_NAMES = {
    "operation": (LEFT, OPERATOR, RIGHT),
    "multiplier's digit": (FACTOR_SIGN, FACTOR, FACTOR_EQUALS),
    "partial product": (PARTIAL,),
    "sum so far": (SUM_EQUALS, RUNNING),
    "digits above the first one brought down": (INITIAL,),
    "digit brought down": (BROUGHT, BROUGHT_EQUALS, REST),
    "subtraction": (FITS, LESS_EQUALS, DIFFERENCE, BORROWED, TURNED),
    "count of subtractions": (COUNT, AFTER_COUNT),
    "quotient digit": (QUOTIENT,),
    "what is left": (STRUCK,),
    "result": (RESULT,),
    "answer": (ANSWER,),
}
_NAME_OF = {state: name for name, states in _NAMES.items() for state in states}


def part_name(state: int, row: int, block: int, place: int, step: int, *, several: bool) -> tuple[str, str]:
    """What a token with these coordinates belongs to, and where that is: `partial product`, `3, digit 2`."""
    if state == RUNNING and row == 0:  # before the first row of a product there is no sum
        state, row, place = FACTOR_SIGN, 1, 0
    name = _NAME_OF.get(state, "thought")
    where = [f"of operation {step}"] * (several and step > 0)
    if state in (PARTIAL, SUM_EQUALS, RUNNING, FACTOR_SIGN, FACTOR, FACTOR_EQUALS):
        where.append(f"in row {row}")
    if block:
        where.append(f"for quotient digit {block} from the right")
    if place and state in _ROWS:
        where.append(f"at digit {place}")
    return name, " ".join(where)


def of_prompts(ids: Ids, operators: Digits, order: Ints | Digits, *, steps: Bools) -> dict[str, Ints]:
    """Where tokens [N, T] of prompts stand; `operators` [N, K - 1] as they are written, `order` [N, K - 1] the step at
    which each is worked out, from 1."""
    digit = ids < 10
    ends = np.pad(digit[:, :-1], ((0, 0), (1, 0))) & ~digit
    place = run_positions(digit)
    place[:, 1:] += (1 + place[:, :-1]) * ends[
        :, 1:
    ]  # one more than its number's last digit's for what ends it
    number = np.cumsum(digit & np.pad(~digit[:, :-1], ((0, 0), (1, 0)), constant_values=True), 1)  # from 1
    shape = operators.shape
    which = np.clip(number - 1, 0, shape[1] - 1)  # the operator behind a number
    operator = ~digit & (ids != EQUALS)
    second = operator & ~ends
    # a minus at the front, or behind both tokens of an operator, is the sign of a number
    sign = second & (ids == MINUS) & np.pad(second[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    several = steps[:, None]
    of_number = np.where(several, NONE, np.where(number + sign == 1, LEFT, RIGHT))
    state = np.where(second & ~sign, OPERATOR, of_number)
    place = np.where(second, 0, place)
    first = np.broadcast_to(operators[:, :1].astype(np.int64), ids.shape)
    told = stand(first, state, place, 0, 0)
    # sums of more than two numbers: each is on a row of its own
    told["row"] = np.where((first == ADD) & (state == RIGHT), number, told["row"])
    # a text of one operation is its first step, of which every token is a part
    turn = np.take_along_axis(order.astype(np.int64), which, 1) * (operator & ~sign)
    told["step"] = np.where(several, turn, 1)
    told["own_block"] = told["block"]
    told["cell"] = told["own_cell"] = (number * CELLS + place) * (place > 0)
    return told
