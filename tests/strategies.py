"""What several tests draw from: problems as Python numbers, and their arrays made without mathllm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import mul

import numpy as np
from hypothesis import strategies as st

from mathllm.formats import Format, formats_for, get_format
from mathllm.tasks import TASK_NAMES, Numbers, Problems, get_tasks
from mathllm.tasks.numbers import Ints
from mathllm.tokenizer import (
    ADD,
    DIVIDE,
    END,
    END_THINK,
    EQUALS,
    MINUS,
    MULTIPLY,
    PLUS,
    REMAINDER,
    SUBTRACT,
    THINK,
    TOKENS,
    Ids,
    encode,
    unflatten,
)

SYMBOLS = {
    "+": "addition",
    "-": "subtraction",
    "*": "multiplication",
    "/": "division",
    "%": "remainder",
}
OPERATOR_CODES = {"+": ADD, "-": SUBTRACT, "*": MULTIPLY, "/": DIVIDE, "%": REMAINDER}
WHOLE = "?"  # stands for whole expressions among symbols
ALL = "".join(SYMBOLS) + WHOLE

# every notation, with zero-padding and without, if it can be padded
ALL_FORMATS = [
    notation
    for name in formats_for("addition")
    for notation in (get_format(name), get_format(name, zero_pad=True))
    if notation.knows_task(*get_tasks("addition"))
]


def format_id(notation: Format) -> str:
    """How pytest calls a format: `column`, `column-padded`."""
    return notation.name + "-padded" * notation.zero_pad


@dataclass(frozen=True)
class Question:
    """One problem in Python's own numbers: the oracle of these tests. `symbol` is its operator, or all of them where
    it is a whole expression."""

    symbol: str
    operands: tuple[int, ...]

    @property
    def symbols(self) -> str:
        """The operator before each operand but the first."""
        return self.symbol if len(self.symbol) > 1 else self.symbol * (len(self.operands) - 1)

    @property
    def task(self) -> str:
        return SYMBOLS.get(self.symbol, "arithmetic")

    @property
    def text(self) -> str:
        rest = zip(self.symbols, self.operands[1:], strict=True)
        return str(self.operands[0]) + "".join(f"{symbol}{operand}" for symbol, operand in rest)

    @property
    def answer(self) -> int:
        if self.symbol == "+":
            return sum(self.operands)
        if self.symbol == "*":
            return prod(self.operands)
        # every operator has the precedence here that it has for us
        return int(eval(self.text.replace("/", "//")))

    @property
    def width(self) -> int:
        """Digits of the longest operand."""
        return max(len(str(abs(operand))) for operand in self.operands)


Case = tuple[Format, list[Question]]


def ask(text: str) -> Question:
    """A question from `12+34`."""
    parts = re.split(r"(?<=[0-9])([^0-9])", text)
    return question_of(parts[1::2], tuple(map(int, parts[::2])))


def question_of(symbols: Sequence[str], operands: tuple[int, ...]) -> Question:
    """The question with these operators, of the simplest task that has such."""
    one = len(set(symbols)) == 1 and (len(symbols) == 1 or symbols[0] in "+*")
    return Question(symbols[0] if one else "".join(symbols), operands)


def arrays(questions: list[Question], spare_operands: int = 0, spare_digits: int = 0) -> Problems:
    """The questions as digit arrays, with more room than they need where asked for."""
    operands = max(len(q.operands) for q in questions) + spare_operands
    width = max(q.width for q in questions) + spare_digits
    digits = np.zeros((len(questions), operands, width), np.uint8)
    lengths = np.zeros((len(questions), operands), np.int64)
    negative = np.zeros((len(questions), operands), np.bool_)
    operators = np.zeros((len(questions), operands - 1), np.uint8)
    for row, question in enumerate(questions):
        operators[row, : len(question.operands) - 1] = [OPERATOR_CODES[one] for one in question.symbols]
        for k, operand in enumerate(question.operands):
            negative[row, k] = operand < 0
            written = [int(c) for c in reversed(str(abs(operand)))]
            digits[row, k, : len(written)] = written
            lengths[row, k] = len(written)
    codes = [TASK_NAMES.index(q.task) for q in questions]
    return Problems(digits, lengths, negative, operators, np.array(codes, np.uint8))


def integers_of(numbers: Numbers) -> list[int]:
    """The values of digit arrays, from their digits and signs alone."""
    values = [int("".join(map(str, row[::-1]))) for row in numbers.digits.tolist()]
    return [-value if negative else value for value, negative in zip(values, numbers.negative, strict=True)]


def questions_of(problems: Problems) -> list[Question]:
    """Arrays back as Python numbers. Asserts that operators stand between them, and none behind; those of the task,
    where it has one."""
    codes = {code: symbol for symbol, code in OPERATOR_CODES.items()}
    found = []
    for row in range(len(problems)):
        present = [k for k in range(problems.lengths.shape[1]) if problems.lengths[row, k] > 0]
        digits = ["".join(map(str, problems.operands[row, k][::-1].tolist())) for k in present]
        values = ["-" * int(problems.negative[row, k]) + digits[i] for i, k in enumerate(present)]
        between = problems.operators[row].tolist()
        assert [code > 0 for code in between] == [k + 1 in present for k in range(len(between))]
        question = question_of([codes[code] for code in between if code], tuple(map(int, values)))
        name = TASK_NAMES[int(problems.task[row])]
        assert name in (question.task, "arithmetic")
        found.append(question)
    return found


def operands(max_digits: int) -> st.SearchStrategy[int]:
    """Numbers of any length up to max_digits; those that carry far (99...9, 10...0) are not rare."""
    digits = st.sampled_from("0001234567899999")
    free = st.text(digits, min_size=1, max_size=max_digits).map(int)
    length = st.integers(1, max_digits)
    return st.one_of(free, free, length.map(lambda n: 10**n - 1), length.map(lambda n: 10 ** (n - 1)))


def questions(
    max_digits: int = 12,
    max_operands: int = 5,
    symbols: str = "+-",
    signed: bool = True,
    factor_digits: int | None = None,
) -> st.SearchStrategy[Question]:
    """Additions of 2 to max_operands numbers, subtractions, quotients and remainders of two (many of them of near
    multiples), products of two to six, or of one by a second one of up to `factor_digits`, and whole expressions."""
    number = operands(max_digits)
    kinds = []
    if "+" in symbols:
        kinds.append(
            st.lists(number, min_size=2, max_size=max_operands).map(lambda ns: Question("+", tuple(ns)))
        )
    if "*" in symbols:
        factors = st.lists(number, min_size=2, max_size=min(max_operands, 6)).map(tuple)
        if factor_digits is not None:
            factors = st.tuples(number, operands(factor_digits))
        kinds.append(factors.map(lambda ns: Question("*", ns)))
        if signed:
            signs = st.lists(st.sampled_from((1, -1)), min_size=6, max_size=6)
            both = st.tuples(factors, signs).map(lambda drawn: tuple(map(mul, *drawn)))
            kinds.append(both.map(lambda ns: Question("*", ns)))
    if "-" in symbols:
        pair = st.lists(number, min_size=2, max_size=2)
        kinds.append(
            pair.map(lambda ns: Question("-", tuple(ns if signed else sorted(ns, reverse=True)))),
        )
    for symbol in (one for one in "/%" if one in symbols):
        divisor = operands(max_digits).filter(bool)
        near = st.tuples(divisor, operands(max_digits), st.integers(-1, 1)).map(
            lambda drawn, symbol=symbol: Question(
                symbol, (max(0, drawn[1] // drawn[0] * drawn[0] + drawn[2]) % 10**max_digits, drawn[0])
            )
        )
        kinds += [st.tuples(number, divisor).map(lambda ns, symbol=symbol: Question(symbol, ns)), near]
    if WHOLE in symbols:
        kinds.append(expressions(number, min(max_operands, 6)))
    return st.one_of(kinds)


@st.composite
def expressions(draw: st.DrawFn, number: st.SearchStrategy[int], max_operands: int) -> Question:
    """Whole expressions that are of no other task."""
    count = draw(st.integers(min(3, max_operands), max_operands))
    symbols = draw(st.lists(st.sampled_from("+-*/%"), min_size=count - 1, max_size=count - 1))
    if count > 2 and len(set(symbols)) == 1 and symbols[0] in "+*":
        symbols[-1] = "-"
    numbers = [draw(number) for _ in range(count)]
    numbers[1:] = [n or int(s in "/%") for s, n in zip(symbols, numbers[1:], strict=True)]
    return question_of(symbols, tuple(numbers))


def batches(max_size: int = 6, **kwargs: object) -> st.SearchStrategy[list[Question]]:
    """A few questions, of all kinds mixed."""
    return st.lists(questions(**kwargs), min_size=1, max_size=max_size)  # type: ignore[arg-type]


@st.composite
def cases(draw: st.DrawFn, formats: list[Format] = ALL_FORMATS, **kwargs: object) -> Case:
    """A format and a few questions of all tasks that it knows."""
    notation = draw(st.sampled_from(formats))
    names = {**SYMBOLS, WHOLE: "arithmetic"}
    known = (symbol for symbol, name in names.items() if notation.knows_task(*get_tasks(name)))
    return notation, draw(batches(**{"symbols": "".join(known), **kwargs}))


# any sequence of tokens at all, and one that looks more like what a model writes
token_ids = st.lists(st.integers(0, len(TOKENS) - 1), max_size=40)
equation_like_ids = st.lists(
    st.sampled_from([*range(10), 0, 1, 9, PLUS, MINUS, MINUS, EQUALS, EQUALS, THINK, END_THINK, END]),
    max_size=40,
)


def joined(ids: list[int]) -> str:
    """The tokens' texts without any space."""
    return "".join(TOKENS[i] for i in ids)


def as_typed(tokens: str) -> str:
    """A text of tokens with the symbols that people know for two operators in a row, but not behind `=`."""
    tokens = re.sub("(?<==)--+", lambda found: "~" * len(found[0]), tokens)
    for pair, symbol in (("++", "*"), ("--", "/"), ("-+", "%")):
        tokens = tokens.replace(pair, symbol)
    return tokens.replace("~", "-")


def encode_rows(texts: list[str]) -> tuple[Ids, Ints]:
    """Token ids [N, T] (padded with `<end>`) and lengths [N] of texts."""
    rows = [encode(text) for text in texts]
    lengths = np.array([len(row) for row in rows], np.int64)
    return unflatten(np.concatenate([np.zeros(0, np.uint8), *rows]), lengths), lengths
