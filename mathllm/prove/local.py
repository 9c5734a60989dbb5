"""What a prediction can depend on at all, where attention has a window: its local configuration, as a number.

With a window in every layer (`bias_window` of `coupled-bias`) a token's residual after a block is a function of its own
before it, and of the multiset of those that it sees, each with how far away it is. So two tokens of equal configuration
after the last block, in texts of whatever length, get equal logits, but for the order in which floats are added. The
configuration is worked out as a number of 64 bits, the way graphs are told apart by Weisfeiler and Leman: a mixed sum
over what is seen, block by block. (Two of n configurations share a number with a probability of about n^2 / 2^65.)"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.model.positions.coupled_bias import CoupledBias, Relative
from mathllm.model.transformer import Transformer
from mathllm.tasks.numbers import Bools, Ints
from mathllm.tokenizer import Ids

Keys = NDArray[np.uint64]

CELLS = 1 << 22  # pairs of tokens that are looked at together


def window_of(model: Transformer) -> CoupledBias:
    """The scheme of a model whose predictions depend on bounded surroundings. Raises UsageError for any other."""
    scheme, hint = model.positions, "mathllm prove --window -1,0 puts one into a coupled-bias model"
    if not isinstance(scheme, CoupledBias):
        raise UsageError("this model's positions are no differences of coordinates alone", "use --exhaustive")
    if not all(part.windows or part.names for part in scheme.parts.values()):
        raise UsageError("this model's attention has no bound: it sees all places, if faintly", hint)
    return scheme


def configurations(model: Transformer, ids: Ids, told: Mapping[str, Ints]) -> Keys:
    """The local configurations [N, T] of the predictions behind tokens [N, T] that stand where they are `told` to."""
    scheme, (n, length) = window_of(model), ids.shape
    found = np.zeros((n, length), np.uint64)
    step = max(1, CELLS // length**2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        found[rows] = _configurations(
            model, scheme, ids[rows], {axis: known[rows] for axis, known in told.items()}
        )
    return found


def _configurations(model: Transformer, scheme: CoupledBias, ids: Ids, told: Mapping[str, Ints]) -> Keys:
    named = [axis for axis in model.axes if axis.endswith("segment")]
    keys = ids.astype(np.uint64)
    for axis in named:
        keys = _mixed(keys * np.uint64(64) + told[axis].astype(np.uint64))
    apart: Keys = np.zeros((*ids.shape, ids.shape[1]), np.uint64)
    hidden = [
        np.triu(np.ones((ids.shape[1],) * 2, np.bool_), 1)[None].repeat(len(ids), 0) for _ in model.blocks
    ]
    for axis, part in scheme.parts.items():
        query, key = told[axis][:, :, None], told[scheme.own + axis][:, None, :]
        relation, outside = _related(part, query, key)
        apart = apart * np.uint64(1 << 10) + relation
        for layer, bounds in enumerate(part.windows):
            hidden[layer] |= outside[bounds]
    apart = _mixed(apart)
    for number in range(model.depth):
        seen = _mixed(keys[:, None, :] + apart)
        seen[hidden[number % len(model.blocks)]] = 0
        keys = _mixed(_mixed(keys) + seen.sum(2, dtype=np.uint64))
    return keys


def _related(part: Relative, query: Ints, key: Ints) -> tuple[Keys, dict[tuple[int, int], Bools]]:
    """All that a bias tells of pairs of tokens [N, T, S] on an axis, as a number below 1024; and what is outside each
    window."""
    about, placed = query > 0, key > 0
    known = about & placed if part.own_keys else placed | ~about
    difference = key - query
    most = max((abs(end) for bounds in part.bounds for end in bounds), default=1)
    relation = np.where(known, np.clip(difference, -most, most) + 500, 2 * about + placed)
    outside = {(low, high): known & ((difference < low) | (difference > high)) for low, high in part.bounds}
    return relation.astype(np.uint64), outside


def _mixed(keys: Keys) -> Keys:
    """A bijection that leaves no trace of the order of numbers (the finalizer of splitmix64)."""
    keys = (keys + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = keys ^ (keys >> np.uint64(31))
    return mixed
