"""How a problem is changed a little, in a search for problems that a model gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mathllm.scope import Scope
from mathllm.tasks import Problems, by_task, owned
from mathllm.tasks.numbers import Bools, Digits, Ints, lengths_of


def changed(rng: np.random.Generator, problems: Problems, scope: Scope) -> Problems:
    """Problems, each changed in one of the MOVES. What is no problem of its task any more, or lies outside of the
    scope, is left out."""
    n, count, _ = problems.operands.shape
    max_digits = max(scope.size.max_digits, scope.size.of_expressions.max_digits)
    digits: Digits = np.zeros((n, count, max_digits), np.uint8)
    shared = min(max_digits, problems.operands.shape[2])
    digits[..., :shared] = problems.operands[..., :shared]
    present = problems.lengths > 0
    move = rng.choice(len(MOVES), n, p=[share for _, share in MOVES])
    parents = _Parents(rng, digits.copy(), np.minimum(problems.lengths, max_digits), _mates(rng, problems))
    for kind, (make, _) in enumerate(MOVES):
        rows = np.flatnonzero(move == kind)
        if len(rows):
            digits[rows] = make(parents, rows)
    digits = digits * present[..., None]
    lengths = lengths_of(digits) * present
    made = replace(problems, operands=digits, lengths=lengths, negative=problems.negative & digits.any(2))
    fits = np.zeros(n, np.bool_)
    for task, some in by_task(made):
        fits[some] = ~task.misfits(made[some]).any(1)
    made = owned(made[fits], scope.tasks)
    outside = np.any([rows for _, rows in scope.unseen(made)] or [np.zeros(len(made), np.bool_)], axis=0)
    return made[~outside]


@dataclass(frozen=True)
class _Parents:
    """What moves start from: the digits [N, K, D] and lengths [N, K] of problems, and for each the row of another with
    the same task and operators."""

    rng: np.random.Generator
    digits: Digits
    lengths: Ints
    mates: Ints

    def number(self, rows: Ints) -> Ints:
        """One number of each, drawn."""
        number: Ints = self.rng.integers(0, (self.lengths[rows] > 0).sum(1))
        return number

    def place(self, rows: Ints, number: Ints) -> Ints:
        """A place of it."""
        place: Ints = self.rng.integers(0, self.lengths[rows, number])
        return place

    def drawn(self, n: int) -> Digits:
        """Digits, often 0 or 9."""
        often = self.rng.choice(np.array([0, 9], np.uint8), n)
        drawn: Digits = np.where(self.rng.random(n) < 0.4, often, self.rng.integers(0, 10, n)).astype(
            np.uint8
        )
        return drawn


def _digit(parents: _Parents, rows: Ints) -> Digits:
    """Another digit."""
    made, at, number = parents.digits[rows], np.arange(len(rows)), parents.number(rows)
    made[at, number, parents.place(rows, number)] = parents.drawn(len(rows))
    return made


def _step(parents: _Parents, rows: Ints) -> Digits:
    """A digit up or down by one, and half of the time that of another number at the same place the other way: a sum
    keeps its carries."""
    made, at, number = parents.digits[rows], np.arange(len(rows)), parents.number(rows)
    place, up = parents.place(rows, number), parents.rng.random(len(rows)) < 0.5
    made[at, number, place] = _by_one(made[at, number, place], up)
    other = (number + 1) % (parents.lengths[rows] > 0).sum(1)
    both = at[(parents.rng.random(len(rows)) < 0.5) & (other != number)]
    made[both, other[both], place[both]] = _by_one(made[both, other[both], place[both]], ~up[both])
    return made


def _by_one(digits: Digits, up: Bools) -> Digits:
    made: Digits = np.where(up, np.minimum(digits, 8) + 1, np.maximum(digits, 1) - 1).astype(np.uint8)
    return made


def _shift(parents: _Parents, rows: Ints) -> Digits:
    """All numbers a place up, with new units, or down."""
    made, up = parents.digits[rows], parents.rng.random(len(rows)) < 0.5
    below = parents.drawn(made[:, :, 0].size).reshape(made.shape[:2])
    raised = np.concatenate([below[..., None], made[..., :-1]], axis=2)
    lowered = np.concatenate([made[..., 1:], np.zeros_like(made[..., :1])], axis=2)
    return np.where(up[:, None, None], raised, lowered)


def _length(parents: _Parents, rows: Ints) -> Digits:
    """A number longer by a digit, or shorter."""
    made, at, number = parents.digits[rows], np.arange(len(rows)), parents.number(rows)
    length, longer = parents.lengths[rows, number], parents.rng.random(len(rows)) < 0.5
    place = np.clip(length - ~longer, 0, made.shape[2] - 1)
    made[at, number, place] = np.where(longer, np.maximum(parents.drawn(len(rows)), 1), 0)
    return made


def _place(parents: _Parents, rows: Ints) -> Digits:
    """At a place the digits of another place, in all numbers: what goes wrong once, in a row."""
    made, at = parents.digits[rows], np.arange(len(rows))
    longest = parents.lengths[rows].max(1)
    to, of = parents.rng.integers(0, longest), parents.rng.integers(0, longest)
    made[at, :, to] = made[at, :, of]
    return made


def _cross(parents: _Parents, rows: Ints) -> Digits:
    """The digits below a place from another problem."""
    made, other = parents.digits[rows], parents.digits[parents.mates[rows]]
    below = np.arange(made.shape[2]) < parents.rng.integers(0, parents.lengths[rows].max(1))[:, None]
    return np.where(below[:, None, :], other, made)


# how a problem is changed, and in what share of cases
MOVES: tuple[tuple[Callable[[_Parents, Ints], Digits], float], ...] = (
    (_digit, 0.35),
    (_step, 0.15),
    (_shift, 0.2),
    (_length, 0.1),
    (_place, 0.1),
    (_cross, 0.1),
)


def _mates(rng: np.random.Generator, problems: Problems) -> Ints:
    """For each problem the row of one with the same task and operators, drawn [N]."""
    _, kinds = np.unique(
        np.concatenate([problems.task[:, None], problems.operators], axis=1), axis=0, return_inverse=True
    )
    ordered, drawn = (
        np.argsort(kinds.ravel(), kind="stable"),
        np.lexsort((rng.random(len(problems)), kinds.ravel())),
    )
    mates = np.empty(len(problems), np.int64)
    mates[ordered] = drawn
    return mates
