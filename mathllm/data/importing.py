"""Problems from files: our JSONL, text with `951+11=962` a line, or a CSV with an `equation` column.

Whatever the kind, every row becomes the text of an equation; many of them are then parsed and checked at
once, and only a row that turns out to be bad is looked at on its own.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mathllm.errors import DataError, ExpressionError
from mathllm.limits import MAX_CELLS, MAX_ROW, check_widening
from mathllm.tasks import Problems, Task, answer, concatenate
from mathllm.tasks.expressions import (
    DEFAULT_TASKS,
    fold,
    number_texts,
    parse_expression,
    read_expressions,
    read_numbers,
)
from mathllm.tasks.numbers import Bools

COLUMN = "equation"

_BATCH_CHARACTERS = 1 << 22
_BATCH_ROWS = 1 << 15
_BATCH_TOKENS = 1 << 23  # of rows padded to the longest: one very long row must not blow up the others
_MOST_REASONS = 20  # rows of which an error says what is wrong with them
_MOST_BYTES = 1 << 32  # of all problems of a file, and for each of its own bytes
_WASTE = 16

# line numbers, equations, and by row why it has none
Rows = tuple[list[int], list[str], dict[int, str]]


def read_problems(
    path: Path, tasks: Sequence[Task] = DEFAULT_TASKS, reversed_digits: bool = False
) -> Problems:
    """All problems of a file, in its order (none, if it is empty), each of the first of the tasks that takes it;
    blank lines are skipped. With `reversed_digits` the file has units first, see `units_last`.

    A row of JSONL needs `expression` and `answer`; what else it has is ignored.

    Raises DataError for a file that cannot be read, and one that names file and line of the first rows that are
    no true equations, and says how many there are.
    """
    parts: list[Problems] = []
    refused, bad = list[str](), 0
    try:
        # foreign bytes become characters that no equation has, so that they too are reported with their line
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            widest = _Widest(path)
            for lines, equations, faults in _batches(path, handle):
                start = 0
                as_written = equations
                equations = list(map(units_last, equations)) if reversed_digits else equations
                for problems, good in true_equations(equations, tasks):
                    parts.append(problems)
                    widest.add(problems)
                    rows = start + np.flatnonzero(~good)
                    bad += len(rows)
                    for row in rows[: _MOST_REASONS - len(refused)].tolist():
                        fault = faults.get(row) or _reason(equations[row], tasks)
                        if reversed_digits and row not in faults:
                            fault = f"{shown(as_written[row])}, with its digits turned round: {fault}"
                        refused.append(f"{path}:{lines[row]}: {fault}")
                    start += len(good)
    except OSError as error:
        hint = "name a file in it, such as test.jsonl" if path.is_dir() else None
        raise DataError(f"cannot read {path}: {error.strerror or error}", hint) from error
    if bad:
        total = sum(map(len, parts))
        if more := bad - len(refused):
            refused.append(f"and {more:,} more")
        message = f"{bad:,} of the {total:,} rows of {path} cannot be used"
        raise DataError("\n  ".join([message, *refused]), "mend these lines or take them out")
    return concatenate(parts)


def units_last(text: str) -> str:
    """The equation in `9 3 1 * 7 5 = 3 2 9 7`, whose numbers are written units first, with or without blanks between
    their digits: `139*57=7923`. What stands between `||` and `####` is left out, which is a thought in the files of
    Deng et al., "From Explicit CoT to Implicit CoT: Learning to Internalize CoT Step by Step" (arXiv:2405.14838)."""
    problem, bars, rest = text.partition("||")
    if bars:
        text = f"{problem}={rest.rpartition('####')[2]}"
    return re.sub(r"[0-9](\s*[0-9])*", lambda number: "".join(number[0].split())[::-1], text)


class _Widest:
    """How much memory all rows of a file will take, each as wide as the widest."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.operands, self.digits = path, 0, 0, 0
        self.most = min(_MOST_BYTES, max(MAX_CELLS // 2, _WASTE * path.stat().st_size))

    def add(self, problems: Problems) -> None:
        """Raises DataError where this is much more than the file has characters."""
        n, operands, digits = problems.operands.shape
        self.rows, self.operands = self.rows + n, max(self.operands, operands)
        self.digits = max(self.digits, digits)
        check_widening(f"the problems of {self.path}", self.rows, self.operands, self.digits, self.most)


def _batches(path: Path, handle: TextIO) -> Iterator[Rows]:
    """The rows of a file of any kind, some thousands at a time."""
    first = next((line for line in _lines(path, handle) if not line.isspace()), "")
    handle.seek(0)
    lines = _lines(path, handle)
    if first.startswith("{"):
        return _of_json(lines)
    if path.suffix.lower() == ".csv" or COLUMN in [cell.strip(' "\r\n').lower() for cell in first.split(",")]:
        return _of_csv(path, lines)
    return ((numbers, texts, {}) for numbers, texts in _filled_lines(lines))


def _lines(path: Path, handle: TextIO) -> Iterator[str]:
    """The lines of a file, none of them longer than memory should hold. Raises DataError for one that is."""
    for number, line in enumerate(iter(partial(handle.readline, MAX_ROW + 1), ""), 1):
        if len(line) > MAX_ROW:
            raise DataError(
                f"{path}:{number}: this line has more than {MAX_ROW:,} characters", "one problem a line"
            )
        yield line


def _filled_lines(lines: Iterator[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Line numbers and texts of the lines that are not blank, some thousands at a time."""
    numbers: list[int] = []
    texts: list[str] = []
    characters = 0
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            numbers.append(number)
            texts.append(text)
            characters += len(text)
        if characters > _BATCH_CHARACTERS:
            yield numbers, texts
            numbers, texts, characters = [], [], 0
    if numbers:
        yield numbers, texts


def _of_json(lines: Iterator[str]) -> Iterator[Rows]:
    for numbers, texts in _filled_lines(lines):
        try:
            rows = list(map(json.loads, texts))
            yield numbers, list(map(_equation, rows)), {}
        except (ValueError, TypeError, KeyError, RecursionError):
            found = list(map(_equation_or_fault, texts))
            faults = {place: fault for place, (_, fault) in enumerate(found) if fault}
            yield numbers, [equation for equation, _ in found], faults


def _equation(row: dict[str, Any]) -> str:
    return f"{row['expression']}={row['answer']}"


def _equation_or_fault(line: str) -> tuple[str, str]:
    """The equation of one row of JSON, or why there is none."""
    try:
        return _equation(json.loads(line)), ""
    except (ValueError, RecursionError) as error:
        return "", f"this is not JSON: {getattr(error, 'msg', error)}"
    except (TypeError, KeyError):
        return "", "a row is an object with 'expression' and 'answer'"


def _of_csv(path: Path, lines: Iterator[str]) -> Iterator[Rows]:
    reader = csv.reader(lines)
    filled = ((line, row) for line, row in _numbered(reader) if "".join(row).strip())
    try:
        header = [cell.strip().lower() for cell in next(filled, (0, []))[1]]
        if COLUMN not in header:
            raise DataError(f"{path} has no column {COLUMN!r}, only: {', '.join(header) or 'nothing'}")
        column = header.index(COLUMN)
        while rows := list(islice(filled, _BATCH_ROWS)):
            short = [place for place, (_, row) in enumerate(rows) if len(row) <= column]
            equations = [row[column] if len(row) > column else "" for _, row in rows]
            yield [n for n, _ in rows], equations, dict.fromkeys(short, f"no cell in column {COLUMN!r}")
    except csv.Error as error:
        hint = "a quote may have been opened there or above, and never closed"
        raise DataError(f"{path}:{reader.line_num}: {error}", hint) from error


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line in which each begins: a quoted cell may go on over several."""
    line = 1
    for row in reader:
        yield line, row
        line = reader.line_num + 1


def true_equations(
    texts: Sequence[str], tasks: Sequence[Task] = DEFAULT_TASKS
) -> Iterator[tuple[Problems, Bools]]:
    """Problems from texts like `951+11=962`, and which rows [N] are equations and true, part by part.

    Rows that are not equations come back as problems without operands.
    """
    start = longest = 0
    for row, text in enumerate(texts):
        longest = max(longest, len(text))
        if row > start and (row + 1 - start) * longest > _BATCH_TOKENS:  # a long row takes no others with it
            yield _true_equations(texts[start:row], tasks)
            start, longest = row, len(text)
    yield _true_equations(texts[start:], tasks)


def _true_equations(texts: Sequence[str], tasks: Sequence[Task]) -> tuple[Problems, Bools]:
    sides = [fold(text).partition("=") for text in texts]
    problems, good = read_expressions([left for left, _, _ in sides], tasks)
    stated, is_number = read_numbers([right for _, _, right in sides])
    good = good & is_number
    rows = np.flatnonzero(good)
    good[rows] = answer(problems[rows]).same(stated[rows])
    return problems, good


def _reason(equation: str, tasks: Sequence[Task]) -> str:
    """Why a text is no true equation."""
    quoted = shown(equation)
    expression, equals, stated = fold(equation).partition("=")
    try:
        problem = parse_expression(expression, tasks)
    except ExpressionError as error:
        where = (
            ""
            if "position" in error.message or not expression.strip()
            else f", position {error.position + 1}"
        )
        return f"{quoted}{where}: {error.message}"
    if not equals:
        return f"{quoted}: there is no '=' with the answer after it"
    right = number_texts(answer(problem))[0]
    right = f"the answer is {right if len(right) <= 60 else right[:40] + ' ...'}"
    if not re.fullmatch("-?[0-9]+", "".join(stated.split())):
        return f"{quoted}: what follows '=' is not a whole number: {right}"
    return f"{quoted}: {right}"


def shown(equation: str) -> str:
    """An equation as a message quotes it."""
    return repr(equation if len(equation) <= 60 else equation[:40] + " ...")
