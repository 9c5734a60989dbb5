"""Evaluation from problems to a report, in parts: a million problems take no more memory than some thousands."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from mathllm.errors import UsageError
from mathllm.evaluation import breakdown
from mathllm.evaluation.breakdown import NOTHING, Count, Findings, Groups
from mathllm.evaluation.exact_match import (
    ProblemSet,
    Progress,
    Verdicts,
    check_lengths,
    check_writable,
    judge,
    moved,
)
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.samples import Mistake, first_mistakes, write_samples
from mathllm.inference.texts import Reasoner
from mathllm.tasks import trimmed
from mathllm.tasks.numbers import Bools

CHUNK_TOKENS = 1 << 22  # of problems judged at once
CHECKED_ROWS = 10_000  # rendered at once, to see how long they are


@dataclass
class Errors:
    """How often what went wrong. `kinds` has all of breakdown.KINDS, which add up to the wrong answers.

    Of the wrong values: `first_wrong_digit` counts by the lowest wrong place (`1` units; `sign` if only that
    is wrong), `carry` those that a wrong carry explains. `first_wrong_part` counts wrong answers by the part of the
    working, or the answer, in which the first wrong token is. `lengths` counts numbers with too few or too many digits
    (breakdown.LENGTH_ERRORS). The last two are None for formats without a thought.
    """

    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(breakdown.KINDS, 0))
    first_wrong_digit: dict[str, int] = field(default_factory=dict)
    carry: int = 0
    lengths: dict[str, int] = field(default_factory=lambda: dict.fromkeys(breakdown.LENGTH_ERRORS[1:], 0))
    first_wrong_part: dict[str, int] = field(default_factory=dict)
    thought_right_answer_wrong: int | None = None
    thought_wrong_answer_right: int | None = None

    def add(self, right: Bools, findings: Findings) -> None:
        """Counts one part of the data, whose answers [N] are `right` or wrong."""
        for kind, name in enumerate(self.kinds):
            self.kinds[name] += int((findings.kind == kind).sum())
        for error, name in enumerate(self.lengths, 1):
            self.lengths[name] += int((findings.length_error == error).sum())
        wrong_value = findings.kind == breakdown.WRONG_VALUE
        self.carry += int(findings.carry_error[wrong_value].sum())
        places = (str(place) if place else "sign" for place in findings.first_wrong[wrong_value].tolist())
        counts = Counter(self.first_wrong_digit) + Counter(places)
        self.first_wrong_digit = {place: counts[place] for place in breakdown.ascending(counts)}
        parts = Counter(self.first_wrong_part) + Counter(kind for kind, _ in findings.parts.values())
        self.first_wrong_part = dict(parts.most_common())
        thought = findings.thought_correct
        if thought is not None:
            thought_alone, answer_alone = int((thought & ~right).sum()), int((~thought & right).sum())
            self.thought_right_answer_wrong = (self.thought_right_answer_wrong or 0) + thought_alone
            self.thought_wrong_answer_right = (self.thought_wrong_answer_right or 0) + answer_alone

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.kinds,
            "wrong_value_first_digit": self.first_wrong_digit,
            "wrong_value_carry": self.carry,
            "wrong_length": self.lengths,
            "first_wrong_part": self.first_wrong_part,
            "thought_right_answer_wrong": self.thought_right_answer_wrong,
            "thought_wrong_answer_right": self.thought_wrong_answer_right,
        }


@dataclass
class Report:
    """The result of an evaluation. `answers` counts right answers, `completions` texts that are gold to the
    last token, `tokens` gold tokens predicted from the gold before them; `decoded` rows were decoded token by
    token, as the draft did not settle them.
    """

    answers: Count = NOTHING
    completions: Count = NOTHING
    tokens: Count = NOTHING
    errors: Errors = field(default_factory=Errors)
    groups: Groups = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()
    decoded: int = 0
    seconds: float = 0.0

    def add(self, verdicts: Verdicts, findings: Findings, mistakes: int = 5) -> None:
        """Counts one part of the data; `mistakes` is how many are kept in all."""
        self.answers += Count.of(verdicts.answer_correct)
        self.completions += Count.of(verdicts.completion_correct)
        self.tokens += Count(int(verdicts.token_hits.sum()), int(verdicts.token_counts.sum()))
        self.errors.add(verdicts.answer_correct, findings)
        self.groups = breakdown.merge(self.groups, breakdown.group(verdicts, findings))
        self.mistakes += first_mistakes(verdicts, findings, mistakes - len(self.mistakes))
        self.decoded += int(verdicts.decoded.sum())

    @property
    def exact_match(self) -> float:
        return self.answers.exact_match

    def to_dict(self) -> dict[str, Any]:
        """All of it for a JSON document."""
        return {
            **self.answers.to_dict(),
            "completion_exact_match": self.completions.exact_match,
            "token_accuracy": self.tokens.exact_match,
            "errors": self.errors.to_dict(),
            **{name: {key: c.to_dict() for key, c in counts.items()} for name, counts in self.groups.items()},
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
            "decoded": self.decoded,
            "seconds": round(self.seconds, 3),
        }


def evaluate_problems(
    model: Reasoner,
    problems: ProblemSet,
    *,
    batch_size: int = 1024,
    mistakes: int = 5,
    samples: TextIO | None = None,
    progress: Progress | None = None,
    draft: bool = True,
) -> Report:
    """Judges problems and counts. One line of JSON for each goes to `samples`; the first `mistakes` are kept.

    `progress` is called with the number of problems done and in all; `draft` is that of `judge`. Raises UsageError
    where there are none, and before anything is judged where some are too long for the model or the format cannot
    write them.
    """
    if len(problems) == 0:
        raise UsageError("there is no problem to evaluate")
    started, report = time.perf_counter(), Report()
    # of all pairs the longest text is known, and a look at each of them would take long before anything is seen
    longest = problems.longest_text(model.format) if isinstance(problems, AllPairs) else math.inf
    if longest > model.max_length:
        _, operands, digits = problems[:1].operands.shape
        rows = max(1, min(CHECKED_ROWS, CHUNK_TOKENS // (operands * digits)))
        starts = range(0, len(problems), rows)
        check_writable(model.format, (problems[start : start + rows] for start in starts))
        texts = (model.format.render(trimmed(problems[start : start + rows])) for start in starts)
        longest = check_lengths(model.max_length, problems, (part.lengths for part in texts))
    parts = judged_parts(model, problems, int(longest), progress, batch_size=batch_size, draft=draft)
    for _, verdicts in parts:
        findings = breakdown.find(verdicts)
        report.add(verdicts, findings, mistakes)
        if samples is not None:
            write_samples(samples, verdicts, findings)
    report.seconds = time.perf_counter() - started
    return report


def judged_parts(
    model: Reasoner,
    problems: ProblemSet,
    longest: int,
    progress: Progress | None,
    **how: Any,
) -> Iterator[tuple[slice, Verdicts]]:
    """Verdicts on problems of at most `longest` tokens, part by part, with the rows that each is about; `how` is for
    `judge`."""
    rows = max(1, CHUNK_TOKENS // longest)
    for start in range(0, len(problems), rows):
        part = slice(start, start + rows)
        yield (
            part,
            judge(model, trimmed(problems[part]), progress=moved(progress, start, len(problems)), **how),
        )
