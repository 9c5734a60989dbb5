"""A bias over the difference of coordinates, on any set of axes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mathllm.errors import UsageError, check_at_least
from mathllm.limits import MAX_NEAR, check_range
from mathllm.model.positions.base import Shape, Table, Where
from mathllm.model.positions.coupled import Placed, StartSettings
from mathllm.registry import OWN

UNIT = 10.0  # parameters are stored divided by it, so that they learn that much faster
HIDDEN = -1e9  # nats
SEGMENTS = 32  # what a token may belong to where rows of working are told; elsewhere it is prompt or not


@dataclass(frozen=True)
class BiasSettings(StartSettings):
    """`bias_near` and `bias_decay` are how many places the table reaches to either side, and the nats a place by
    which the bias falls beyond at first; `bias_axes` are the axes, with commas, that have such a bias each, `row:2` one
    whose table reaches 2 to either side. With `own_keys` keys are seen where they are themselves, and queries where
    the token is that they predict. `segments` is whether a vector tells what a token belongs to.

    `bias_window` is for each layer, or for all, how far it sees at all on axes that have a distance: 1 is one place to
    either side, -1 the place below and its own, 0 its own alone; nothing is no bound. With it what a token depends on
    is bounded, so that its cases can be counted (docs/proof.md)."""

    bias_near: int = 1
    bias_decay: float = 3.0
    bias_axes: str = "place"
    own_keys: bool = False
    segments: bool = True
    bias_window: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.bias_near", self.bias_near, 0, MAX_NEAR)
        check_at_least("model.bias_decay", self.bias_decay, 0)
        parts = [part.strip() for part in self.bias_axes.split(",")]
        if not all(re.fullmatch(r"[a-z]\w*(:\d{1,3})?", part) for part in parts):
            raise _bad_axes(self.bias_axes)
        object.__setattr__(self, "bias_axes", ",".join(parts))
        if len(self.near) < len(parts):
            raise _bad_axes(self.bias_axes)
        for near in self.near.values():
            check_range("the reach of a table in model.bias_axes", near, 0, MAX_NEAR)
        ends = [end.strip() for end in self.bias_window.split(",")] if self.bias_window.strip() else []
        if not all(re.fullmatch(r"-?\d{1,3}", end) for end in ends):
            what = f"model.bias_window is a distance for each layer, as in -1,0: not {self.bias_window!r}"
            raise UsageError(what, "1 sees a place to either side, -1 the one below alone, 0 neither")
        for end in ends:
            check_range("a distance of model.bias_window", abs(int(end)), 0, MAX_NEAR)
        object.__setattr__(self, "bias_window", ",".join(ends))

    @property
    def near(self) -> dict[str, int]:
        """The axes that have a bias, and how far the table of each reaches."""
        pairs = (part.partition(":")[::2] for part in self.bias_axes.split(","))
        return {axis: int(near) if near else self.bias_near for axis, near in pairs}

    def windows(self, layers: int) -> list[tuple[int, int]]:
        """The smallest and the largest difference of a key's place from a query's that each layer sees; empty where
        there is no bound. Raises UsageError for a window of other layers."""
        ends = [int(end) for end in self.bias_window.split(",") if end.strip()]
        if len(ends) not in (0, 1, layers):
            raise UsageError(
                f"model.bias_window {self.bias_window!r} has {len(ends)} distances for {layers} layers",
                "give one for each layer, or one for all",
            )
        return [(-abs(end), max(end, 0)) for end in ends] * (layers if len(ends) == 1 else 1)


def _bad_axes(text: str) -> UsageError:
    return UsageError(
        f"model.bias_axes names axes, each once, as in place,segment or place,row:2: not {text!r}"
    )


class Relative(nn.Module):
    """The bias of one axis: a table for differences up to `reaches`, a decay beyond, and a number for keys of no
    place; with `own_keys` also one for keys of some place where the query is about none, and where the table has no
    neighbours (an axis of names), the decay is the same for all others. All of it for each layer and head. What is
    outside a layer's window is hidden."""

    hidden: Tensor

    def __init__(self, shape: Shape, near: int, settings: BiasSettings) -> None:
        super().__init__()
        decay, own_keys = settings.bias_decay, settings.own_keys
        self.reaches, self.own_keys = near, own_keys
        self.names = own_keys and near == 0
        self.windows = [] if self.names else settings.windows(shape.layers)
        self.bounds = sorted(set(self.windows))
        hides = [[HIDDEN / UNIT * (window == bound) for bound in self.bounds] for window in self.windows]
        self.register_buffer("hidden", torch.tensor(hides), persistent=False)  # (layers, bounds)
        self.near = nn.Parameter(torch.zeros(shape.layers, 2 * near + 1, shape.heads))
        self.decay = nn.Parameter(torch.full((shape.layers, shape.heads), decay / UNIT))
        self.placeless = nn.Parameter(torch.zeros(shape.layers, shape.heads))
        if own_keys:
            # names are of tokens anywhere; of places a query about none needs none
            start = 0.0 if self.names else -decay / UNIT
            self.placed = nn.Parameter(torch.full((shape.layers, shape.heads), start))

    @property
    def count(self) -> int:
        """How many planes there are."""
        return 2 * self.reaches + 3 + self.own_keys + len(self.bounds)

    def fill(self, planes: Tensor, query: Tensor, key: Tensor) -> None:
        """Writes how often each of the `weights` counts into planes (B, count, T, S), from places of queries (B, T)
        and keys (B, S)."""
        # in floats, which hold all places exactly: comparisons of integers write bools, and copying these costs most
        reaches = self.reaches
        about, placed = query[:, :, None] > 0, key[:, None, :] > 0
        difference = key.float()[:, None, :] - query.float()[:, :, None]  # (B, T, S)
        # a key of no place has no distance; with own keys a query about no place is at none from any key
        known = about & placed if self.own_keys else placed | ~about
        difference.masked_fill_(~known, torch.nan)
        if reaches == 0:
            planes[:, 0] = known
        else:
            # the table's ends stand for all beyond them, too
            torch.le(difference, -reaches, out=planes[:, 0])
            for near in range(1 - reaches, reaches):
                torch.eq(difference, near, out=planes[:, near + reaches])
            torch.ge(difference, reaches, out=planes[:, 2 * reaches])
        for plane, (low, high) in zip(
            planes.unbind(1)[self.count - len(self.bounds) :], self.bounds, strict=True
        ):
            plane.copy_((difference < low) | (difference > high))
        beyond = difference.abs_().sub_(reaches).nan_to_num_(nan=0.0)
        planes[:, 2 * reaches + 1] = beyond.clamp_(min=0, max=1 if self.names else None)
        about, placed = about.float(), placed.float()
        torch.mul(about, 1 - placed, out=planes[:, 2 * reaches + 2])
        if self.own_keys:
            torch.mul(1 - about, placed, out=planes[:, 2 * reaches + 3])

    def weights(self) -> Tensor:
        """What the planes are multiplied by: (layers, count, H)."""
        parts = [self.near, -self.decay[:, None], self.placeless[:, None]]
        if self.own_keys:
            parts.append(self.placed[:, None])
        if self.bounds:
            parts.append(self.hidden[..., None].expand(-1, -1, self.decay.shape[1]))
        return torch.cat(parts, dim=1)

    def gain(self) -> float:
        """By how many nats a key may be above the query's own token on this axis."""
        if not self.decay.min() >= 0:
            return math.inf
        most = torch.maximum(self.near.amax(1), self.placeless) - self._always()
        if self.own_keys:  # a query about nothing sees others that are about nothing
            most = torch.maximum(most, self.placed)
        return most.max().item() * UNIT

    def _always(self) -> Tensor:
        """The bias (layers, H) of a key that every query sees: its own token's; or at least that of the `<think>`
        before a working, which is about nothing or, on an axis of operations, about the query's own."""
        own = self.near[:, self.reaches]
        return torch.minimum(self.placeless, own) if self.own_keys else own

    def reach(self, spread: float) -> int | None:
        """How far away a key is `spread` nats below one that is always seen; None: nowhere."""
        if self.windows:
            return 1 + max(-low for low, _ in self.windows)
        steepest = self.decay.min().item() * UNIT
        edges = self.near[:, [0, -1]].amax(1) - self._always()  # (layers, H)
        needed = edges.max().item() * UNIT + spread
        if self.names:
            return 1 if steepest > needed else None
        if not (steepest > 0 and math.isfinite(needed)):
            return None
        return self.reaches + max(1, math.ceil(needed / steepest))


