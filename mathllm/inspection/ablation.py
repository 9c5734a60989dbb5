"""What is needed: each head and each feed-forward layer taken away in three ways, and how many problems of each class
are then still right.

The three ways may disagree, so they stand side by side: a zero is far from all that the rest of the model has ever
seen; the mean over tokens of the same role (and with the same role next; of the same kind where these are few) takes
away only what differs between problems; what such a token holds in another text, drawn at random, keeps what is usual
in all but the problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.evaluation.breakdown import Count
from mathllm.flags import listed
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.interp.edits import Edit, means_by_role
from mathllm.tasks.numbers import Bools, Ints

ZERO, MEAN, RESAMPLE = WAYS = ("zero", "mean", "resample")
NEEDED = 0.99  # of those right before: a part without which fewer are right is needed
LEAST, MOST_KEPT = 10, 0.05  # texts of a class, and tokens that could not be replaced, for a claim
TELLING = 0.5  # a share of a class that is wrong makes it one that a part is needed for


@dataclass(frozen=True)
class Part:
    """A head, or the neurons of a layer."""

    name: str
    site: str
    heads: tuple[int, ...] | None = None

    def edit(self, value: Tensor | float, tokens: Tensor) -> Edit:
        return Edit(self.site, value, tokens=tokens, heads=self.heads)


@dataclass(frozen=True)
class Loss:
    """How many texts of each class are right without a part, of those that are right with it, by each way of taking it
    away; and in what they go wrong first, mostly, when it is replaced by its mean."""

    part: Part
    right: dict[str, dict[str, Count]]
    total: dict[str, Count]
    first_wrong: str

    def needed(self, way: str) -> bool:
        return self.total[way].exact_match < NEEDED

    def classes(self, way: str) -> list[str]:
        """Those of which most are wrong without it, of enough texts to say so."""
        large = {name: count for name, count in self.right[way].items() if count.num_examples >= LEAST}
        hurt = [name for name, count in large.items() if count.exact_match <= 1 - TELLING]
        return ["most of every class"] if len(hurt) == len(large) > 1 else hurt


@dataclass(frozen=True)
class Ablation:
    """Without each part, of the texts that are right `before`; `together` is exact match without all parts that none of
    the ways shows to be needed alone, by role mean. `kept` is the share of tokens that had too few like them to be
    replaced."""

    before: Count
    losses: tuple[Loss, ...]
    spare: tuple[str, ...]
    together: Count | None
    kept: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "tokens_not_replaced": self.kept,
            "without": [
                {
                    "part": loss.part.name,
                    "first_wrong": loss.first_wrong,
                    **{
                        way: {
                            **loss.total[way].to_dict(),
                            "by_class": {name: count.to_dict() for name, count in loss.right[way].items()},
                        }
                        for way in WAYS
                    },
                }
                for loss in self.losses
            ],
            "needless_alone": list(self.spare),
            "without_all_of_these": self.together.to_dict() if self.together else None,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        share = [[[c.exact_match for c in loss.right[way].values()] for way in WAYS] for loss in self.losses]
        return {"ablation_right": np.array(share)}

    def claims(self) -> list[Claim]:
        if self.before.exact_match < RIGHT or self.kept > MOST_KEPT:
            return []
        found: list[Claim] = []
        groups: dict[str, list[Loss]] = {}
        for loss in self.losses:
            if all(loss.needed(way) for way in WAYS):
                groups.setdefault("; ".join(loss.classes(MEAN)), []).append(loss)
        for what, losses in groups.items():
            names = listed([loss.part.name for loss in losses], "and")
            verb = "is" if len(losses) == 1 else "are each"
            text = f"{names} {verb} needed" + f" for {what}" * bool(what)
            found.append(Claim(text, "; ".join(map(_evidence, losses)), "necessary"))
        if self.together is not None and self.together.exact_match >= NEEDED:
            text = f"answers do without {listed(self.spare, 'and')}"
            found.append(Claim(text, f"{self.together} right with role means in their place", "sufficient"))
        elif self.together is not None and len(self.spare) > 1:
            text = f"{listed(self.spare, 'and')} can each be spared, but not all together"
            found.append(
                Claim(text, f"{self.together} right with all of them replaced by role means", "necessary")
            )
        if disagree := [
            loss.part.name for loss in self.losses if len({loss.needed(way) for way in WAYS}) > 1
        ]:
            text = f"whether it is needed depends on what stands in its place, of {listed(disagree, 'and')}"
            found.append(Claim(text, "zero, role mean and resampling disagree: see the table", "read"))
        return found


def _evidence(loss: Loss) -> str:
    right = ", ".join(f"{way} {loss.total[way].correct:,}" for way in WAYS)
    first = f", first wrong: {loss.first_wrong}" if loss.first_wrong else ""
    return f"{loss.part.name}: of {loss.total[ZERO].num_examples:,} right with {right}{first}"


def measure(texts: Texts, *, seed: int = 0) -> Ablation:
    """Takes away each head and each layer's neurons, in the texts that are right."""
    right = texts.run().right
    before = Count.of(right)
    if not right.any():
        return Ablation(before, (), (), None, 0.0)
    texts = texts.among(np.flatnonzero(right))
    parts = parts_of(texts)
    clean = texts.run((), sorted({part.site for part in parts}))
    pairs = torch.from_numpy(texts.pair).to(texts.model.device)
    alike = pairs >= 0
    donors = torch.from_numpy(others(texts.pair, np.random.default_rng(seed))).to(texts.model.device)
    values: dict[tuple[str, str], Tensor | float] = {}
    for site, found in clean.cache.items():
        values[site, ZERO] = 0.0
        values[site, MEAN] = means_by_role(found, pairs, texts.pairs)
        values[site, RESAMPLE] = found.flatten(0, 1)[donors.flatten()].view_as(found)
    losses = [_loss(texts, part, values, alike) for part in parts]
    spare = [loss.part for loss in losses if not any(loss.needed(way) for way in WAYS)]
    together = None
    if spare:
        edits = [part.edit(values[part.site, MEAN], alike) for part in spare]
        together = Count.of(texts.run(edits).right)
    return Ablation(before, tuple(losses), tuple(part.name for part in spare), together, texts.unlike)


