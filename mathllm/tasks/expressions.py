"""Problems as people write them (`658+189`): many texts to arrays and back, without a loop over rows.

There is one grammar for all tasks: numbers and operators in turn. Which expressions are a task's own, it says itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import ExpressionError
from mathllm.limits import MAX_DIGITS, check_widening
from mathllm.tasks import TASKS, Problems, Task, readable_beside
from mathllm.tasks.base import zero_divisors
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, lengths_of, significant
from mathllm.tasks.slots import compact, expression_slots, signed_slots
from mathllm.tokenizer import (
    END,
    MINUS,
    OPERATORS,
    SUBTRACT,
    Ids,
    decode_rows,
    encode,
    token_at,
    unflatten,
)

# what a reader looks for unless it is told: all that is worked out in integers
DEFAULT_TASKS = readable_beside(TASKS[:1])

_CELLS = 1 << 22  # digits of problems that are worked on together

# what a byte of a text is: a digit, OPERATOR and a code, or one of these
_OPERATOR, _EQUALS, _SPACE, _NEWLINE, _FOREIGN = 10, 20, 21, 22, 23
_KINDS = np.full(256, _FOREIGN, np.uint8)
_KINDS[ord("0") : ord("9") + 1] = range(10)
for _code, _symbol in enumerate(OPERATORS, 1):
    _KINDS[ord(_symbol)] = _OPERATOR + _code
for _character, _kind in (("=", _EQUALS), ("\n", _NEWLINE), *((blank, _SPACE) for blank in " \t\r\v\f")):
    _KINDS[ord(_character)] = _kind

# one for one, so that positions stay what they are
_FOLDED = str.maketrans("０１２３４５６７８９＋－−–＊×·⋅∗／÷％＝", "0123456789+---*****//%=")

# a number below zero
_SIGNED = re.compile(r"-\s*\d")

# what people try that no problem has
_NONE = {"(": "brackets", ")": "brackets", ".": "decimals", ",": "decimals and no separators"}


def fold(text: str) -> str:
    """A text as long, with our own characters in place of what keyboards and word processors make of them."""
    return text if text.isascii() else text.translate(_FOLDED)


def parse_expression(text: str, tasks: Sequence[Task] = DEFAULT_TASKS) -> Problems:
    """One problem from `12+34` or `12+34=`, of the first of the tasks that takes it.

    Raises ExpressionError with the position of the first character that does not belong there: white space
    inside a number is one, since whoever typed `1 2+3` may have meant `1+2+3` as well as `12+3`.
    """
    problems, good = read_expressions([text], tasks)
    if not good[0]:
        raise explain(text, tasks)
    return problems


def parse_expressions(texts: Sequence[str], tasks: Sequence[Task] = DEFAULT_TASKS) -> Problems:
    """Problems from many expressions (see `parse_expression`). Raises DataError naming the (1-based) row of the first
    bad one.
    """
    problems, good = read_expressions(texts, tasks)
    if not good.all():
        row = int(np.argmin(good))
        raise explain(texts[row], tasks).in_row(row)
    return problems


def read_expressions(texts: Sequence[str], tasks: Sequence[Task] = DEFAULT_TASKS) -> tuple[Problems, Bools]:
    """Problems from expressions, each of the first of the tasks that takes it, and which rows [N] are any.

    Rows that are none come back as problems without operands. Raises DataError where a few are so much longer than the
    others that memory would not hold all of them: see `alike`.
    """
    n = len(texts)
    kinds, row, gap = _lex(texts)
    # an `=` may end an expression
    last = np.append(row[1:] != row[:-1], True)[: len(row)]
    kept = ~(last & (kinds == _EQUALS))
    kinds, row, gap = kinds[kept], row[kept], gap[kept]
    first = np.append(True, row[1:] != row[:-1])[: len(row)]
    last = np.append(first[1:], True)[: len(row)]
    digit = kinds < 10
    operator = (kinds > _OPERATOR) & (kinds < _EQUALS)
    # a minus first, or behind an operator, is the sign of the number behind it
    leads = first | np.append(False, operator[:-1])[: len(row)]
    sign = (kinds == _OPERATOR + SUBTRACT) & leads & ~last & np.append(digit[1:], False)[: len(row)]
    operator &= ~sign
    digit_before = np.append(False, digit[:-1])[: len(row)] & ~first
    # numbers and operators in turn, a number first and last, and no gap within one
    wrong = ~(digit | operator | sign) | (operator & (last | ~digit_before)) | (digit & digit_before & gap)
    starts = digit & ~digit_before
    numbers = np.bincount(row[starts], minlength=n)
    number = np.cumsum(starts) - 1  # which of all the numbers a token belongs to
    widths = np.bincount(number[digit], minlength=int(starts.sum()))
    good = (numbers > 0) & (np.bincount(row[wrong], minlength=n) == 0)
    longest = np.zeros(n, np.int64)
    np.maximum.at(longest, row[starts], widths)
    good &= np.any([_within(task, numbers, longest) for task in tasks], axis=0)

    # tokens of good rows go to their places; a number's place among those of its row
    which = number - (np.cumsum(numbers) - numbers)[row]
    shape = n, int((numbers * good).max(initial=2)), int((longest * good).max(initial=1))
    check_widening("these expressions", *shape)
    operands = np.zeros(shape, np.uint8)
    operators = np.zeros((n, shape[1] - 1), np.uint8)
    written = np.zeros(shape[:2], np.int64)
    ends = np.cumsum(widths)[number[digit]]  # digits of all numbers up to this one, its own included
    place = ends - 1 - np.arange(len(ends))
    inside = good[row]
    rows, columns = row[digit & inside], which[digit & inside]
    operands[rows, columns, place[inside[digit]]] = kinds[digit & inside]
    written[row[starts & inside], which[starts & inside]] = widths[number[starts & inside]]
    signed = np.flatnonzero(sign & inside)
    negative = np.zeros(shape[:2], np.bool_)
    negative[row[signed], which[signed + 1]] = True
    operators[row[operator & inside], which[operator & inside]] = kinds[operator & inside] - _OPERATOR
    lengths = lengths_of(operands) * (written > 0)
    problems = Problems(operands, lengths, negative, operators, np.zeros(n, np.uint8))

    taken = np.zeros(n, np.bool_)
    for task in tasks:
        fits = good & ~taken & _within(task, numbers, longest) & ~task.misfits(problems).any(1)
        problems.task[fits] = task.code
        taken |= fits
    problems = replace(problems, negative=negative & operands.any(2))
    if not taken.all():
        problems = _without(problems, ~taken)
    return problems, taken


def alike(texts: Sequence[str]) -> list[list[int]]:
    """The rows of expressions in groups, each of which is read, and worked on, in little memory: mostly one group."""
    longest = max(map(len, texts), default=0)
    if len(texts) * longest**2 <= _CELLS:
        return [list(range(len(texts)))]
    numbers = [1 + sum(map(text.count, OPERATORS)) for text in map(fold, texts)]
    sizes = [(count, len(text) - count + 1) for count, text in zip(numbers, texts, strict=True)]
    groups: list[list[int]] = []
    most = 0  # digits of a number in the last group
    for row in sorted(range(len(texts)), key=sizes.__getitem__):
        count, digits = sizes[row]
        if not groups or (len(groups[-1]) + 1) * count * max(most, digits) > _CELLS:
            groups.append([])
            most = 0
        groups[-1].append(row)
        most = max(most, digits)
    return groups


def _lex(texts: Sequence[str]) -> tuple[NDArray[np.uint8], Ints, Bools]:
    """The characters of all texts but for white space, one after the other: kinds, rows, and whether some was
    before."""
    joined = "\n".join([text.replace("\n", " ") for text in texts])
    kinds = _KINDS[np.frombuffer(fold(joined).encode("utf-8", "surrogatepass"), np.uint8)]
    row = np.cumsum(kinds == _NEWLINE)
    gap = np.append(False, kinds[:-1] == _SPACE)[: len(kinds)]
    kept = (kinds != _SPACE) & (kinds != _NEWLINE)
    return kinds[kept], row[kept], gap[kept]


def _within(task: Task, numbers: Ints, longest: Ints) -> Bools:
    """Where [N] the task may have expressions of `numbers` [N] numbers, the longest of `longest` [N] digits."""
    within: Bools = (numbers >= task.least_numbers) & (numbers <= task.most_numbers)
    return within & (longest <= task.most_digits)


def _without(problems: Problems, rows: Bools) -> Problems:
    """The same problems with nothing in some rows, no wider than the others need."""
    left = ~rows
    lengths = problems.lengths * left[:, None]
    width = max(1, int(lengths.max(initial=1)))
    operands = problems.operands[:, :, :width] * left[:, None, None]
    negative, operators = problems.negative & left[:, None], problems.operators * left[:, None]
    return Problems(operands, lengths, negative, operators, problems.task * left)


def read_numbers(texts: Sequence[str]) -> tuple[Numbers, Bools]:
    """Integers from texts like `-12`, and which rows [N] are integers."""
    kinds, row, _ = _lex(texts)
    ids = np.where(kinds < 10, kinds, np.where(kinds == _KINDS[ord("-")], MINUS, END)).astype(np.uint8)
    lengths = np.bincount(row, minlength=len(texts)).astype(np.int64)
    return numbers_from_ids(unflatten(ids, lengths), lengths)


def split_answer(text: str) -> tuple[str, str]:
    """A problem, and the answer that is stated behind its `=`, as it is written by us; empty where none is.

    Raises ExpressionError where that is no whole number."""
    problem, equals, stated = fold(text).partition("=")
    if not problem.strip() or not stated.strip():
        return text, ""
    start = len(problem) + len(equals)
    number, good = read_numbers([stated])
    if not good[0]:
        position = start + len(stated) - len(stated.lstrip())
        hint = (
            "/ gives the whole number, 7/2=3, and % the remainder, 7%2=1"
            if "/" in problem
            else "write 12+34=46"
        )
        raise ExpressionError("what follows the '=' is no whole number", text, position, hint)
    if gap := re.search(r"\d\s+(?=\d)", stated):
        raise ExpressionError("white space inside a number", text, start + gap.end(), "write 12+34=46")
    return text[:start], number_texts(number)[0]


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


def number_texts(numbers: Numbers) -> list[str]:
    """Numbers as people write them."""
    return decode_rows(*compact(signed_slots(numbers, None, least_significant_first=False)))


def explain(text: str, tasks: Sequence[Task] = DEFAULT_TASKS) -> ExpressionError:
    """Why and where `text` is no problem of these tasks."""
    error = _explain(fold(text), tasks)
    return ExpressionError(error.message, text or " ", error.position, error.hint)


def _explain(text: str, tasks: Sequence[Task]) -> ExpressionError:
    hint = f"write a problem like {tasks[0].example}"
    try:
        encode(text)  # raises at what is no token at all
    except ExpressionError as error:
        at = error.position
        if text[at] not in _NONE:
            return error
        message = f"character {text[at]!r} at position {at + 1}: a problem has no {_NONE[text[at]]}"
        return ExpressionError(message, text, at, hint)
    body = text.rstrip()
    body = body[:-1].rstrip() if body.endswith("=") else body
    if not body.strip():
        return ExpressionError("there is no problem here", text, 0, hint)
    try:
        parts = _split(body, hint)
    except ExpressionError as error:
        return error
    if len(parts) < min(2 * task.least_numbers - 1 for task in tasks) or not parts[-1].digits:
        return ExpressionError("the problem ends too early", text, len(body), hint)
    return _misfit(text, body, parts, tasks)


@dataclass
class _Part:
    """A number or an operator: where it starts, its digits as they are written (0 of an operator), and whether it
    has a sign."""

    start: int
    digits: int = 0
    signed: bool = False


def _split(body: str, hint: str) -> list[_Part]:
    """The numbers and operators of an expression, in turn. Raises ExpressionError where they are not in turn."""
    parts: list[_Part] = []
    number, gap = False, False  # is the last part a number, and has white space followed it?
    for position, char in enumerate(body):
        if char.isspace():
            gap = True
            continue
        if char.isdigit():
            if number and parts[-1].digits and gap:
                raise ExpressionError("white space inside a number", body, position, hint)
            if not number:
                parts.append(_Part(position))
            number = True
            parts[-1].digits += 1
            if parts[-1].digits > MAX_DIGITS:
                longer = f"{MAX_DIGITS:,} is the most here"
                if not re.search(r"[-*/%]", body):
                    longer += "; mathllm eval --checkpoint add-any-length --digits 10000 tries longer sums"
                raise ExpressionError(f"a number of more than {MAX_DIGITS:,} digits", body, position, longer)
        elif char not in OPERATORS:
            message = f"{token_at(body, position) or char!r} does not belong in a problem"
            raise ExpressionError(message, body, position, hint)
        elif number and parts[-1].digits:
            parts.append(_Part(position))
            number = False
        elif number or not _SIGNED.match(body, position):
            raise ExpressionError("a number was expected here", body, position, hint)
        else:
            parts.append(_Part(position, signed=True))
            number = True
        gap = False
    return parts


def _misfit(text: str, body: str, parts: list[_Part], tasks: Sequence[Task]) -> ExpressionError:
    """Why numbers and operators in turn are no problem of these tasks: the first part that none of them takes."""
    hint = f"write a problem like {tasks[0].example}"
    most = max(task.most_numbers for task in tasks)
    end = parts[2 * most].start if len(parts) > 2 * most else len(body)  # with one number too many
    problem, _ = read_expressions([body[:end] + "0" * (end < len(body))], [_Anything()])
    problem = replace(problem, negative=np.zeros_like(problem.negative))
    fits = []  # the first part that is not the task's
    for task in tasks:
        wrong = np.array([part.digits for part in parts]) > task.most_digits
        shared = task.misfits(problem)[0, : len(wrong)]
        wrong[: len(shared)] |= shared
        fits.append(np.append(wrong, True).argmax())
    task, first = tasks[int(np.argmax(fits))], min(int(np.max(fits)), len(parts) - 1)
    start = parts[first].start
    if first in 2 + 2 * np.flatnonzero(zero_divisors(problem)[0]):
        return ExpressionError("nothing can be divided by zero", text, start, "divide by 1 or more")
    signed = next((part.start for part in parts if part.signed), None)
    if signed is not None and max(fits) == len(parts):
        kinds = {"factors" if task.signed_operands else "results": 0 for task in tasks if task.signed}
        several = kinds and sum(part.digits > 0 for part in parts) > 2
        why = f": only {' and '.join(sorted(kinds))} may be below zero" if kinds else ""
        message = "a number was expected here"
        message += ": in a whole expression no number may be below zero" if several else why
        return ExpressionError(message, text, signed, hint)
    what = body[start : parts[first + 1].start if first + 1 < len(parts) else len(body)].strip()
    nobody = first == 1 and len(tasks) > 1 and max(fits) == min(fits)
    rule = "none of these tasks has that operator" if nobody else task.rule
    message = f"{what if len(what) <= 20 else what[:16] + '...'!r} does not fit: {rule}"
    return ExpressionError(message, text, start, f"write a problem like {task.example}")


class _Anything(Task):
    """Takes every expression."""

    code = 0
    least_numbers, most_numbers = 1, 10**9

    def misfits(self, problems: Problems) -> Bools:
        return np.zeros((len(problems), 1), np.bool_)
