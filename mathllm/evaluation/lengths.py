"""Exact match at chosen numbers of digits, on random problems and on carry stress: how far did it generalize?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import NOTHING, Count
from mathllm.evaluation.exact_match import Progress, moved
from mathllm.evaluation.report import Report, evaluate_problems
from mathllm.formats import Format
from mathllm.inference.texts import Reasoner
from mathllm.limits import MAX_OPERANDS, check_cells
from mathllm.tasks import Problems, Sampling, Task

RANDOM, STRESS = "random", "carry stress"
KINDS = (RANDOM, STRESS)
TRIPLES = "debruijn"  # as many problems as hold every three columns in a row


class Length(NamedTuple):
    """How many digits operands have: all of them `digits`, or (where `second` is not 0) all but the first `second`."""

    digits: int
    second: int = 0

    @classmethod
    def read(cls, text: str) -> Length:
        """One from `20` or `20x10`. Raises UsageError for anything else."""
        parts = text.strip().split("x")
        if len(parts) > 2 or not all(re.fullmatch("0*[1-9][0-9]{0,8}", part.strip()) for part in parts):
            raise UsageError(f"numbers of digits are like 20 or 20x10, not {text!r}", "for example 20x10")
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.digits}x{self.second}" if self.second else str(self.digits)


@dataclass(frozen=True)
class LengthResult:
    """The report on problems of one kind whose operands have that many digits."""

    length: Length
    kind: str
    report: Report

    def to_dict(self) -> dict[str, Any]:
        """All of it for a JSON document."""
        second = {"second_digits": self.length.second} if self.length.second else {}
        return {"digits": self.length.digits, **second, "kind": self.kind, **self.report.to_dict()}


@dataclass(frozen=True)
class LengthReport:
    """The results of one task."""

    task: Task
    results: tuple[LengthResult, ...]

    @property
    def answers(self) -> Count:
        return sum((result.report.answers for result in self.results), NOTHING)

    @property
    def seconds(self) -> float:
        return sum(result.report.seconds for result in self.results)

    def to_dict(self) -> list[dict[str, Any]]:
        """All of it for a JSON document."""
        return [result.to_dict() for result in self.results]


def of_task(task: Task, lengths: Iterable[Length]) -> list[Length]:
    """Those of the lengths that problems of a task can have: `20x10` means nothing to a sum."""
    return [length for length in lengths if task.second or not length.second]


def draw_length(
    task: Task, digits: int, kind: str, n: int, *, operands: int = 2, seed: int = 0, second_digits: int = 0
) -> Problems:
    """n problems of a task whose operands have exactly that many digits, the same ones for the same seed.

    `debruijn` are as many as hold every three columns in a row, `carry stress` has carries that run far, see
    tasks.sampling.draw_carry_stress: only its first operand has all the digits (in a difference all, or one less).
    Raises UsageError for more than fit into memory.
    """
    if kind == TRIPLES:
        return task.all_triples(digits)
    check_cells(f"--digits {digits}", n, min(operands, task.max_operands), max(digits, second_digits))
    rng = np.random.default_rng([seed, task.code, digits, KINDS.index(kind)])
    size = Sampling(digits, operands, second_digits=second_digits)
    return task.of_length(rng, n, size, stress=kind == STRESS)


def check_length(
    format: Format,
    max_length: int,
    task: Task,
    digits: int,
    *,
    operands: int = 2,
    signed: bool = False,
    second_digits: int = 0,
) -> int:
    """Tokens of the longest text with operands of that many digits. Raises UsageError if no model could write it."""
    if operands > MAX_OPERANDS:
        raise UsageError(f"a problem has at most {MAX_OPERANDS} operands, not {operands}")
    # numbers that are longer than any text need not be written down to see it
    longest = 2 * digits
    if digits <= max_length:
        longest = format.longest([task], Sampling(digits, operands, "digits", signed, second_digits))
    if longest > max_length:
        raise UsageError(
            f"problems of {digits:,} {task.unit}s take {longest:,} tokens or more, and this model writes at most "
            f"{max_length:,}",
            "give smaller numbers, or train with a larger --max-length",
        )
    return longest


def evaluate_lengths(
    model: Reasoner,
    task: Task,
    lengths: Sequence[Length | int],
    n: int = 100,
    *,
    operands: int = 2,
    second_digits: int = 0,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    draft: bool = True,
    batch_size: int = 1024,
    progress: Progress | None = None,
) -> LengthReport:
    """The report on n problems of each of these kinds (random, carry stress) and of every length that the task has,
    with second operands of up to `second_digits` (0: any) where a length does not say it; `progress` gets problems
    done and in all.

    Raises UsageError where a text is longer than the model can write.
    """
    sizes = of_task(task, [one if isinstance(one, Length) else Length(one) for one in lengths])
    if task.second and second_digits:
        sizes = [
            size if size.second or size.digits <= second_digits else size._replace(second=second_digits)
            for size in sizes
        ]
    for size in sizes:
        if size.second <= size.digits:  # else each text is looked at when it is there
            check_length(
                model.format,
                model.max_length,
                task,
                size.digits,
                operands=operands,
                second_digits=size.second,
            )
    results: list[LengthResult] = []
    if tuple(kinds) == (TRIPLES,):
        n = max((len(task.all_triples(size.digits)) for size in sizes), default=n)
    for size, kind in itertools.product(sizes, kinds):
        advance = moved(progress, len(results) * n, len(kinds) * n * len(sizes))
        problems = draw_length(
            task, size.digits, kind, n, operands=operands, seed=seed, second_digits=size.second
        )
        report = evaluate_problems(model, problems, batch_size=batch_size, progress=advance, draft=draft)
        results.append(LengthResult(size, kind, report))
    return LengthReport(task, tuple(results))
