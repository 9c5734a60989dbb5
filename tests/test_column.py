"""School working: every step is the one that a person writes, and is called what it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALL, Question, arrays, ask, batches, integers_of
from workings import in_order

from mathllm.errors import UsageError
from mathllm.formats import FORMATS, get_format
from mathllm.tasks import Sampling, get_tasks
from mathllm.tokenizer import EQUALS, encode

COLUMN = FORMATS["column"]
FIRST, LAST = "beginning of the working", "end of the working"


class Paper:
    """A thought as a person writes it, in Python's numbers: pieces of text, each with what it belongs to and the place
    that it is about, or that of the next step behind a `=`."""

    def __init__(self, question: Question) -> None:
        self.pieces: list[tuple[str, str, str]] = []
        self.places: list[int] = []  # of steps
        self.after = ""  # where an operation of several is
        if len(question.operands) > 2 and question.symbol != "+":
            bare = Question(question.symbol, tuple(map(abs, question.operands)))  # of factors' signs
            for number, (symbol, (left, _), (right, _), (result, _)) in enumerate(in_order(bare)[0], 1):
                self.after = f"of operation {number}"
                self.put("<think>", FIRST)
                self.put(f"{left}{symbol}{right}=", "operation or its result")
                self.put("<think>", FIRST)
                self.operation(symbol, (left, right))
                self.put("</think>", LAST)
                self.put(str(result), "operation or its result")
                self.put("</think>", LAST)
        else:
            self.put("<think>", FIRST)
            self.operation(question.symbol, question.operands)
            self.put("</think>", LAST)

    @property
    def text(self) -> str:
        return "".join(text for text, _, _ in self.pieces)

    def put(self, text: str, name: str, where: str = "") -> None:
        self.pieces.append((text, name, " ".join(filter(None, (where, self.after)))))

    def operation(self, symbol: str, numbers: tuple[int, ...]) -> None:
        if numbers[0] < 0 and symbol in "+-":  # -a+b is b-a, and -a-b is -(a+b)
            symbol = "-" if symbol == "+" else "+"
        numbers = tuple(map(abs, numbers))
        long = symbol == "*" and numbers[1] > 9
        if symbol == "+":
            self.sum(list(numbers))
        elif symbol == "-":
            self.difference(max(numbers), min(numbers))
        elif symbol == "*":
            rows = []
            for at, digit in enumerate(reversed(str(numbers[1]))):
                where = f" of partial product {at + 1}" * long
                rows.append(self.product(numbers[0], int(digit), " of a partial product" * long, at, where))
            if long:
                self.sum(rows, " of the sum of partial products")
        else:
            self.division(*numbers)

    def step(self, terms: list[int], sign: str, carry: int, total: int, *, of: str, where: str) -> None:
        last = self.pieces[-1][0]
        space = " " * (last != "<think>")
        minus = sign == "-"
        for number, term in enumerate(terms, 1):
            self.put(
                (space if number == 1 else sign) + str(term),
                "copied digit" + of,
                f"of number {number} {where}",
            )
        handed = "+-"[minus] + str(carry) if carry else ""
        self.put(handed + "=", ("borrow" if minus else "carry") + of, where)
        self.put(str(total), ("difference" if minus else "total") + of, where)

    def sum(self, numbers: list[int], of: str = "") -> None:
        carry = 0
        for place in range(max(len(str(number)) for number in numbers)):
            digits = [number // 10**place % 10 for number in numbers]
            total = sum(digits) + carry
            self.places.append(place + 1)
            self.step(digits, "+", carry, total, of=of, where=f"in column {place + 1}")
            carry = total // 10

    def difference(self, left: int, right: int, of: str = "", where: str = "") -> None:
        borrow = 0
        for place in range(len(str(left))):
            digits = [number // 10**place % 10 for number in (left, right)]
            total = digits[0] - digits[1] - borrow
            self.places.append(place + 1)
            self.step(digits, "-", borrow, total, of=of, where=f"in column {place + 1}{where}")
            borrow = int(total < 0)

    def product(self, left: int, digit: int, of: str, at: int = 0, where: str = "") -> int:
        """Of a number and a digit; back comes what it adds to a sum of such."""
        carry = 0
        for place, one in enumerate(map(int, reversed(str(left)))):
            total = one * digit + carry
            self.places.append(place + at + 1)
            self.step([one, digit], "*", carry, total, of=of, where=f"in column {place + 1}{where}")
            carry = total // 10
        return left * digit * 10**at

    def division(self, left: int, right: int) -> None:
        digits, rest = len(str(left // right)), 0
        for at in range(1, digits + 1):
            # the first head leaves as many digits as the quotient has more
            begin = left // 10 ** (digits - at)
            head, where = (
                begin if at == 1 else rest * 10 + begin % 10,
                f"for quotient digit {at} from the left",
            )
            times, rest = divmod(head, right)
            space = " " * (self.pieces[-1][0] != "<think>")
            self.put(f"{space}{head}/{right}=", "copied number of a division", where)
            self.put(str(times), "quotient digit", f"{at} from the left")
            if times:
                self.product(right, times, " of a product", where=" " + where)
                self.difference(head, right * times, " of a subtraction", " " + where)


def check(asked: list[Question], *, zero_pad: bool = False) -> None:
    """Is every thought of these the one of a person, and does a report call each token what it is?"""
    notation = get_format("column", zero_pad)
    problems = arrays(asked)
    rendered = notation.render(problems)
    texts = notation.texts(problems, rendered.ids, rendered.lengths)
    for row, (question, text) in enumerate(zip(asked, texts, strict=True)):
        paper = Paper(question)
        prompt, equals, rest = text.partition("=")
        assert rest[: rest.rindex("</think>") + len("</think>")] == paper.text, (prompt, equals)
        assert int(rest[rest.rindex("</think>") + 8 : -len("<end>")]) == question.answer
        named = [
            (name, where)
            for piece, name, where in paper.pieces
            for _ in range(len(encode(piece.replace(" ", ""))))
        ]
        start = int(rendered.prompt_lengths[row])
        rows = np.full(len(named), row)
        found = notation.parts(rendered[rows], np.arange(start, start + len(named)))
        assert found == named
    parsed = notation.parse(rendered.ids)
    assert integers_of(parsed.answer) == [question.answer for question in asked]
    assert (parsed.well_formed & parsed.ended).all()


@given(batches(max_size=4, max_digits=6, max_operands=6, symbols=ALL), st.booleans())
def test_every_step_is_the_one_of_a_person_and_is_called_what_it_is(
    asked: list[Question], zero_pad: bool
) -> None:
    check(asked, zero_pad=zero_pad)


def test_corners() -> None:
    numbers = [0, 1, 9, 10, 11, 99, 100, 101, 900, 999, 1000]
    check([Question(symbol, (a, b)) for symbol in "+-*" for a in numbers for b in numbers])
    check([Question(symbol, (a, b)) for symbol in "/%" for a in numbers for b in numbers[1:]])
    # carries of two digits, and totals of three
    check(
        [
            Question("*", (10**14 - 1, 10**14 - 1)),
            Question("*", (5, 10**14 - 1)),
            Question("*", (10**14 - 1, 10)),
        ]
    )


WHOLE = {
    "2+3*4": "<think>3*4=<think>3*4=12</think>12</think><think>2+12=<think>2+2=4 0+1=1</think>14</think>14",
    "1-8-4": "<think>1-8=<think>8-1=7</think>-7</think><think>-7-4=<think>7+4=11</think>-11</think>-11",
    "1-8+9": "<think>1-8=<think>8-1=7</think>-7</think><think>-7+9=<think>9-7=2</think>2</think>2",
    "2*3*4": "<think>2*3=<think>2*3=6</think>6</think><think>6*4=<think>6*4=24</think>24</think>24",
}


@pytest.mark.parametrize(("problem", "rest"), WHOLE.items())
def test_expressions_are_worked_out_one_operation_after_the_other(problem: str, rest: str) -> None:
    problems = arrays([ask(problem)])
    assert COLUMN.texts(problems, COLUMN.render(problems).ids) == [f"{problem}={rest}<end>"]


@given(batches(max_size=3, max_digits=4, symbols="+-*", max_operands=2), st.booleans())
def test_a_product_goes_from_place_to_place(asked: list[Question], zero_pad: bool) -> None:
    notation, problems = get_format("column", zero_pad), arrays(asked)
    rendered = notation.render(problems)
    places = notation.coordinates(problems, rendered.ids, ("place",))["place"]
    for row, question in enumerate(asked):
        steps = Paper(question).places
        start, column = int(rendered.prompt_lengths[row]), rendered.ids[row].tolist()
        expected = []
        for token in column[start:]:
            if len(steps) == 0:
                break
            expected.append(steps[0])
            if token == EQUALS:
                steps.pop(0)
        assert places[row, start : start + len(expected)].tolist() == expected


def test_of_several_factors_no_token_has_a_place() -> None:
    problems = arrays([ask("12*3*4"), ask("12*34")])
    told = COLUMN.coordinates(problems, COLUMN.render(problems).ids, ("place",))["place"]
    assert not told[0, 7:].any()
    assert told[1, 7:].any()


# texts as they come, and the lines that are shown of them
def test_steps_are_shown_one_a_line_as_they_come() -> None:
    for text in ("98/12", "203/2", "1000/7", "100%99", "123*45", "2-17%4*3", "12*34*56", "1-8-4"):
        problems = arrays([ask(text)])
        rendered = COLUMN.render(problems)
        completion = rendered.ids[0, rendered.prompt_lengths[0] : rendered.lengths[0]].tolist()
        shown = ""
        for end in range(1, len(completion) + 1):
            pieces = COLUMN.texts(problems, np.array([completion[:end]], np.uint8))[0]
            # but for the last token, which may turn out to begin a step or an operator
            assert pieces.startswith(shown), (text, pieces)
            shown = re.sub(r"[0-9+%-]\Z", "", pieces)


def test_a_working_that_goes_up_and_down_has_no_places() -> None:
    for task, operands, what in (
        ("division", 2, "division"),
        ("addition,remainder", 2, "remainder"),
        ("arithmetic", 3, "arithmetic"),
        ("multiplication", 3, "multiplication of more than two numbers"),
    ):
        for zero_pad in (False, True):
            notation, tasks = get_format("column", zero_pad), get_tasks(task)
            assert "place" not in notation.axes(tasks, operands)
            notation.check_axes(("segment",), tasks, operands)
            with pytest.raises(
                UsageError, match=f"the places of tokens in the working of {what}\n"
            ) as caught:
                notation.check_axes(("place",), tasks, operands)
            assert "--format scratchpad" in caught.value.hint
    COLUMN.check_axes(("place",), get_tasks("addition,multiplication"))


@given(batches(max_size=3, max_digits=4, max_operands=5, symbols=ALL))
def test_no_text_is_longer_than_the_longest(asked: list[Question]) -> None:
    problems = arrays(asked)
    rendered = COLUMN.render(problems)
    # nothing that fits is refused for its estimate; of expressions these are rougher, since a result may be 0
    rough = problems.num_operands > 2
    assert (rough | (COLUMN.estimates(problems) <= 2 * rendered.lengths)).all()
    for row, question in enumerate(asked):
        signed = min(question.answer, *question.operands) < 0
        size = Sampling(question.width, max(2, len(question.operands)), "digits", signed, question.width)
        assert rendered.lengths[row] <= COLUMN.longest(get_tasks(question.task), size)


def test_texts_that_would_fill_memory_are_told_before_they_are_written() -> None:
    large = Sampling(4000, 2, "digits", False, 4000)
    for task in ("multiplication", "division", "remainder", "arithmetic"):
        assert COLUMN.longest(get_tasks(task), large) > 1 << 20
    problems = arrays([Question("*", (10**2000 - 1, 10**1999)), Question("/", (10**4000 - 1, 10**1999))])
    assert (COLUMN.estimates(problems) > 1 << 21).all()
