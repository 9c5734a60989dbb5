"""What each token of a text is, in words: `a3` is the third digit of the first number, counted from its units, then
there are `operator 1`, `carry in column 2`, `answer 3`. For whoever compares tokens of texts of different lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np

from mathllm.formats.base import Format, Rendered
from mathllm.formats.follow import number_places
from mathllm.tasks import by_task
from mathllm.tasks.numbers import Ints
from mathllm.tokenizer import EQUALS, MINUS, TOKENS


@dataclass(frozen=True)
class Roles:
    """The roles of texts' tokens [N, T] as indexes into `names`, -1 behind a text's end. No two tokens of one text have
    the same role."""

    names: tuple[str, ...]
    codes: Ints

    def where(self, *wanted: str) -> Ints:
        """The columns [N, R] of tokens with these roles; -1 where a text has none."""
        found = np.full((len(self.codes), len(wanted)), -1)
        for number, name in enumerate(wanted):
            here = self.codes == (self.names.index(name) if name in self.names else -2)
            found[:, number] = np.where(here.any(1), here.argmax(1), -1)
        return found


def roles(notation: Format, gold: Rendered) -> Roles:
    """The roles of all tokens of texts that are as they should be. Texts that differ in their digits alone have the
    same ones, which are worked out once."""
    shapes = np.concatenate([gold.problems.task[:, None], np.where(gold.ids < 10, 0, gold.ids)], axis=1)
    _, first, which = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    found = _roles(notation, gold[first])
    return Roles(found.names, found.codes[which.ravel()])


def _roles(notation: Format, gold: Rendered) -> Roles:
    parsed, prompts = notation.parse(gold.ids), _prompts(notation, gold)
    thoughts: list[list[str]] = [[] for _ in range(len(gold))]
    for task, rows in by_task(gold.problems):
        if task.name in notation.thoughts and notation.thinks:
            chosen = np.arange(len(gold))[rows]
            for row, thought in zip(
                chosen.tolist(), _thoughts(notation, task.name, gold[chosen]), strict=True
            ):
                thoughts[row] = thought
    answers = (parsed.answer_end - parsed.answer_start).tolist()
    names: dict[str, int] = {}
    codes = np.full(gold.ids.shape, -1)
    for row, length in enumerate(gold.lengths.tolist()):
        said = [
            *prompts[row],
            *thoughts[row],
            *_answer(notation, gold.ids[row, int(parsed.answer_start[row]) :], answers[row]),
        ]
        codes[row, :length] = [names.setdefault(name, len(names)) for name in _told_apart([*said, "<end>"])]
    return Roles(tuple(names), codes)


def _told_apart(names: list[str]) -> Iterable[str]:
    """The same names, each but the last of equal ones with its number from the right: the tens of a total are its
    second digit, whether another comes before or not."""
    seen: Counter[str] = Counter()
    found = []
    for name in reversed(names):
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return reversed(found)


def _digit(name: str, place: int, hints: bool, first: bool) -> str:
    if not hints:
        return f"{name}{place}"
    return f"hint of {name}{(place + 1) // 2}" if first else f"{name}{(place + 1) // 2}"


def _number(number: int) -> str:
    return ascii_lowercase[number - 1] if number <= len(ascii_lowercase) else f"number {number}, "


def _prompts(notation: Format, gold: Rendered) -> list[list[str]]:
    """The roles of tokens up to the first `=`."""
    ids = gold.ids
    inside = np.cumsum(ids == EQUALS, 1) == 0
    digit = (ids < 10) & inside
    before = np.pad(digit[:, :-1], ((0, 0), (1, 0)))
    behind = np.pad(digit[:, 1:], ((0, 0), (0, 1)))
    numbers = np.cumsum(digit & ~before, 1)
    places = number_places(ids, inside, notation.least_significant_first)
    # one token alone between two numbers is their operator; one first, or one more, a sign
    sign = (ids == MINUS) & inside & behind & ~before
    two = np.pad(~digit[:, :-2] & ~digit[:, 1:-1], ((0, 0), (2, 0)))
    sign &= (np.arange(ids.shape[1]) == 0) | (two & (numbers > 0))
    found = []
    for row, length in enumerate((inside.sum(1)).tolist()):
        names = []
        for column in range(length):
            number, place = int(numbers[row, column]), int(places[row, column])
            if digit[row, column]:
                names.append(_digit(_number(number), place, notation.hints, place % 2 == 1))
            elif sign[row, column]:
                names.append(f"sign of {_number(number + 1)}")
            else:
                names.append(f"operator {number}")
        found.append([*names, "="])
    return found


def _thoughts(notation: Format, task: str, gold: Rendered) -> list[list[str]]:
    """The roles of tokens of thoughts."""
    parsed = notation.parse(gold.ids)
    widths = (parsed.thought_end - parsed.thought_start).tolist()
    columns = parsed.thought_start[:, None] + np.arange(max(widths, default=0))
    columns = np.minimum(columns, gold.ids.shape[1] - 1)
    parts = notation.thoughts[task].parts(gold.problems, gold.ids, columns)
    found = []
    for row, width in enumerate(widths):
        names = []
        for (name, where), column in zip(parts[row][:width], columns[row].tolist(), strict=False):
            token = TOKENS[int(gold.ids[row, column])]
            bracket = token in ("<think>", "</think>")
            names.append(
                token if bracket else " ".join(filter(None, (name, where, token * (not token.isdigit()))))
            )
        found.append(names)
    return found


def _answer(notation: Format, ids: np.ndarray, length: int) -> list[str]:
    """The roles of an answer's tokens, without its end."""
    signed = int(length > 0 and ids[0] == MINUS)
    places = np.arange(1, length - signed + 1)
    places = places if notation.least_significant_first else places[::-1]
    digits = [_digit("answer ", place, notation.hints, place % 2 == 1) for place in places.tolist()]
    return ["answer's sign"] * signed + digits


# what of a role's name says where a token is in its row, and in which of several rows; which one of several equal ones
# it is tells a total's tens from its units
_PLACE = re.compile(r"(?<!number) (?:in column |at digit )?(\d+)")
_OPERAND = re.compile(r"((?:hint of )?(?:[a-z]|number \d+, ))(\d+)")
_ROW = re.compile(r" (?:in row|for quotient digit|of operation) \d+(?: from the (?:left|right))?")
_ONE_OF_SEVERAL = re.compile(r" \(\d+\)$")


def kind_of(role: str) -> tuple[str, int]:
    """What a role is wherever it stands, and its place in its row (0: it has none): `answer 3` is an `answer` at 3, and
    `partial product in row 2 at digit 1` a `partial product` at 1."""
    kind = _ROW.sub("", role)
    if not kind.startswith(("total", "operator")):
        kind = _ONE_OF_SEVERAL.sub("", kind)
    if operand := _OPERAND.fullmatch(kind):
        return operand[1].removesuffix(", "), int(operand[2])
    found = _PLACE.search(kind)
    return (_PLACE.sub("", kind), int(found[1])) if found else (kind, 0)


def row_of(role: str) -> int:
    """In which row of the working a role is, 0 where it is in none: 2 for `partial product in row 2 at digit 1`."""
    found = re.search(r" in row (\d+)", role)
    return int(found[1]) if found else 0
