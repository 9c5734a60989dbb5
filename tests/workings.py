"""Workings in rows as a person would write them, in Python's own numbers: the oracle of the format `scratchpad`."""

from __future__ import annotations

from collections.abc import Callable

from strategies import Question, as_typed

from mathllm.formats import rows
from mathllm.formats.rows import AXES, CELLS

# the states whose signs begin a row
BEGIN_ROWS = ("PARTIAL", "RUNNING", "REST", "AFTER_COUNT", "BORROWED", "TURNED")
SIGNS = {"+": "+", "-": "-", "*": "++", "/": "--", "%": "-+"}

Stand = Callable[[int], dict[str, int]]  # what a token of a number is about, by its place
Named = tuple[
    int, int
]  # a number of an expression, or what came of an operation, and which one it is, from 1


def units(number: int, width: int = 1) -> str:
    """The digits of a number, or of as many more as are missing below zero, from the units on."""
    return str(number % 10**width if number < 0 else number).zfill(width)[::-1]


class Text:
    """A text as it is written, token by token, and what each token itself is about: the working as a person would do
    it, in Python's numbers."""

    def __init__(self, question: Question, whole: bool = False) -> None:
        self.tokens: list[str] = []
        self.stands: list[dict[str, int]] = []
        self.step = 0
        self.count = len(question.operands)
        if self.count > 2 and (whole or question.symbol != "+"):
            self.expression(question)
        else:
            self.operation(question)

    @property
    def shown(self) -> str:
        """The text for people, with a space before each row of a working but the first."""
        begins = [getattr(rows, name) for name in BEGIN_ROWS]
        pieces = []
        for before, token, stand in zip(["", *self.tokens], self.tokens, self.stands, strict=False):
            fits = stand["segment"] == rows.FITS and token == "="
            begin = token in "+-=" and before != "<think>" and (fits or stand["segment"] in begins)
            pieces.append(" " * begin + token)
        return as_typed("".join(pieces))

    def put(self, token: str, segment: str, **axes: int) -> None:
        self.tokens.append(token)
        kind: int = getattr(rows, segment)
        self.stands.append({**dict.fromkeys(AXES, 0), "segment": kind, "step": self.step, **axes})

    def number(self, digits: str, end: str, segment: str, stand: Stand, *, below: bool = False) -> None:
        """Digits, with a minus if they are `below` zero, and the token that ends them, whose place is one more."""
        for at, token in enumerate(["-"] * below + [*digits, end], 1 - below):
            self.put(token, segment, **stand(max(at, 1)))

    def operation(self, question: Question) -> None:
        self.step = 1
        symbol, numbers = question.symbol, question.operands
        first, second = SIGNS[symbol][0], SIGNS[symbol][1:]
        for k, operand in enumerate(numbers, 1):
            end, segment = first if k < self.count else "=", "LEFT" if k == 1 else "RIGHT"
            if operand < 0:
                self.put("-", segment)
            self.number(units(abs(operand)), end, segment, named(k, operand_of(symbol, k)))
            if k < self.count and second:
                self.put(second, "OPERATOR")
        self.put("<think>", "OPEN")
        # what has a sign are factors, and the product has its own in the end
        stand = named(self.count + 1, self.working(symbol, *map(abs, numbers)))
        self.number(units(abs(question.answer)), "<end>", "RESULT", stand, below=question.answer < 0)
        self.ended()

    def expression(self, question: Question) -> None:
        reduced, turns = in_order(Question(question.symbol, tuple(map(abs, question.operands))))
        for k, operand in enumerate(question.operands):
            signs = SIGNS[question.symbols[k]] if k < self.count - 1 else "="
            if operand < 0:
                self.put("-", "NONE")
            self.number(units(abs(operand)), signs[0], "NONE", named(k + 1, lambda place: {}))
            if len(signs) == 2:
                self.put(signs[1], "OPERATOR")
            for stand in self.stands[-len(signs) :]:
                stand["step"] = turns.get(k, 0)
        self.put("<think>", "OPEN_STEPS")
        for self.step, (symbol, left, right, result) in enumerate(reduced, 1):
            self.operation_of(symbol, left, right, result)
            if self.step < len(reduced):
                self.put("<think>", "NEXT_STEP", step=0)
        self.step, (answer, name) = 0, result
        stand = named(name, lambda place: {"place": place})
        self.number(units(abs(answer)), "<end>", "ANSWER", stand, below=question.answer < 0)
        self.ended()

    def operation_of(self, symbol: str, *numbers: Named) -> None:
        """One of an expression's, with its working and its result."""
        (left, first), (right, second), (value, third) = numbers
        first_stand, second_stand = operand_of(symbol, 1), operand_of(symbol, 2)
        if left < 0:
            # the number below zero is what is taken away, which its sign tells
            first_stand, second_stand = second_stand, first_stand
        start = len(self.stands)
        self.number(units(abs(left)), SIGNS[symbol][0], "LEFT", named(first, first_stand), below=left < 0)
        if left < 0:
            self.stands[start]["row"] = 1
        if len(SIGNS[symbol]) == 2:
            self.put(SIGNS[symbol][1], "OPERATOR")
        self.number(units(right), "=", "RIGHT", named(second, second_stand))
        self.put("<think>", "OPEN")
        if left >= 0:
            stand = self.working(symbol, left, right)
        elif symbol == "+":
            stand = self.working("-", right, -left)
        else:
            stand = self.working("+", -left, right)
        self.number(units(abs(value)), "</think>", "RESULT", named(third, stand), below=value < 0)

    def working(self, symbol: str, *numbers: int) -> Stand:
        """Up to `</think>`; and what the digits of the result are about."""
        methods = {"+": self.sums, "-": self.differences, "*": self.products}
        return methods.get(symbol, lambda a, b: self.quotients(symbol, a, b))(*numbers)

    def sums(self, first: int, *others: int) -> Stand:
        total, row = first, 1
        self.put("+" if others[1:] else "</think>", "RUNNING", place=1, row=1)
        for row, other in enumerate(others[:-1], 2):
            total += other
            self.put("=", "SUM_EQUALS", row=row)
            end = "+" if row <= len(others) - 1 else "</think>"
            self.number(units(total), end, "RUNNING", on(row))
        return on(row + 1)

    def differences(self, left: int, right: int) -> Stand:
        width, row = len(str(max(left, right))), 2
        self.put("-", "FITS", row=1)
        self.put("=", "LESS_EQUALS", row=2)
        self.number(units(left - right, width), "+" if left >= right else "-", "DIFFERENCE", on(2))
        self.put("=", "FITS" if left >= right else "BORROWED", row=2)
        if left < right:
            row += 1
            self.number(units(right - left, width), "=", "TURNED", on(row))
        return self.struck(abs(left - right), width, row + 1)

    def struck(self, number: int, width: int, row: int) -> Stand:
        """A number from its highest place on, with a minus for every zero there."""
        for place, token in zip(
            range(width, -1, -1), [*str(number).rjust(width, "-"), "</think>"], strict=True
        ):
            self.put(token, "STRUCK", place=place, row=row)
        return on(row + 1)

    def products(self, left: int, right: int) -> Stand:
        width, total, factors = len(str(left)) + 1, 0, units(right)
        self.put("+", "RUNNING", place=1, row=0)
        for row, factor in enumerate(factors, 1):
            self.put("+", "FACTOR_SIGN", row=row)
            self.put(factor, "FACTOR", row=row)
            self.put("=", "FACTOR_EQUALS", row=row)
            self.number(units(left * int(factor), width), "+", "PARTIAL", on(row))
            self.put("=", "SUM_EQUALS", row=row)
            total = total // 10 + left * int(factor)
            end = "+" if row < len(factors) else "</think>"
            self.number(units(total, width), end, "RUNNING", on(row))
        last = len(factors)
        return lambda place: {"place": max(place - last, 0) + 1, "row": min(place, last)}

    def quotients(self, symbol: str, left: int, right: int) -> Stand:
        width = len(str(right))
        highest = max(len(str(left)) - width, 0)
        rest, row = left // 10 ** (highest + 1), 3
        above = units(rest, width - 1) if width > 1 else ""
        self.number(above, "+", "INITIAL", lambda p: {"place": p, "row": 1, "block": highest + 1 + p})
        for block in range(highest + 1, 0, -1):
            digit = left // 10 ** (block - 1) % 10
            rest, count = 10 * rest + digit, 0
            self.put(str(digit), "BROUGHT", row=row, block=block)
            self.put("=", "BROUGHT_EQUALS", row=row, block=block)
            self.number(units(rest, width + 1), "-", "REST", on(row, block))
            while True:
                row += 1
                self.put("=", "LESS_EQUALS", row=row, block=block)
                goes, difference = rest >= right, units(rest - right, width + 1)
                self.number(difference, "+" if goes else "-", "DIFFERENCE", on(row, block))
                count += goes
                self.put(str(count), "COUNT" if goes else "QUOTIENT", row=row, block=block)
                if not goes:
                    break
                rest -= right
                self.put("-", "AFTER_COUNT", row=row, block=block)
            end = "+" if block > 1 else "</think>" if symbol == "/" else "="
            self.put(end, "AFTER_COUNT", row=row, block=block)
            row += block > 1
        if symbol == "/":
            return lambda place: {"block": place}
        return self.struck(rest, width, row + 1)

    def ended(self) -> None:
        self.stands.append(dict.fromkeys(AXES, 0))  # behind `<end>`


