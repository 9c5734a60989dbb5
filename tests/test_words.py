"""What the rows of working say beside them is true, and is what was written, not what should have been."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from strategies import ALL, Question, arrays, batches

from mathllm.formats import FORMATS, get_format
from mathllm.formats.words import Reader

SCRATCHPAD = FORMATS["scratchpad"]
EQUATION = re.compile(r"(-?\d+)([-*])(\d+) = (\d+)")
TAKEN = re.compile(r"(\d+)-(\d+) is below 0(: it went (once|\d times))?")


def said_of(question: Question) -> list[str]:
    """What the rows of the gold text of a problem say."""
    asked = SCRATCHPAD.render(arrays([question]))
    (text,) = SCRATCHPAD.texts(asked.problems, asked.ids)
    says = SCRATCHPAD.reader(asked)
    between = text.partition("<think>")[2].rpartition("</think>")[0]
    return [says(row) for row in re.split("</?think>| ", between) if row]


@settings(max_examples=60)
@given(batches(max_size=4, max_digits=5, max_operands=5, symbols=ALL))
def test_every_row_says_something_true(batch: list[Question]) -> None:
    for question in batch:
        said, so_far, counts = said_of(question), [], ""
        for what in said:
            assert what
            if equation := EQUATION.fullmatch(what):
                left, right, result = (int(equation[k]) for k in (1, 3, 4))
                assert (left * right if equation[2] == "*" else left - right) == result
            elif taken := TAKEN.fullmatch(what):
                assert int(taken[1]) < int(taken[2])
                counts += "1" if taken[4] == "once" else (taken[4] or "")[:1]
            elif what.startswith("so far "):
                so_far.append(int(what.removeprefix("so far ")))
            else:
                assert re.fullmatch(r"bring down \d: \d+|\d+ is left|= -?\d+|-?\d+[-+*/%]-?\d+", what)
        if len(question.operands) == 2:
            a, b = map(abs, question.operands)
            if question.symbol == "*":
                assert so_far == [a * (b % 10**place) for place in range(1, len(str(b)) + 1)]
            elif question.symbol == "/":
                assert int(counts) == question.answer
            elif question.symbol == "%":
                assert said[-1] == f"{question.answer} is left"
        elif question.symbol == "+":
            assert so_far == [sum(question.operands[:k]) for k in range(2, len(question.operands))]
        elif len(question.symbol) > 1:
            assert said[-1] == f"= {question.answer}"


@pytest.mark.parametrize(
    ("expression", "rows", "said"),
    [
        ("21*43", ["*4=940", "+=940", "+=140"], ["12*4 = 49", "so far 49", "so far 419"]),
        (
            "89/21",
            ["9+8=890", "-=780+1", "-=099-1"],
            ["bring down 8: 98", "98-12 = 87", "87-12 is below 0: it went once"],
        ),
        ("43-75", ["-=77-", "=42", "=--"], ["34-57 is below 0", "57-34 = 24", "0 is left"]),
        ("21*43", ["*=840", "=", "", "7", "-=1"], ["", "", "", "= 7", ""]),
        (
            "1-2+3",
            ["1-2=", "-=9-", "=1", "=1", "-1", "-1+3="],
            ["1-2", "1-2 is below 0", "2-1 = 1", "1 is left", "= -1", "-1+3"],
        ),
    ],
)
def test_a_wrong_row_says_what_was_written(expression: str, rows: list[str], said: list[str]) -> None:
    reader = Reader(expression)
    assert [reader.says(row) for row in rows] == said


def test_other_formats_need_no_such_words() -> None:
    column = get_format("column")
    assert column.reader(column.render(arrays([Question("*", (12, 34))])))("2*4=8") == ""