class CoupledBias(Placed):
    """A bias over the difference of places: a table where they touch (as T5's, arXiv 1910.10683), beyond it a
    decay that is linear as ALiBi's (arXiv 2108.12409) but learned, per layer and head.

    A column of a sum needs its own place and the one below, at any length, and nothing else: so the table has
    the differences -1, 0 and 1 only (`bias_near` 1), and the decay is steep from the start (3 nats a place), or some
    models learn short cuts over several places that hold up to the length seen in training. On several axes it is the
    sum of such a bias over each. A vector tells the answer from the prompt, and the kinds of rows in a working from
    each other.
    """

    Settings = BiasSettings
    hides = True

    def build(self, shape: Shape) -> None:
        chosen: BiasSettings = self.settings
        self.own = OWN if chosen.own_keys else ""
        self.key_axes = tuple(self.own + axis for axis in chosen.near)
        self.relative = nn.ModuleDict(
            {axis: Relative(shape, near, chosen) for axis, near in chosen.near.items()}
        )
        if chosen.segments:
            many = self.own or "row" in chosen.near
            self.segments = Table(SEGMENTS if many else 2, shape.hidden)
            if self.own:
                self.own_segments = Table(SEGMENTS, shape.hidden)

    @classmethod
    def axes_with(cls, settings: Any) -> tuple[str, ...]:
        told = tuple(dict.fromkeys((*settings.near, *(("segment",) if settings.segments else ()))))
        return (*told, *(OWN + axis for axis in told)) if settings.own_keys else told

    @property
    def parts(self) -> dict[str, Relative]:
        return cast("dict[str, Relative]", self.relative)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        if not self.settings.segments:
            return x
        # without rows all their kinds are one: what is no prompt
        x = x + self.segments(where.axes["segment"].clamp(max=self.segments.num_embeddings - 1))
        return x + self.own_segments(where.axes[OWN + "segment"]) if self.own else x

    def pairs(self, query: Where, key: Where) -> Tensor:
        parts = self.parts
        # rows that stand alike are one; those of a cache may
        batch = max(len(told) for axis in parts for told in (query.axes[axis], key.axes[self.own + axis]))
        hidden = query.behind(key) < 0
        if key.index.dim() == 2:
            hidden = (hidden | (key.index < 0)[:, None])[:, None]
            batch = len(hidden)
        length, seen = query.length, key.length
        counts = [*(part.count for part in parts.values()), 1]
        planes = next(self.parameters()).new_empty(batch, sum(counts), length, seen)
        own = planes.split(counts, dim=1)
        for (axis, part), filled in zip(parts.items(), own, strict=False):
            part.fill(filled, query.axes[axis], key.axes[self.own + axis])
        own[-1][:] = hidden  # what comes later: one plane more costs least
        weights = torch.cat([part.weights() for part in parts.values()], dim=1) * UNIT  # (layers, planes, H)
        layers, _, heads = weights.shape
        weights = torch.cat([weights, weights.new_full((layers, 1, heads), HIDDEN)], dim=1)
        # a product with the planes is cheaper than to look each bias up in a table, above all backwards; in full
        # precision, as bf16 would round what is learned here to a few steps
        with torch.autocast(planes.device.type, enabled=False):
            rows = weights.mT.reshape(1, layers * heads, -1).expand(batch, -1, -1)
            return torch.bmm(rows, planes.flatten(2)).view(batch, layers, heads, length, seen)

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        return pairs[:, layer]

    def reach(self, spread: float) -> dict[str, int]:
        parts = self.parts
        if self.own and "segment" in parts:
            return {}  # no token is sure to be of no segment, or of the query's
        # what a key loses by its distance on one axis it may make up for on the others
        gains = {axis: part.gain() if len(parts) > 1 else 0.0 for axis, part in parts.items()}
        found = {}
        for axis, part in parts.items():
            others = sum(gain for other, gain in gains.items() if other != axis)
            reach = part.reach(spread + others)
            if reach is not None:
                found[axis] = reach
        return found