def in_order(question: Question) -> tuple[list[tuple[str, Named, Named, Named]], dict[int, int]]:
    """The operations, each with its two numbers and its result, and when each operator, from 0, has its turn."""
    numbers = [(number, name) for name, number in enumerate(question.operands, 1)]
    symbols = [(symbol, gap) for gap, symbol in enumerate(question.symbols)]
    reduced, turns = [], {}
    while symbols:
        at = next((i for i, (symbol, _) in enumerate(symbols) if symbol in "*/%"), 0)
        symbol, gap = symbols.pop(at)
        left, right = numbers[at : at + 2]
        turns[gap] = len(reduced) + 1
        value = Question(symbol, (left[0], right[0])).answer
        result = value, len(question.operands) + turns[gap]
        numbers[at : at + 2] = [result]
        reduced.append((symbol, left, right, result))
    return reduced, turns


def on(row: int, block: int = 0) -> Stand:
    return lambda place: {"place": place, "row": row, "block": block}


def named(name: int, stand: Stand) -> Stand:
    return lambda place: {**stand(place), "cell": name * CELLS + place}


def operand_of(symbol: str, k: int) -> Stand:
    """What the digits of the number k of an operation, from 1, are about."""
    if symbol in "+-":
        return on(k)
    if symbol == "*":
        return (lambda place: {"place": place}) if k == 1 else (lambda place: {"row": place})
    return (lambda place: {"block": place}) if k == 1 else (lambda place: {"place": place})
