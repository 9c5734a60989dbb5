"""What the verdicts are made of: which problems are hard, and what kinds of mistakes there are.

Mistakes in an answer are of four kinds that exclude each other:

    no_end        the text never ends ("infinite generation")
    malformed     it ends without a number, or without a thought where the format has one ("hallucination")
    out_of_range  no operands with as many digits as these have that answer (658+189=4213: 1998 is the most)
    wrong_value   any other wrong number

Of a wrong value, `first_wrong` is the place of the lowest wrong digit (units 1, tens 2, ...; 0 if only the
sign is wrong). It is a carry error if each of its wrong digits is what its column gives with a carry (or a
borrow) of one too many or one too few: off by exactly one modulo ten, never in the units, and never with a
carry that two operands (or however many there are) could not make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mathllm.evaluation.exact_match import Verdicts
from mathllm.inference.engine import ENDED
from mathllm.inference.texts import pad_ids
from mathllm.tasks import Numbers, Problems, answer, by_task, carry_lengths, sizes
from mathllm.tasks.numbers import Bools, Digits, Ints, compare, widen
from mathllm.tokenizer import END_THINK

KINDS = ("no_end", "malformed", "out_of_range", "wrong_value")
CORRECT = len(KINDS)  # stands where a kind would
NO_END, MALFORMED, OUT_OF_RANGE, WRONG_VALUE = range(len(KINDS))

Z = 1.959963984540054  # standard deviations to either side that hold 95% of a normal distribution

# how a written number has another length than the true one: the truth without one digit, the truth with one
# digit written twice, or anything else
LENGTH_ERRORS = ("none", "dropped_digit", "doubled_digit", "shorter", "longer")


@dataclass(frozen=True)
class Findings:
    """More about N verdicts: the true answers; `kind` [N], an index into KINDS or CORRECT; `first_wrong` [N]
    and `carry_error` [N], which mean something for wrong values only; `length_error` [N], an index into
    LENGTH_ERRORS; `parts` of wrong answers, by row: in what the first wrong token is, and where; `thought_correct` [N]
    (every token of the thought is the gold one), None where the format writes no thought."""

    truth: Numbers
    kind: Digits
    first_wrong: Ints
    carry_error: Bools
    length_error: Digits
    parts: dict[int, tuple[str, str]]
    thought_correct: Bools | None


def find(verdicts: Verdicts) -> Findings:
    """Sorts the mistakes among verdicts."""
    n = len(verdicts)
    truth = answer(verdicts.problems)
    kind = np.full(n, CORRECT, np.uint8)
    first_wrong, carry_error = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    length_error, parts = np.zeros(n, np.uint8), {}
    rows = np.flatnonzero(~verdicts.answer_correct)
    if len(rows):
        problems, said, true = verdicts.problems[rows], verdicts.parsed.answer[rows], truth[rows]
        unended = verdicts.written.reasons[rows] != ENDED
        faults = (unended, ~verdicts.parsed.well_formed[rows], out_of_range(problems, said))
        kind[rows] = np.select(faults, (NO_END, MALFORMED, OUT_OF_RANGE), WRONG_VALUE)
        first_wrong[rows], carry_error[rows] = wrong_digits(problems, said, true)
        parts = dict(zip(rows.tolist(), first_parts(verdicts, rows), strict=True))
        length_error[rows] = np.where(kind[rows] >= OUT_OF_RANGE, wrong_lengths(said, true), 0)
    return Findings(truth, kind, first_wrong, carry_error, length_error, parts, _thought_correct(verdicts))


def first_parts(verdicts: Verdicts, rows: Ints) -> list[tuple[str, str]]:
    """What the first wrong token of each of these rows belongs to, and where that is; and if it is a digit off by one,
    as a carry or a borrow would make it."""
    gold, written = verdicts.gold[rows], verdicts.written.ids[rows]
    width = max(written.shape[1], gold.ids.shape[1]) + 1
    wrote, true = pad_ids(written, width), pad_ids(gold.ids, width)
    columns = (wrote != true).argmax(1)
    said, right = (ids[np.arange(len(rows)), columns].astype(np.int64) for ids in (wrote, true))
    carried = (said < 10) & (right < 10) & ((said - right) % 10 % 8 == 1)
    named = verdicts.format.parts(gold, columns)
    return [
        (kind, " ".join(filter(None, (where, "(off by one: a carry or a borrow)" * off))))
        for (kind, where), off in zip(named, carried.tolist(), strict=True)
    ]


def out_of_range(problems: Problems, said: Numbers) -> Bools:
    """Where [N] no problem of the task whose operands have as many digits as these has the answer `said`."""
    outside: Bools = np.zeros(len(problems), np.bool_)
    for task, rows in by_task(problems):
        order = np.stack([_compare_signed(said[rows], bound) for bound in task.bounds(problems[rows])])
        outside[rows] = (order < 0).all(0) | (order > 0).all(0)
    return outside


def _compare_signed(left: Numbers, right: Numbers) -> Ints:
    """-1, 0 or 1 [N]."""
    width = max(left.digits.shape[1], right.digits.shape[1])
    size = compare(widen(left.digits, width), widen(right.digits, width))
    same_sign = np.where(left.negative, -size, size)
    return np.where(left.negative == right.negative, same_sign, np.where(left.negative, -1, 1))


def wrong_digits(problems: Problems, said: Numbers, true: Numbers) -> tuple[Ints, Bools]:
    """The place [N] of the lowest wrong digit (0: there is none), and which numbers [N] are carry errors."""
    width = max(said.digits.shape[1], true.digits.shape[1], problems.operands.shape[2] + 1)
    said_digits, true_digits = widen(said.digits, width), widen(true.digits, width)
    wrong = said_digits != true_digits
    first = np.where(wrong.any(1), wrong.argmax(1) + 1, 0)
    error = (said_digits.astype(np.int64) - true_digits) % 10
    explained: Bools = np.zeros(wrong.shape, np.bool_)
    for task, rows in by_task(problems):
        carried = task.carries(problems[rows])
        if carried is not None:
            carry, least, most = carried
            columns = carry.shape[1]
            one_more = (error[rows, :columns] == 1) & (carry < most[:, None])
            one_less = (error[rows, :columns] == 9) & (carry > least[:, None])
            explained[rows, :columns] = one_more | one_less
    explained[:, 0] = False  # nothing is carried into the units
    is_carry = (said.negative == true.negative) & (explained | ~wrong).all(1)
    return first, is_carry


def wrong_lengths(said: Numbers, true: Numbers) -> Digits:
    """How the lengths of numbers differ: an index [N] into LENGTH_ERRORS."""
    width = max(said.digits.shape[1], true.digits.shape[1])
    # a place that no number has differs from every digit
    ours, theirs = (
        np.where(np.arange(width) < number.lengths[:, None], widen(number.digits, width), np.uint8(filler))
        for number, filler in ((said, 10), (true, 11))
    )
    below = _common(ours == theirs)
    above = _common(_from_the_top(ours, said.lengths) == _from_the_top(theirs, true.lengths))
    longer = said.lengths - true.lengths
    shared = below + above  # digits that agree, counted from both ends
    dropped = (longer == -1) & (shared >= said.lengths)
    # a digit put in equals its neighbour
    place = np.minimum(below, said.lengths - 1)[:, None]
    twice = np.take_along_axis(ours, place, 1) == np.take_along_axis(ours, np.maximum(place - 1, 0), 1)
    doubled = (longer == 1) & (shared >= true.lengths) & (below > 0) & twice[:, 0]
    choices = [dropped, doubled, longer < 0, longer > 0]
    return np.select(choices, range(1, len(LENGTH_ERRORS)), 0).astype(np.uint8)


def _common(same: Bools) -> Ints:
    """How many values of each row [N, D] are true before the first that is not."""
    count: Ints = np.where(same.all(1), same.shape[1], (~same).argmax(1))
    return count


def _from_the_top(digits: Digits, lengths: Ints) -> Digits:
    """Digits [N, D] with the most significant first, what is no digit behind."""
    source = lengths[:, None] - 1 - np.arange(digits.shape[1])
    return np.take_along_axis(digits, source % digits.shape[1], 1)


def _thought_correct(verdicts: Verdicts) -> Bools | None:
    if not verdicts.format.true_thoughts:
        return None
    correct = verdicts.completion_correct.copy()
    rows = np.flatnonzero(~correct)
    gold = verdicts.gold.ids[rows]
    width = gold.shape[1]
    written = pad_ids(verdicts.written.ids[rows], width)[:, :width]
    end = width - (gold == END_THINK)[:, ::-1].argmax(1)  # behind the last </think>
    same = (gold == written) | (np.arange(width) >= end[:, None])
    correct[rows] = same.all(1) & (verdicts.parsed.thought_end[rows] == end)
    return correct


@dataclass(frozen=True)
class Count:
    """How many of how many problems have the right answer."""

    correct: int
    num_examples: int

    @classmethod
    def of(cls, right: Bools) -> Count:
        return cls(int(right.sum()), len(right))

    def __add__(self, other: Count) -> Count:
        return Count(self.correct + other.correct, self.num_examples + other.num_examples)

    def __str__(self) -> str:
        return f"{self.correct:,} of {self.num_examples:,}"

    @property
    def exact_match(self) -> float:
        return self.correct / self.num_examples if self.num_examples else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The score interval of the share, 95% (Wilson, "Probable inference, the law of succession, and statistical
        inference", Journal of the American Statistical Association 22, 1927).

        It stays within 0 to 1 and holds up where all or none are correct; of no example at all it is 0 to 1.
        """
        if self.num_examples == 0:
            return 0.0, 1.0
        share, weight = self.exact_match, Z * Z / self.num_examples
        middle = (share + weight / 2) / (1 + weight)
        reach = Z / (1 + weight) * math.sqrt((share * (1 - share) + weight / 4) / self.num_examples)
        low = 0.0 if self.correct == 0 else middle - reach
        high = 1.0 if self.correct == self.num_examples else middle + reach
        return low, high

    def to_dict(self) -> dict[str, Any]:
        return {
            "exact_match": self.exact_match,
            "exact_match_ci95": list(self.interval),
            "correct": self.correct,
            "num_examples": self.num_examples,
        }


