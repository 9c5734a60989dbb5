"""Which model answers: the one that was named, else, problem by problem, the first that has learned what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mathllm.checkpoint import load_checkpoint, read_scope
from mathllm.errors import CheckpointError, MathLLMError
from mathllm.finding import DEFAULT_ROOT, SHIPPED, SHIPPED_NAMES, candidates, find_checkpoint
from mathllm.limits import MAX_OPERANDS
from mathllm.math_model import MathModel, Solution
from mathllm.scope import Scope
from mathllm.tasks.expressions import alike, read_expressions
from mathllm.tasks.numbers import Ints

T = TypeVar("T")
LEARNED = 1 << 40  # how well a problem suits a model that has learned such ones


class Candidate:
    """A checkpoint of which no more is read than is asked for. Raises CheckpointError there if it is damaged."""

    def __init__(self, path: Path, device: torch.device | None) -> None:
        self.path, self.device = path, device

    @cached_property
    def scope(self) -> Scope:
        """What it can be asked."""
        return read_scope(self.path)

    @cached_property
    def model(self) -> MathModel:
        """The model itself."""
        return load_checkpoint(self.path, self.device)

    def __str__(self) -> str:
        """How it can be named."""
        if self.path.parent == SHIPPED and self.path.name in SHIPPED_NAMES:
            return self.path.name
        # of a run under checkpoints/ it is the one that is taken
        return str(self.path.parent if self.path.parent.parent == DEFAULT_ROOT else self.path)


class Models:
    """Candidates that are asked as one, in their order; `named` tells whether somebody has chosen them.

    Weights are loaded only when a model is chosen. Damaged candidates are left out, and `say` is told so; the methods
    raise CheckpointError where the last one is.
    """

    def __init__(
        self, candidates: Iterable[Candidate], named: bool, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._candidates, self.named, self.say = list(candidates), named, say

    @property
    def first(self) -> MathModel:
        """The model that is asked first."""
        while True:
            model = self._whole(self._candidates[0], lambda candidate: candidate.model)
            if model is not None:
                return model

    def others(self, model: MathModel) -> list[str]:
        """Who else may answer, by name."""
        return [str(one) for one in self._candidates if one.path != model.path]

    def choose(self, texts: Sequence[str]) -> list[tuple[MathModel, Ints]]:
        """The models for texts, each with its rows [M]: the first that has learned such a problem, else of those that
        know the task the one that was trained on the longest numbers, else the first that can be asked it at all, else
        the first, whose error it will be."""
        while True:
            shares = self._share(texts)
            models = [self._whole(one, lambda candidate: candidate.model) for one in shares]
            found = [(model, rows) for model, rows in zip(models, shares.values(), strict=True) if model]
            if len(found) == len(shares):
                return found

    def try_many(self, texts: Sequence[str]) -> list[tuple[MathModel, Solution | MathLLMError]]:
        """For each text the model that is chosen, and its answer or the error that its `solve` would raise."""
        outcomes: dict[int, tuple[MathModel, Solution | MathLLMError]] = {}
        for model, rows in self.choose(texts):
            answers = model.try_many([texts[row] for row in rows.tolist()])
            outcomes |= {row: (model, one) for row, one in zip(rows.tolist(), answers, strict=True)}
        return [outcomes[row] for row in range(len(texts))]

    def introduce(self, model: MathModel, text: str) -> str:
        """Which model has been chosen for a text, and why not the first; empty where somebody has named it."""
        first = self._candidates[0]
        if self.named:
            return ""
        (name,) = [str(one) for one in self._candidates if one.path == model.path]
        meant = "" if model.scope.in_integers else f", {model.scope.meaning}"
        if model.path == first.path:
            return f"{name} answers{meant}"
        if model.scope.meaning != first.scope.meaning:
            return f"{name} answers{meant}: {first} works {first.scope.meaning}"
        problems, good = read_expressions([text], first.scope.readable)
        unseen = " or ".join(what for what, _ in first.scope.unseen(problems[good]))
        return f"{name} answers: {first} {f'never saw {unseen}' if unseen else 'cannot be asked that'}"

    def _share(self, texts: Sequence[str]) -> dict[Candidate, Ints]:
        """The rows [M] of texts that are for each candidate."""
        if len(self._candidates) == 1:
            return {self._candidates[0]: np.arange(len(texts))}
        looked: list[Candidate] = []
        # by row, which of these suits it best, and how well
        taken, suits = np.zeros((2, len(texts)), np.int64)
        for one in self._ordered():
            left = np.flatnonzero(suits < LEARNED)
            if len(left) == 0:
                break
            fit = suitability(one.scope, [texts[row] for row in left.tolist()])
            better = fit > suits[left]
            taken[left[better]], suits[left[better]] = len(looked), fit[better]
            looked.append(one)
        rows = [np.flatnonzero(taken == place) for place in range(len(looked))]
        return {one: mine for one, mine in zip(looked, rows, strict=True) if len(mine)}

    def _ordered(self) -> list[Candidate]:
        """All that are whole; first those to whom a text means what it means to people (5+6 is 1 in a chain)."""
        for one in list(self._candidates):
            self._whole(one, lambda candidate: candidate.scope)
        return sorted(self._candidates, key=lambda one: not one.scope.in_integers)

    def _whole(self, one: Candidate, part: Callable[[Candidate], T]) -> T | None:
        """A part of a candidate; None of one that is damaged, and left out from now on."""
        try:
            return part(one)
        except CheckpointError as error:
            if len(self._candidates) == 1:
                raise
            self._candidates.remove(one)
            self.say(f"{one} is left out: {error.message}")
            return None


def find_models(
    path: str | Path | None = None,
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Models:
    """The checkpoint at `path`; without one all those that are taken where none is named, see `finding.candidates`.

    Raises CheckpointError where there is none."""
    places = candidates() if path is None else [find_checkpoint(path)]
    return Models((Candidate(place, device) for place in places), named=path is not None, say=say)


def suitability(scope: Scope, texts: Sequence[str]) -> Ints:
    """How well texts [N] suit a model: LEARNED where they are problems such as it has learned. Else more than 2 where
    it knows the task, and the more the longer its numbers were, or, where there are more numbers than it has ever seen,
    the more numbers it has seen; 2 if it has never seen such signs; 1 where it can be asked them, and 0 where it
    cannot."""
    suits = np.zeros(len(texts), np.int64)
    known = [task.code for task in scope.tasks]
    for group in map(np.array, alike(texts)):
        problems, good = read_expressions([texts[row] for row in group.tolist()], scope.readable)
        rendered, refused = scope.fit(problems[good])
        rows = np.delete(group[good], list(refused))
        outside, signs, numbers = np.zeros((3, len(rows)), np.bool_)
        for _, those, kind in scope.ways(rendered.problems):
            outside |= those
            signs |= those & (kind == "signs")
            numbers |= those & (kind == "numbers")
        learned = np.isin(rendered.problems.task, known)
        size = np.where(numbers, scope.most_numbers, MAX_OPERANDS + scope.size.max_digits)
        suits[rows] = np.where(outside, 1 + learned + size * (learned & ~signs), LEARNED)
    return suits
