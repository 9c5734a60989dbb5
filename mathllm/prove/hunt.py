"""A search for problems that a model gets wrong: those where the right token hardly leads are changed a little, and the
ones where it leads by even less are kept, until it leads no more.

Random problems hardly ever meet a mistake that takes a few digits in a row. The lead of the right token, which is known
everywhere, says how near one is (local search for adversarial examples, with digits for what may be changed)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.data.sources import sampling
from mathllm.errors import UsageError
from mathllm.evaluation.exact_match import Progress
from mathllm.inference.scoring import gold_leads
from mathllm.math_model import MathModel
from mathllm.prove.moves import changed
from mathllm.scope import Scope
from mathllm.tasks import SAMPLINGS, Problems, Sampling, Task, concatenate, sample
from mathllm.tasks.numbers import Bools

KEPT, CHILDREN = 2048, 4096  # problems that are changed, and that come of them in a round
ALIKE = 32  # problems that are kept of one task with the same operators and numbers of the same lengths
TOKENS = 1 << 19  # the most of a round
FRESH = 1024  # new random problems in a round, so that it never searches in one corner alone


@dataclass(frozen=True)
class Suspect:
    """A problem, its answer, what the model says (None: no number), and by how many logits the right token leads where
    it leads by least."""

    problem: str
    truth: int
    said: int | None
    lead: float

    @property
    def wrong(self) -> bool:
        return self.said != self.truth


@dataclass(frozen=True)
class Hunt:
    """How many problems were tried, those that the model gets wrong, and the others with the smallest leads."""

    tried: int
    wrong: tuple[Suspect, ...]
    weakest: tuple[Suspect, ...]
    first: float | None  # seconds until the first wrong one
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def hunt(
    model: MathModel,
    *,
    seconds: float,
    seed: int = 0,
    max_digits: int = 0,
    enough: int = 100,
    show: int = 20,
    progress: Progress | None = None,
) -> Hunt:
    """Searches for so many seconds, or until `enough` wrong problems are found, among numbers of up to `max_digits` (0:
    as many as in training). Raises UsageError for a model whose leads say nothing."""
    check_told(model)
    start, rng, first = time.perf_counter(), np.random.default_rng(seed), None
    how = sampling(model.data)
    how = replace(how, max_digits=max_digits or how.max_digits, method=methods_of(model.tasks))
    scope = Scope(replace(model.data, max_digits=how.max_digits), model.max_length)
    most = budget(model, how, TOKENS)
    herd = Herd.of(model, sample(rng, min(FRESH, most), model.tasks, how))
    while True:
        fresh = sample(rng, min(FRESH, most), model.tasks, how)
        herd = herd.bred(model, rng, fresh, scope, children=min(CHILDREN, most))
        wrong = int((herd.leads <= 0).sum())
        spent = time.perf_counter() - start
        first = spent if wrong and first is None else first
        if progress is not None:
            progress(min(int(spent), int(seconds)), int(seconds))
        if spent >= seconds or wrong >= enough:
            break
    found = suspects(model, herd.problems, herd.leads, wrong + show)
    mistakes = tuple(one for one in found if one.wrong)
    weakest = tuple(one for one in found if not one.wrong)[:show]
    return Hunt(herd.tried, mistakes, weakest, first, time.perf_counter() - start)


def methods_of(tasks: Sequence[Task]) -> str:
    """The ways in which problems of all these tasks can be drawn, one after the other."""
    return ",".join(method for method in SAMPLINGS if all(method in task.samplings for task in tasks))


@dataclass(frozen=True)
class Herd:
    """The problems that lead by least of all that were tried, the weakest first, and their leads."""

    problems: Problems
    leads: NDArray[np.float32]
    tried: int

    @classmethod
    def of(cls, model: MathModel, problems: Problems) -> Herd:
        problems = problems[_first(problems)]
        leads = smallest_leads(model, problems)
        order = np.argsort(leads, kind="stable")
        return cls(problems[order], leads[order], len(problems))

    def bred(
        self,
        model: MathModel,
        rng: np.random.Generator,
        fresh: Problems,
        scope: Scope,
        *,
        children: int = CHILDREN,
        suits: Callable[[Problems], Bools] | None = None,
        most: int = KEPT,
    ) -> Herd:
        """The weakest of these, of some fresh ones, and of as many children: these, changed a little, within the size
        of the scope. Those that do not suit are left out, and so are many of one shape."""
        parents = rng.integers(0, len(self.problems), children if len(self.problems) else 0)
        born = changed(rng, self.problems[parents], scope)
        if suits is not None:
            born = born[suits(born)]
        problems = concatenate([self.problems, fresh, born])
        once = _first(problems)
        new = np.sort(once[once >= len(self.problems)])
        leads = np.append(self.leads, smallest_leads(model, problems[new]))
        every = np.append(np.arange(len(self.problems)), new)
        order = np.argsort(leads, kind="stable")
        order = order[_rank(_shapes(problems[every[order]])) < ALIKE][:most]
        every = every[order]
        return Herd(problems[every], leads[order], self.tried + len(new))


def check_told(model: MathModel) -> None:
    """Raises UsageError where texts cannot be the truth: where thoughts are what a model makes of them."""
    if model.format.own_thoughts:
        raise UsageError(
            f"the thoughts of format {model.format.name!r} are a model's own: its leads on true texts say nothing",
            "mathllm eval, also with --exhaustive, counts its answers",
        )


def smallest_leads(model: MathModel, problems: Problems) -> NDArray[np.float32]:
    """By how much the right token leads where it leads by least, in the text of each problem [N]; -inf where that is no
    number."""
    if len(problems) == 0:
        return np.zeros(0, np.float32)
    gold, found = model.render(problems), np.zeros(len(problems), np.float32)
    for rows, leads, counted in gold_leads(model.model, model.format, gold, CHILDREN):
        found[rows] = np.where(counted, leads, np.inf).min(1)
    return np.where(np.isnan(found), -np.inf, found)


def _first(problems: Problems) -> NDArray[np.int64]:
    """The rows of problems that no row before is, operand by operand: to a model a+b is not b+a."""
    parts = [problems.task[:, None], problems.operators, problems.lengths, problems.negative]
    flat = np.concatenate([*parts, problems.operands.reshape(len(problems), -1)], axis=1).astype(np.uint64)
    mixers = np.random.default_rng(0).integers(1, 1 << 63, flat.shape[1], dtype=np.uint64) * np.uint64(2)
    return np.unique((flat * (mixers + np.uint64(1))).sum(1, dtype=np.uint64), return_index=True)[1]


def budget(model: MathModel, how: Sampling, tokens: int) -> int:
    """How many problems of up to a size have about so many tokens, at least a few."""
    return max(16, tokens // model.format.longest(model.tasks, how))


def _shapes(problems: Problems) -> NDArray[np.int64]:
    """A number [N] for the task, the operators and the lengths of problems: equal where these are."""
    parts = np.concatenate([problems.task[:, None], problems.operators, problems.lengths], axis=1)
    _, shapes = np.unique(parts, axis=0, return_inverse=True)
    return shapes.ravel()


def _rank(kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same kind come before each [N]."""
    order = np.argsort(kinds, kind="stable")
    ordered = kinds[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rank = np.zeros(len(kinds), np.int64)
    rank[order] = np.arange(len(kinds)) - np.repeat(starts, np.diff(np.append(starts, len(kinds))))
    return rank


def suspects(model: MathModel, problems: Problems, leads: NDArray[np.float32], most: int) -> list[Suspect]:
    """The first problems, and what the model says to them."""
    answers = model.answer(model.render(problems[:most]))
    return [
        Suspect(answer.expression, answer.expected, answer.answer if answer.reason == "end" else None, lead)
        for answer, lead in zip(answers, leads[:most].tolist(), strict=True)
    ]
