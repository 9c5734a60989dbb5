"""A part of the model that is enough: heads, each behind tokens of one role, and neurons, with all others replaced by
the mean over tokens of the same role.

It is found without a hand. Gradients order the nodes by what their absence would cost (attribution patching; after
"Towards Automated Circuit Discovery", arXiv 2304.14997), and no more than that: how many can go is tried, by bisection,
then again in the order of gradients in what is left, and at last node by node, until each is needed. Being right on the
problems that it was found with says little of others (docs/inside.md has figures): so all pairs are tried, those that
it gets wrong come into the pool, and it grows until none is left: first as bisection left it, which finds most of the
pairs that are hard, then node by node. It is *a* circuit: others may do as well (arXiv 2502.20914)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exact_match import Progress
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.inspection.circuit_search import Nodes, Search
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.tasks import by_task

ROUNDS = 64  # of mending


@dataclass(frozen=True)
class Circuit:
    """`of` are the nodes that there are: heads behind roles that occur, and neurons. `checked` counts the problems that
    were tried with the nodes alone, all pairs if `every`; `resampled` those of the sample that are right when the rest
    holds, for each token, what a token of its role holds in another text."""

    before: Count
    kept: Nodes
    roles: tuple[str, ...]
    of: tuple[int, int]
    checked: Count
    every: str
    rounds: int
    resampled: Count

    @property
    def counts(self) -> tuple[int, int]:
        return int(self.kept.heads.sum()), int(self.kept.neurons.sum())

    def to_dict(self) -> dict[str, Any]:
        heads, neurons = self.counts
        return {
            "heads_behind_roles": {"kept": heads, "of": self.of[0]},
            "neurons": {"kept": neurons, "of": self.of[1]},
            "checked": self.checked.to_dict(),
            "all_pairs": self.every,
            "with_other_texts_in_the_rest": self.resampled.to_dict(),
            "rounds_of_counterexamples": self.rounds,
            "nodes": [
                f"L{layer}H{head} at {self.roles[role]}"
                for layer, head, role in np.argwhere(self.kept.heads).tolist()
            ]
            + [f"L{layer}N{neuron}" for layer, neuron in np.argwhere(self.kept.neurons).tolist()],
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "circuit_heads": self.kept.heads,
            "circuit_roles": np.array(self.roles),
            "circuit_neurons": self.kept.neurons,
        }

    def claims(self) -> list[Claim]:
        right = self.checked.correct == self.checked.num_examples
        if self.before.exact_match < RIGHT or not right:
            return []
        heads, neurons = self.counts
        text = f"{heads:,} of {self.of[0]:,} heads behind roles and {neurons:,} of {self.of[1]:,} neurons are a circuit"
        checked = f"{self.checked}" + f" ({self.every})" * bool(self.every)
        evidence = f"right with role means in the place of the rest: {checked}; without any one node of it, not all of "
        evidence += f"those tried are; with what other texts hold there: {self.resampled}"
        return [Claim(text, evidence, "exhaustive" if self.every else "sufficient")]


def measure(
    texts: Texts,
    limit: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Circuit:
    """Finds a circuit for the texts that the model gets right, and where a `limit` is given, for all pairs of operands
    from 0 to it. `say` is told how it goes."""
    clean = texts.run()
    before = Count.of(clean.right)
    search = Search(texts, clean.right, say or (lambda text: None))
    pairs = None
    if limit is not None:
        tasks = [task for task, _ in by_task(texts.gold.problems)]
        pairs = AllPairs(tasks, limit, texts.model.data.signed, texts.model.data.second_digits)
        search.check_roles(pairs)  # before minutes are spent
    kept = search.bisected(search.everything) if clean.right.any() else search.everything
    rounds, checked, every = 0, Count(len(search.pool), len(search.pool)), ""
    phases = (False, True) if pairs is not None else (True,)
    for needed in phases if clean.right.any() else ():
        kept = search.one_by_one(kept, pairs) if needed else kept
        while pairs is not None:
            wrong, tried, missed = search.wrong(pairs, kept, progress)
            search.say(f"{kept}: {len(wrong):,} of {tried:,} wrong")
            checked = Count(tried - len(wrong) - missed, tried)
            every = pairs.about if tried == len(pairs) else ""
            if len(wrong) == 0 or rounds == ROUNDS:
                break
            rounds += 1
            search.learn(wrong)
            kept = search.grown(kept)
            kept = search.one_by_one(kept, pairs) if needed else kept
    of = int(search.everything.heads.sum()), int(search.everything.neurons.sum())
    return Circuit(before, kept, texts.role_names, of, checked, every, rounds, search.resampled(kept))