NOTHING = Count(0, 0)
Groups = dict[str, dict[str, Count]]  # `by_task` and so on -> the group's name -> its count


def group(verdicts: Verdicts, findings: Findings) -> Groups:
    """Counts by task, digits of the longest operand, digits of the answer, and longest run of carries or
    borrows; numbers ascend."""
    problems, right = verdicts.problems, verdicts.answer_correct
    return {
        "by_task": {task.name: Count.of(right[rows]) for task, rows in by_task(problems)},
        "by_operand_digits": _count(sizes(problems), right),
        "by_answer_digits": _count(findings.truth.lengths, right),
        "by_carries": _count(carry_lengths(problems), right),
    }


def _count(keys: Ints, right: Bools) -> dict[str, Count]:
    total = np.bincount(keys)
    correct = np.bincount(keys[right], minlength=len(total))
    return {str(key): Count(int(correct[key]), int(total[key])) for key in np.flatnonzero(total)}


def merge(left: Groups, right: Groups) -> Groups:
    """Counts of two parts of the data, added up."""
    merged: Groups = {}
    for name in left | right:
        one, other = left.get(name, {}), right.get(name, {})
        merged[name] = {
            key: one.get(key, NOTHING) + other.get(key, NOTHING) for key in ascending(one | other)
        }
    return merged


def ascending(names: Iterable[str]) -> list[str]:
    """Words, and then numbers by their value."""
    return sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))
