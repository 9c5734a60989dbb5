"""Evaluation from problems to a report.

Problems are judged in chunks, so that a million of them take no more memory than some thousands.

    report = evaluate_problems(model, problems)
    print(report.exact_match, report.to_dict())
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import (
    KINDS,
    LENGTH_ERRORS,
    WRONG_VALUE,
    Count,
    Findings,
    Groups,
    find,
    group,
    merge,
)
from mathllm.evaluation.exact_match import ProblemSet, Verdicts, check_lengths, judge
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.samples import Mistake, first_mistakes, write_samples
from mathllm.formats import Format
from mathllm.inference.texts import Reasoner
from mathllm.tasks.numbers import Ints

NOTHING = Count(0, 0)
CHUNK_TOKENS = 1 << 22  # of problems judged at once
CHECKED_ROWS = 10_000  # rendered at once, to see how long they are


@dataclass(frozen=True)
class Errors:
    """How often what went wrong. `kinds` has all of breakdown.KINDS, which add up to the wrong answers.

    Of the wrong values: `first_wrong_digit` counts by the lowest wrong place (`1` units; `sign` if only that
    is wrong), `carry` those that a wrong carry explains. `lengths` counts numbers with too few or too many digits
    (breakdown.LENGTH_ERRORS). The last two are None for formats without a thought.
    """

    kinds: dict[str, int]
    first_wrong_digit: dict[str, int]
    carry: int
    lengths: dict[str, int]
    thought_right_answer_wrong: int | None
    thought_wrong_answer_right: int | None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.kinds,
            "wrong_value_first_digit": self.first_wrong_digit,
            "wrong_value_carry": self.carry,
            "wrong_length": self.lengths,
            "thought_right_answer_wrong": self.thought_right_answer_wrong,
            "thought_wrong_answer_right": self.thought_wrong_answer_right,
        }


@dataclass(frozen=True)
class Report:
    """The result of an evaluation. `answers` counts right answers, `completions` texts that are gold to the
    last token, `tokens` gold tokens predicted from the gold before them; `decoded` rows were decoded token by
    token, as the draft did not settle them.
    """

    answers: Count
    completions: Count
    tokens: Count
    errors: Errors
    groups: Groups
    mistakes: tuple[Mistake, ...]
    decoded: int
    seconds: float

    @property
    def exact_match(self) -> float:
        return self.answers.exact_match

    def to_dict(self) -> dict[str, Any]:
        """All of it for a JSON document."""
        return {
            **_count_dict(self.answers),
            "completion_exact_match": self.completions.exact_match,
            "token_accuracy": self.tokens.exact_match,
            "errors": self.errors.to_dict(),
            **{
                name: {key: _count_dict(c) for key, c in counts.items()}
                for name, counts in self.groups.items()
            },
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
            "decoded": self.decoded,
            "seconds": round(self.seconds, 3),
        }


def _count_dict(count: Count) -> dict[str, Any]:
    return {
        "exact_match": count.exact_match,
        "exact_match_ci95": list(count.interval),
        "correct": count.correct,
        "num_examples": count.num_examples,
    }


@dataclass
class Tally:
    """Adds verdicts up, part by part, and keeps the first mistakes."""

    most_mistakes: int = 5
    answers: Count = NOTHING
    completions: Count = NOTHING
    tokens: Count = NOTHING
    decoded: int = 0
    kinds: Counter[int] = field(default_factory=Counter)
    first_wrong: Counter[int] = field(default_factory=Counter)
    carry: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    thinks: bool = False
    thought_right_answer_wrong: int = 0
    thought_wrong_answer_right: int = 0
    groups: Groups = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def add(self, verdicts: Verdicts, findings: Findings) -> None:
        """Counts one part of the data."""
        n, right = len(verdicts), verdicts.answer_correct
        self.answers += Count(int(right.sum()), n)
        self.completions += Count(int(verdicts.completion_correct.sum()), n)
        self.tokens += Count(int(verdicts.token_hits.sum()), int(verdicts.token_counts.sum()))
        self.decoded += int(verdicts.decoded.sum())
        self.kinds.update(findings.kind[~right].tolist())
        wrong_value = findings.kind == WRONG_VALUE
        self.first_wrong.update(findings.first_wrong[wrong_value].tolist())
        self.carry += int(findings.carry_error[wrong_value].sum())
        self.lengths.update(findings.length_error.tolist())
        if findings.thought_correct is not None:
            self.thinks = True
            self.thought_right_answer_wrong += int((findings.thought_correct & ~right).sum())
            self.thought_wrong_answer_right += int((~findings.thought_correct & right).sum())
        self.groups = merge(self.groups, group(verdicts, findings))
        self.mistakes += first_mistakes(verdicts, findings, self.most_mistakes - len(self.mistakes))

    def report(self, seconds: float = 0.0) -> Report:
        """What has been counted so far."""
        digits = {
            str(place) if place else "sign": self.first_wrong[place] for place in sorted(self.first_wrong)
        }
        errors = Errors(
            kinds={name: self.kinds[kind] for kind, name in enumerate(KINDS)},
            first_wrong_digit=digits,
            carry=self.carry,
            lengths={name: self.lengths[i] for i, name in enumerate(LENGTH_ERRORS) if i},
            thought_right_answer_wrong=self.thought_right_answer_wrong if self.thinks else None,
            thought_wrong_answer_right=self.thought_wrong_answer_right if self.thinks else None,
        )
        counts = (self.answers, self.completions, self.tokens)
        return Report(*counts, errors, self.groups, tuple(self.mistakes), self.decoded, seconds)


def evaluate_problems(
    model: Reasoner,
    problems: ProblemSet,
    *,
    batch_size: int = 1024,
    mistakes: int = 5,
    samples: TextIO | None = None,
    progress: Callable[[int, int], None] | None = None,
    draft: bool = True,
) -> Report:
    """Judges problems and counts. One line of JSON for each goes to `samples`; the first `mistakes` are kept.

    `progress` is called with the number of problems done and in all; `draft` is that of `judge`. Raises UsageError
    where there are none, and before anything is judged where some are too long for the model or the format cannot
    write them.
    """
    n = len(problems)
    if n == 0:
        raise UsageError("there is no problem to evaluate")
    started = time.perf_counter()
    # of all pairs the longest text is known, and a look at each of them would take long before anything is seen
    longest = problems.longest_text(model.format) if isinstance(problems, AllPairs) else math.inf
    if longest > model.max_length:
        longest = check_lengths(model.max_length, problems, text_lengths(model.format, problems))
    tally = Tally(mistakes)
    rows = max(1, int(CHUNK_TOKENS // longest))
    for start in range(0, n, rows):

        def advance(done: int, _: int, before: int = start) -> None:
            if progress is not None:
                progress(before + done, n)

        part = problems[start : start + rows]
        verdicts = judge(model, part, batch_size=batch_size, draft=draft, progress=advance)
        findings = find(verdicts)
        tally.add(verdicts, findings)
        if samples is not None:
            write_samples(samples, verdicts, findings)
    return tally.report(time.perf_counter() - started)


def text_lengths(format: Format, problems: ProblemSet) -> Iterator[Ints]:
    """Tokens of each problem's whole text, some thousands at a time."""
    for start in range(0, len(problems), CHECKED_ROWS):
        yield format.render(problems[start : start + CHECKED_ROWS]).lengths
