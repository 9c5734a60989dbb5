"""Problems as people write them (`658+189`): many texts to arrays and back, without a loop over rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mathllm.errors import ExpressionError
from mathllm.tasks import CHAIN, TASKS, Problems
from mathllm.tasks.chain import ADD, FACTORS, MULTIPLY, SUBTRACT
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, lengths_of, significant
from mathllm.tasks.slots import compact, expression_slots
from mathllm.tokenizer import END, EQUALS, MINUS, PLUS, TOKENS, Ids, decode_rows, encode, encode_rows

# of one operand, in anything that people type or hand in: Python's int() reads no more than 4,300
MAX_DIGITS = 4000
# what tokens do not show: a gap inside a number, and `++` written out, which would be a `*`
UNCLEAR = re.compile(r"(?<=[0-9])\s+[0-9]|\+\s*\+", re.ASCII)


def parse_expression(text: str, chain: bool = False) -> Problems:
    """One problem from `12+34` or `12+34=`; with `chain` it is one, whatever else it could be.

    Raises ExpressionError with the position of the first character that does not belong there: white space
    inside a number is one, since whoever typed `1 2+3` may have meant `1+2+3` as well as `12+3`.
    """
    _refuse_unclear(text)
    ids = encode(text)[None]
    problems, good = problems_from_ids(*_without_equals(ids, np.array([ids.shape[1]])), chain)
    if not good[0]:
        raise explain_chain(text) if chain else explain(text)
    return problems


def parse_expressions(texts: Sequence[str], chain: bool = False) -> Problems:
    """Problems from many expressions (see `parse_expression`). Raises DataError naming the (1-based) row of the first
    bad one.
    """
    if UNCLEAR.search(";".join(texts)):
        for row, text in enumerate(texts):
            try:
                _refuse_unclear(text)
            except ExpressionError as error:
                raise error.in_row(row) from None
    problems, good = problems_from_ids(*_without_equals(*encode_rows(texts)), chain)
    if not good.all():
        row = int(np.argmin(good))
        raise (explain_chain if chain else explain)(texts[row]).in_row(row)
    return problems


def _refuse_unclear(text: str) -> None:
    if found := UNCLEAR.search(text):
        plus = found.group().endswith("+")
        what = "a number was expected here" if plus else "white space inside a number"
        raise ExpressionError(what, text, found.end() - 1, "write a problem like 12+34")


def _without_equals(ids: Ids, lengths: Ints) -> tuple[Ids, Ints]:
    """The same rows, shorter by the `=` that may end an expression."""
    if ids.shape[1] == 0:
        return ids, lengths
    last = np.maximum(lengths - 1, 0)
    return ids, np.where(ids[np.arange(len(ids)), last] == EQUALS, last, lengths)


def problems_from_ids(ids: Ids, lengths: Ints, chain: bool = False) -> tuple[Problems, Bools]:
    """Problems from the ids [N, T] of their expressions, and which rows [N] are well formed.

    Rows that are not come back as problems without operands. With `chain` all are read as chains.
    """
    if chain:
        return chains_from_ids(ids, lengths)
    n, width = ids.shape
    inside = np.arange(width) < lengths[:, None]
    digit = (ids < 10) & inside
    start = digit & ~_shifted(digit)
    operator = inside & ~digit
    opens = operator & ~_shifted(operator)
    numbers, operators = start.sum(1), opens.sum(1)

    # well formed: numbers and operators alternate, and all operators of a row are the same one
    following = np.pad(np.where(inside, ids, END), ((0, 0), (0, 1)), constant_values=END)[:, 1:]
    code, symbols = np.full(n, len(TASKS), np.uint8), np.zeros(n, np.int64)
    for index, task in enumerate(TASKS):
        if not task.operator:
            continue
        first, second = (*task.operator, None)[:2]
        single = (following < 10) | (following == END)
        here = opens & (ids == first) & (single if second is None else following == second)
        fits = (numbers >= 2) & (numbers <= task.max_operands) & (here.sum(1) == operators)
        fits &= operator.sum(1) == operators * len(task.operator)
        code[fits], symbols[fits] = index, len(task.operator)
    good = (code < len(TASKS)) & (numbers == operators + 1)
    good &= digit[:, 0] if width else False
    good &= digit[np.arange(n), np.maximum(lengths - 1, 0)] if width else False

    digit &= good[:, None]
    start &= good[:, None]
    operand = np.cumsum(start, 1) - 1
    count = np.where(good, numbers, 0)
    operands_at_most = int(count.max(initial=2))
    rows, columns = np.nonzero(digit)
    which = operand[rows, columns]
    written = np.bincount(rows * operands_at_most + which, minlength=n * operands_at_most)
    written = written.reshape(n, operands_at_most)  # digits of each operand, leading zeros too
    too_long = written.max(1, initial=0) > MAX_DIGITS
    if too_long.any():
        return problems_from_ids(ids, np.where(too_long, 0, lengths))
    # place of a digit, units 0: how many digits of its number stand to its right
    ends = (
        np.cumsum(written, 1) + np.arange(operands_at_most) * symbols[:, None]
    )  # the column past each number
    place = ends[rows, which] - 1 - columns
    operands = np.zeros((n, operands_at_most, max(1, int(written.max(initial=0)))), np.uint8)
    operands[rows, which, place] = ids[rows, columns]
    lengths = lengths_of(operands) * (written > 0)
    return Problems(operands, lengths, np.where(good, code, 0).astype(np.uint8)), good


def chains_from_ids(ids: Ids, lengths: Ints) -> tuple[Problems, Bools]:
    """Chains from the ids [N, T] of their expressions, and which rows [N] are well formed."""
    n, width = ids.shape
    inside = np.arange(width) < lengths[:, None]
    digit = (ids < 10) & inside
    # what stands one, two and three columns before
    one, two = (np.pad(ids, ((0, 0), (k, 0)), constant_values=END)[:, :width] for k in (1, 2))
    number_one, number_two, number_three = (np.pad(digit, ((0, 0), (k, 0)))[:, :width] for k in (1, 2, 3))
    kinds = [
        (one == PLUS) & number_two,
        (one == MINUS) & number_two,
        (one == PLUS) & (two == PLUS) & number_three & np.isin(ids, FACTORS),
    ]
    operator = np.select(kinds, [ADD, SUBTRACT, MULTIPLY], 0) * digit
    first = digit & (np.arange(width) == 0)
    count = digit.sum(1)
    used = count + (operator > 0).sum(1) + (operator == MULTIPLY).sum(1)
    good: Bools = (used == lengths) & (((operator > 0) | first) == digit).all(1) & first.any(1)
    good &= ~(digit & number_one).any(1)
    good &= digit[np.arange(n), np.maximum(lengths - 1, 0)] if width else False
    good &= count <= MAX_DIGITS
    rows, columns = np.nonzero(digit & good[:, None])
    place = (np.cumsum(digit, 1) - 1)[rows, columns]
    operands = np.zeros((n, 2, int((count * good).max(initial=1))), np.uint8)
    operands[rows, 0, place], operands[rows, 1, place] = ids[rows, columns], operator[rows, columns]
    held = lengths_of(operands) * good[:, None]
    return Problems(operands, held, np.full(n, CHAIN, np.uint8)), good


def without_hints(ids: Ids, lengths: Ints) -> tuple[Ids, Ints, Bools]:
    """Ids [N, T] of integers without the place that stands before each of their digits (see tasks.slots), their
    lengths [N], and which rows [N] had just those places."""
    n, width = ids.shape
    signed = ((ids[:, :1] == MINUS) & (lengths[:, None] > 0)).astype(np.int64)
    body = lengths[:, None] - signed
    pair = np.arange(width // 2 + 1)
    # an index past the end is one of a column that the lengths leave out
    hint, digit = (np.take_along_axis(ids, np.minimum(signed + 2 * pair + k, width - 1), 1) for k in (0, 1))
    good: Bools = ((hint == (pair + 1) % 10) | (2 * pair >= body)).all(1) & (body[:, 0] % 2 == 0)
    bare = np.full((n, len(pair) + 1), END, np.uint8)
    bare[:, :-1] = digit
    rows = signed[:, 0] > 0
    bare[rows, 1:], bare[rows, 0] = digit[rows], MINUS
    return bare, signed[:, 0] + body[:, 0] // 2, good


def _shifted(flags: Bools) -> Bools:
    """The flags [N, T] of the columns before."""
    return np.pad(flags, ((0, 0), (1, 0)))[:, :-1]


def numbers_from_ids(ids: Ids, lengths: Ints, least_significant_first: bool = False) -> tuple[Numbers, Bools]:
    """Integers from ids [N, T] of `-12` or `34`, the sign always first, and which rows [N] are integers."""
    n, width = ids.shape
    if width == 0:
        return Numbers(np.zeros((n, 1), np.uint8), np.ones(n, np.int64), np.zeros(n, bool)), np.zeros(n, bool)
    inside = np.arange(width) < lengths[:, None]
    negative = (ids[:, 0] == MINUS) & inside[:, 0]
    body = inside.copy()
    body[:, 0] &= ~negative
    good: Bools = np.all((ids < 10) | ~body, axis=1)
    good &= body.any(1)
    rows, columns = np.nonzero(body & good[:, None])
    digits: Digits = np.zeros((n, width), np.uint8)
    places = columns - negative[rows] if least_significant_first else lengths[rows] - 1 - columns
    digits[rows, places] = ids[rows, columns]
    return significant(digits, negative), good


def expressions(problems: Problems) -> list[str]:
    """The texts (`658+189`) of problems."""
    return decode_rows(*compact(expression_slots(problems)))


def explain(text: str) -> ExpressionError:
    """Why and where `text` (made of valid tokens) is no problem that any task knows."""
    symbols = {task.symbol: task for task in TASKS if task.symbol}
    body = text.rstrip()
    body = body[:-1].rstrip() if body.endswith("=") else body
    hint = "write a problem like 12+34"
    if not body.strip():
        return ExpressionError("there is no problem here", text or " ", 0, hint)
    wants_number, numbers, first_symbol, run = True, 0, "", 0
    position = 0
    while position < len(body):
        char = body[position]
        if char.isspace():
            position += 1
            continue
        if char.isdigit():
            run += 1
            numbers += wants_number
            wants_number = False
            if run > MAX_DIGITS:
                message = f"a number of more than {MAX_DIGITS:,} digits"
                return ExpressionError(message, text, position, "split it up")
        elif char not in symbols:
            message = f"{_token_at(body, position)!r} does not belong in a problem"
            return ExpressionError(message, text, position, hint)
        elif wants_number:
            return ExpressionError("a number was expected here", text, position, hint)
        elif first_symbol and char != first_symbol:
            message = f"{first_symbol!r} and {char!r} in one problem: no task knows that"
            return ExpressionError(message, text, position, hint)
        elif numbers >= symbols[char].max_operands:
            limit = symbols[char].max_operands
            return ExpressionError(f"more than {limit} operands of {char!r}", text, position, hint)
        else:
            first_symbol, wants_number, run = char, True, 0
        position += 1
    return ExpressionError("the problem ends too early", text, len(body), hint)


def explain_chain(text: str) -> ExpressionError:
    """Why and where `text` (made of valid tokens) is no chain."""
    body = text.rstrip()
    body = body[:-1].rstrip() if body.endswith("=") else body
    hint = "write a chain like 3+4*7-2: single digits, products by 1, 3, 7 and 9 alone"
    if not body.strip():
        return ExpressionError("there is no problem here", text or " ", 0, hint)
    operator = "+"
    for position, char in enumerate(body):
        if char.isspace():
            continue
        if bool(operator) != char.isdigit():
            message = "a number was expected here" if operator else "an operator was expected here"
            if not operator and char not in "+-*":
                message = f"{_token_at(body, position)!r} does not belong in a chain"
            return ExpressionError(message, text, position, hint)
        if operator == "*" and int(char) not in FACTORS:
            return ExpressionError(f"a chain does not multiply by {char}", text, position, hint)
        operator = "" if operator else char
    return ExpressionError("the problem ends too early", text, len(body), hint)


def _token_at(text: str, position: int) -> str:
    return next((token for token in TOKENS if text.startswith(token, position)), text[position])
