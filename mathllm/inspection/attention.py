"""What each head looks at: its weights by what is looked for and at, and whether that is all that it needs.

A map of mean weights hides what is needed rarely, so the largest weight is shown beside the mean; and the map counts
only with its test: along the edges that it shows alone, are answers still right?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.evaluation.breakdown import Count
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import DISTANCE, Texts
from mathllm.interp import forward
from mathllm.interp.edits import Edit, KeepEdges
from mathllm.tasks.numbers import Ints

Floats = NDArray[np.float32]
MEAN, MOST = 0.05, 0.1  # weights above which an edge is kept, by its mean and by its largest weight
SHOWN = 0.1  # mean weight of what is named


@dataclass(frozen=True)
class Edges:
    """The kinds of edges there are: each from a kind of prediction to a kind of token, so far away. `code` [N, T, S] of
    every pair of tokens, -1 for what comes later."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]
    code: Ints
    query_count: Ints


@dataclass(frozen=True)
class Head:
    """A head's weights on each kind of edge [E]: their sum over keys, averaged over predictions; the largest; and the
    average by place alone, from the bias that the position scheme adds."""

    name: str
    mean: Floats
    most: Floats
    by_place: Floats | None


@dataclass(frozen=True)
class Attention:
    edges: Edges
    heads: tuple[Head, ...]
    before: Count
    by_mean: Count
    by_most: Count
    kept_by_mean: int
    kept_by_most: int

    def named(self, head: Head, most: int = 4) -> list[tuple[str, float, float, float]]:
        """What a head mostly looks at, over all predictions of the completion: a kind of token and how far away, its
        mean and largest weight, and the mean weight that it would have by its place alone (0 without a bias)."""
        keys = sorted(set(self.edges.keys))
        weight, largest, alone = np.zeros((3, len(keys)))
        place = np.array([keys.index(key) for key in self.edges.keys])
        counts = {
            name: count
            for name, count in zip(self.edges.queries, self.edges.query_count.tolist(), strict=True)
            if name.startswith("before")
        }
        share = np.array([counts.get(name, 0) for name in self.edges.queries]) / max(1, sum(counts.values()))
        np.add.at(weight, place, head.mean * share)
        if head.by_place is not None:
            np.add.at(alone, place, head.by_place * share)
        np.maximum.at(largest, place, np.where(share > 0, head.most, 0))
        order = np.argsort(-weight)[:most]
        return [
            (keys[i], float(weight[i]), float(largest[i]), float(alone[i]))
            for i in order
            if weight[i] >= SHOWN
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "kept_by_mean": {"threshold": MEAN, "edges": self.kept_by_mean, **self.by_mean.to_dict()},
            "kept_by_largest": {"threshold": MOST, "edges": self.kept_by_most, **self.by_most.to_dict()},
            "edges": len(self.edges.queries) * len(self.heads),
            "heads": [
                {
                    "head": head.name,
                    "looks_at": [
                        {"what": what, "mean": mean, "largest": largest, "by_place_alone": alone}
                        for what, mean, largest, alone in self.named(head, 8)
                    ],
                }
                for head in self.heads
            ],
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {
            "attention_queries": np.array(self.edges.queries),
            "attention_keys": np.array(self.edges.keys),
            "attention_mean": np.stack([head.mean for head in self.heads]),
            "attention_largest": np.stack([head.most for head in self.heads]),
        }
        return found

    def claims(self) -> list[Claim]:
        if self.before.exact_match < RIGHT or self.by_most.correct < 0.99 * self.before.correct:
            return []
        total = len(self.edges.queries) * len(self.heads)
        kept = f"the {self.kept_by_most:,} of {total:,} kinds of edges with a weight above {MOST} anywhere"
        mean = f"the {self.kept_by_mean:,} with a mean above {MEAN}: {self.by_mean.correct:,}"
        evidence = f"{self.by_most} right along {kept} (along {mean})"
        return [
            Claim(
                "answers need no more attention than the map of largest weights shows", evidence, "sufficient"
            )
        ]


def measure(texts: Texts) -> Attention:
    """Attention over all texts, and exact match along what it shows alone."""
    edges = edges_of(texts)
    names = [
        f"blocks.{layer}.attn.hook_{part}" for layer in range(texts.depth) for part in ("pattern", "bias")
    ]
    patterns = [name for name in names if name.endswith("pattern")]
    run = texts.run((), _known(texts, names))
    heads = []
    code = torch.from_numpy(edges.code)
    for layer, name in enumerate(patterns):
        pattern, bias = run.cache[name], run.cache.get(name.replace("pattern", "bias"))
        placed = None if bias is None else _by_place(bias)
        for head in range(pattern.shape[1]):
            mean, most = _by_edge(pattern[:, head].cpu(), code, edges)
            alone = None if placed is None else _by_edge(placed[:, head].cpu(), code, edges)[0]
            heads.append(Head(f"L{layer}H{head}", mean, most, alone))
    right = partial(_kept, texts, edges, heads)
    kept_mean, by_mean = right(lambda head: head.mean > MEAN)
    kept_most, by_most = right(lambda head: head.most > MOST)
    return Attention(edges, tuple(heads), Count.of(run.right), by_mean, by_most, kept_mean, kept_most)


def _known(texts: Texts, names: list[str]) -> list[str]:
    sites = set(forward.sites_of(texts.model.model))
    return [name for name in names if name in sites]


def _by_place(bias: Tensor) -> Tensor:
    """The weights that a bias alone would give, (B, H, T, S)."""
    hidden = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
    return bias.masked_fill(hidden, -torch.inf).softmax(-1)


def _by_edge(weights: Tensor, code: Tensor, edges: Edges) -> tuple[Floats, Floats]:
    """Mean and largest weight (B, T, S) on each kind of edge."""
    count = len(edges.queries)
    flat, kinds = weights.reshape(-1), code.reshape(-1) + 1
    total = torch.zeros(count + 1).index_add_(0, kinds, flat)[1:].numpy()
    most = torch.zeros(count + 1).scatter_reduce_(0, kinds, flat, "amax")[1:].numpy()
    return (total / np.maximum(edges.query_count, 1)).astype(np.float32), most.astype(np.float32)


def _kept(texts: Texts, edges: Edges, heads: list[Head], keep: Any) -> tuple[int, Count]:
    """How many kinds of edges are kept, and exact match along these alone."""
    edits: list[Edit] = []
    kept, count = 0, texts.model.model.heads
    code = torch.from_numpy(edges.code).to(texts.model.device)
    for layer in range(texts.depth):
        chosen = np.stack([keep(head) for head in heads[layer * count : (layer + 1) * count]])
        kept += int(chosen.sum())
        table = torch.from_numpy(np.pad(chosen, ((0, 0), (1, 0)))).to(code.device)
        where = table[:, code + 1].transpose(0, 1)  # (B, H, T, S)
        edits.append(KeepEdges(f"blocks.{layer}.attn.hook_pattern", 0.0, where=where))
    return kept, Count.of(texts.run(edits).right)


def edges_of(texts: Texts) -> Edges:
    """The kinds of edges between tokens of texts. Behind the prompt a query is what comes next, in it what it is."""
    kind, names = texts.kind, list(texts.kind_names)
    query = np.where(texts.counted, kind[:, 1:], kind[:, :-1] + len(names))
    query_names = [f"before {name}" for name in names] + [f"at {name}" for name in names]
    apart, apart_names = _apart(texts)
    width = len(apart_names)
    code = (query[:, :, None] * len(names) + kind[:, None, :-1]) * width + apart
    length = code.shape[1]
    outside = ~texts.there[:, :, None] | np.triu(np.ones((length, length), np.bool_), 1)
    code[outside] = -1
    found, inverse = np.unique(code, return_inverse=True)
    inverse = inverse.reshape(code.shape) - (found[0] == -1)
    found = found[found >= 0]
    queries, rest = np.divmod(found, len(names) * width)
    keys, distance = np.divmod(rest, width)
    counts = np.bincount(query[texts.there], minlength=2 * len(names))
    return Edges(
        tuple(query_names[one] for one in queries),
        tuple(names[key] + apart_names[far] for key, far in zip(keys, distance, strict=True)),
        inverse,
        counts[queries],
    )


def _apart(texts: Texts) -> tuple[Ints, list[str]]:
    """How far a key is from what a query is about [N, T, S], on every axis that is known, as a number; and in words."""
    n, length = texts.counted.shape
    code, names = np.zeros((n, 1, 1), np.int64), [""]
    for axis, (about, own) in texts.coordinates.items():
        if len(np.unique(about[about > 0])) < 2:
            continue
        both = (about[:, :, None] > 0) & (own[:, None, :] > 0)
        distance = np.clip(own[:, None, :] - about[:, :, None], -DISTANCE, DISTANCE) + DISTANCE + 1
        code = code * (2 * DISTANCE + 2) + np.where(both, distance, 0)
        names = [
            name + more
            for name in names
            for more in ["", *(_words(axis, d) for d in range(-DISTANCE, DISTANCE + 1))]
        ]
    return np.broadcast_to(code, (n, length, length)), names


def _words(axis: str, distance: int) -> str:
    if distance == 0:
        return f", same {axis}"
    more = " or more" * (abs(distance) == DISTANCE)
    return f", {abs(distance)}{more} {'below' if distance < 0 else 'above'}" + f" in {axis}" * (
        axis != "place"
    )
