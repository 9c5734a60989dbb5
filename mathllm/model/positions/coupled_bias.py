"""A bias over the difference of coordinates, on any set of axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mathllm.errors import UsageError, check_at_least
from mathllm.limits import MAX_NEAR, check_range
from mathllm.model.positions.base import Shape, Table, Where
from mathllm.model.positions.coupled import Placed, StartSettings

UNIT = 10.0  # parameters are stored divided by it, so that they learn that much faster


@dataclass(frozen=True)
class BiasSettings(StartSettings):
    """`bias_near` and `bias_decay` are how many places the table reaches to either side, and the nats a place by
    which the bias falls beyond at first; `bias_axes` are the axes, with commas, that have such a bias each."""

    bias_near: int = 1
    bias_decay: float = 3.0
    bias_axes: str = "place"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.bias_near", self.bias_near, 0, MAX_NEAR)
        check_at_least("model.bias_decay", self.bias_decay, 0)
        axes = tuple(axis.strip() for axis in self.bias_axes.split(","))
        if len(set(axes)) < len(axes) or not all(axis.isidentifier() for axis in axes):
            raise UsageError(
                f"model.bias_axes names axes, each once, as in place,segment: not {self.bias_axes!r}"
            )
        object.__setattr__(self, "bias_axes", ",".join(axes))

    @property
    def over(self) -> tuple[str, ...]:
        """The axes that have a bias."""
        return tuple(self.bias_axes.split(","))


class Relative(nn.Module):
    """The bias of one axis: a table for differences up to `reaches`, a decay beyond, and a number for keys of no
    place, all of them for each layer and head."""

    def __init__(self, shape: Shape, near: int, decay: float) -> None:
        super().__init__()
        self.reaches = near
        self.near = nn.Parameter(torch.zeros(shape.layers, 2 * near + 1, shape.heads))
        self.decay = nn.Parameter(torch.full((shape.layers, shape.heads), decay / UNIT))
        self.placeless = nn.Parameter(torch.zeros(shape.layers, shape.heads))

    def planes(self, query: Tensor, key: Tensor) -> Tensor:
        """How often each of the `weights` counts: (B, 2 near + 3, T, S) from places of queries (B, T), keys (B,
        S)."""
        difference = key[:, None, :] - query[:, :, None]  # (B, T, S)
        within = difference.clamp(-self.reaches, self.reaches)
        placeless = (key[:, None, :] == 0) & (query[:, :, None] > 0)
        batch, length, seen = difference.shape
        planes = self.near.new_empty(batch, 2 * self.reaches + 3, length, seen)
        for column, near in enumerate(range(-self.reaches, self.reaches + 1)):
            planes[:, column] = (within == near) & ~placeless
        planes[:, -2] = (difference - within).abs().masked_fill(placeless, 0)
        planes[:, -1] = placeless
        # a bias is a product with these: cheaper than to look each up in a table, above all backwards
        return planes

    def weights(self, layer: int) -> list[Tensor]:
        """What the planes are multiplied by, (2 near + 3, H) in three parts."""
        return [self.near[layer], -self.decay[layer][None], self.placeless[layer][None]]

    def gain(self) -> float:
        """By how many nats a key may be above the query's own token on this axis."""
        if not self.decay.min() >= 0:
            return math.inf
        own = self.near[:, self.reaches]
        most = torch.maximum(self.near.amax(1), self.placeless) - own
        return most.max().item() * UNIT

    def reach(self, spread: float) -> int | None:
        """How far away a key is `spread` nats below the query's own token on this axis; None: nowhere."""
        steepest = self.decay.min().item() * UNIT
        edges = self.near[:, [0, -1]].amax(1) - self.near[:, self.reaches]  # (layers, H), above the own place
        needed = edges.max().item() * UNIT + spread
        if not (steepest > 0 and math.isfinite(needed)):
            return None
        return self.reaches + max(1, math.ceil(needed / steepest))


class CoupledBias(Placed):
    """A bias over the difference of places: a table where they touch (as T5's, arXiv 1910.10683), beyond it a
    decay that is linear as ALiBi's (arXiv 2108.12409) but learned, per layer and head.

    A column of a sum needs its own place and the one below, at any length, and nothing else: so the table has
    the differences -1, 0 and 1 only (`bias_near` 1), and the decay is steep from the start (3 nats a place), or some
    models learn short cuts over several places that hold up to the length seen in training. On several axes it is the
    sum of such a bias over each. A vector tells the answer from the prompt.
    """

    Settings = BiasSettings

    def build(self, shape: Shape) -> None:
        chosen: BiasSettings = self.settings
        self.key_axes = chosen.over
        self.relative = nn.ModuleDict(
            {axis: Relative(shape, chosen.bias_near, chosen.bias_decay) for axis in chosen.over}
        )
        self.segments = Table(2, shape.hidden)

    @classmethod
    def axes_with(cls, settings: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*settings.over, "segment")))

    @property
    def parts(self) -> dict[str, Relative]:
        return cast("dict[str, Relative]", self.relative)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.segments(where.axes["segment"])

    def pairs(self, query: Where, key: Where) -> Tensor:
        planes = [part.planes(query.axes[axis], key.axes[axis]) for axis, part in self.parts.items()]
        return planes[0] if len(planes) == 1 else torch.cat(planes, dim=1)

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        weights = torch.cat([w for part in self.parts.values() for w in part.weights(layer)]).T * UNIT
        # in full precision: bf16 would round what is learned here to a few steps
        with torch.autocast(pairs.device.type, enabled=False):
            bias = torch.bmm(weights.expand(len(pairs), -1, -1), pairs.flatten(2))  # (B, H, T S)
            return bias.view(len(pairs), -1, *pairs.shape[2:])

    def reach(self, spread: float) -> dict[str, int]:
        # what a key loses by its distance on one axis it may make up for on the others
        parts = self.parts
        gains = {axis: part.gain() if len(parts) > 1 else 0.0 for axis, part in parts.items()}
        found = {}
        for axis, part in parts.items():
            others = sum(gain for other, gain in gains.items() if other != axis)
            reach = part.reach(spread + others)
            if reach is not None:
                found[axis] = reach
        return found
