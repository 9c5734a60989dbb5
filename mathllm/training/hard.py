"""Hard problems: searched for now and then near the model's mistakes, and mixed into those that it learns from.

What random problems hardly ever hold, a few digits in a row that go wrong, is found by a search (`prove.hunt`) and
learned from there: counterexample-guided training. No problem of validation or test is ever among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mathllm.config import Config
from mathllm.data.sources import Source, ratios, sampling
from mathllm.math_model import MathModel
from mathllm.prove.cases import others
from mathllm.prove.hunt import Herd, budget, methods_of
from mathllm.prove.proof import Proof, prove, try_cases
from mathllm.scope import Scope
from mathllm.tasks import Problems, concatenate, get_tasks, sample
from mathllm.tasks.expressions import read_expressions
from mathllm.tasks.numbers import Bools
from mathllm.tasks.splits import TRAIN, split_of

ROUNDS, FRESH, CHILDREN = 4, 512, 1024  # of a search
TOKENS = 1 << 18  # the most of a round
KEPT = 1024  # problems that it goes on from, and that are learned from
_SEARCHED, _MIXED = 4, 5  # kinds of random numbers, beside those of data.sources


class HardProblems:
    """A source with `train.hunt_share` of hard problems, once some are `known` (one a line)."""

    def __init__(self, config: Config, source: Source, known: str = "") -> None:
        self.source, self.share, self.seed = source, config.train.hunt_share, config.train.seed
        self.tasks, self.ratios = get_tasks(config.data.task), ratios(config.data)
        self.how = replace(sampling(config.data), method=methods_of(self.tasks))
        self.scope = Scope(config.data, config.model.max_length)
        self.known: Problems | None = None
        if config.train.hunt_steps:
            self.learn(known)

    def learn(self, known: str) -> None:
        """Takes these problems instead of those before, but for what is none that may be trained on."""
        problems, good = read_expressions(known.splitlines(), self.tasks)
        problems = problems[np.flatnonzero(good)]
        outside = [rows for _, rows in self.scope.unseen(problems)] if len(problems) else []
        suit = self._trained(problems) & ~np.any([*outside, np.zeros(len(problems), np.bool_)], axis=0)
        self.known = problems[np.flatnonzero(suit)] if suit.any() else None

    def problems(self, step: int, n: int) -> Problems:
        """The n problems of a step; the same ones whenever it is asked."""
        problems = self.source.problems(step, n)
        if self.known is None or not self.share:
            return problems
        hard = max(1, int(n * self.share))
        rng = np.random.default_rng([self.seed, _MIXED, step])
        chosen = self.known[rng.integers(0, len(self.known), hard)]
        return concatenate([problems[np.arange(n - hard)], chosen])

    def prove(self, model: MathModel) -> tuple[Proof | None, Problems]:
        """A proof, or what stands in its way (None where cases are wrong), and problems that hold the weakest local
        configurations."""
        cases = try_cases(model)
        proof = None if cases.wrong else prove(model, cases)
        weak = cases.tried.problems[cases.tried.rows[np.argsort(cases.tried.leads, kind="stable")[:KEPT]]]
        # where one may not be trained on, another of its kind may
        rng = np.random.default_rng([self.seed, _SEARCHED])
        weak = concatenate([weak, *(others(weak, rng) for _ in range(2))])
        return proof, weak[np.flatnonzero(self._trained(weak))]

    def search(self, model: MathModel, step: int) -> Herd:
        """Hard problems for the model as it is, from those known and some fresh ones on."""
        rng = np.random.default_rng([self.seed, _SEARCHED, step])
        herd = Herd.of(model, self._fresh(rng) if self.known is None else self.known)
        most = budget(model, self.how, TOKENS)
        for _ in range(ROUNDS):
            herd = herd.bred(
                model,
                rng,
                self._fresh(rng)[: most // 2],
                self.scope,
                children=min(CHILDREN, most),
                suits=self._trained,
                most=min(KEPT, most),
            )
        return herd

    def _fresh(self, rng: np.random.Generator) -> Problems:
        drawn = sample(rng, FRESH, self.tasks, self.how)
        return drawn[self._trained(drawn)]

    def _trained(self, problems: Problems) -> Bools:
        found: Bools = split_of(problems, self.ratios) == TRAIN
        return found