def _loss(texts: Texts, part: Part, values: Mapping[tuple[str, str], Tensor | float], alike: Tensor) -> Loss:
    # zeros can stand anywhere, others only where there are tokens like these
    where = {ZERO: torch.ones_like(alike), MEAN: alike, RESAMPLE: alike}
    runs = {way: texts.run([part.edit(values[part.site, way], where[way])]) for way in WAYS}
    return Loss(
        part,
        {way: _counts(texts, run.right) for way, run in runs.items()},
        {way: Count.of(run.right) for way, run in runs.items()},
        first_wrong(texts, runs[MEAN].leads.cpu().numpy()),
    )


def parts_of(texts: Texts) -> list[Part]:
    """All heads and all layers of neurons."""
    found = []
    for layer in range(texts.depth):
        site = f"blocks.{layer}.attn.hook_z"
        found += [Part(f"L{layer}H{head}", site, (head,)) for head in range(texts.model.model.heads)]
        found.append(Part(f"L{layer}MLP", f"blocks.{layer}.mlp.hook_post"))
    return found


def others(codes: Ints, rng: np.random.Generator) -> Ints:
    """For each token [N, T] the number in all N x T of another one, drawn among those with the same code."""
    flat = codes.ravel()
    ordered = np.lexsort((rng.random(len(flat)), flat))
    code = flat[ordered]
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    size = np.diff(np.append(starts, len(code)))
    after = np.arange(len(code)) + 1
    after[starts + size - 1] = starts  # the next one of the same code; the last takes the first
    donors = np.empty(len(flat), np.int64)
    donors[ordered] = ordered[after]
    return donors.reshape(codes.shape)


def _counts(texts: Texts, right: Bools) -> dict[str, Count]:
    return {name: Count.of(right[rows]) for name, rows in texts.classes.items()}


def first_wrong(texts: Texts, leads: NDArray[Any]) -> str:
    """The kind of token that texts go wrong in first, mostly; empty where none is wrong."""
    wrong = (leads <= 0) & texts.counted
    rows = np.flatnonzero(wrong.any(1))
    if len(rows) == 0:
        return ""
    kinds = texts.kind[rows, 1 + wrong[rows].argmax(1)]
    most = int(np.bincount(kinds[kinds >= 0]).argmax())
    return texts.kind_names[most]
