"""What every position scheme is: three moments, what it must be told, and what can be set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.errors import UsageError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Where:
    """Where tokens stand: `index` (T) counts from the start of the text, or (B, T) where texts of a batch began at
    different times (below 0: there is no token yet); and `axes` are further coordinates (B, T) by name, for schemes
    that use them: `place` is the digit place that each token is about (units 1; 0: none), `run` the position of a digit
    in its own number, `segment` 1 from `=` on. `own_place` and so on are those of the tokens themselves."""

    index: Tensor
    axes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """How many tokens there are in a row."""
        return self.index.shape[-1]

    def behind(self, key: Where) -> Tensor:
        """By how many tokens these come behind others ([B,] T, S); below 0: before them."""
        return self.index[..., :, None] - key.index[..., None, :]


@dataclass(frozen=True)
class Shape:
    """What a scheme has to know of the model that it is for."""

    hidden: int
    heads: int
    layers: int
    max_length: int


@dataclass(frozen=True)
class SchemeSettings:
    """What can be set under [model] for one scheme: nothing, unless a class with fields says otherwise."""

    def room(self, max_digits: int) -> tuple[int, str]:
        """The highest coordinate that training may meet with numbers of that size, and the setting that leads there;
        0 where texts of `max_length` tokens have room for all."""
        return 0, ""


class Scheme(nn.Module):
    """No position at all, if nothing is overridden: the causal mask alone tells order (arXiv 2305.19466).

    `axes` are the coordinates that it has to be told, and `key_axes` those of them that its bias looks at of keys.
    """

    hides = False  # does its bias hide from a query what comes later?
    axes: tuple[str, ...] = ()
    key_axes: tuple[str, ...] = ()
    Settings: type[SchemeSettings] = SchemeSettings

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__()
        self.settings: Any = settings or self.Settings()
        self.axes = self.axes_with(self.settings)
        self.build(shape)

    def build(self, shape: Shape) -> None:
        """Makes what the scheme has to hold for a model of that shape: its weights and tables."""

    @classmethod
    def axes_with(cls, settings: Any) -> tuple[str, ...]:
        """The axes of a scheme with these settings."""
        return cls.axes

    @classmethod
    def check(cls, name: str, hidden: int, heads: int) -> None:
        """Raises UsageError for a width that the scheme, which goes by that name, cannot have."""

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        """Numbers that it holds for each token of `max_length`."""
        return 0

    def embed(self, x: Tensor, where: Where) -> Tensor:
        """x (B, T, C) with what tells the position added to it."""
        return x

    def turns(self, where: Where) -> Tensor | None:
        """Unit complex numbers ([B,] T, 1, D / 2) by which pairs of a query's or key's channels are turned."""
        return None

    def pairs(self, query: Where, key: Where) -> Any:
        """What `bias` has to know of every query and key: the same for all layers."""
        return None

    def bias(self, layer: int, pairs: Any) -> Tensor | None:
        """What a layer adds to its scores: (B or 1, H, T, S), in nats."""
        return None

    def reach(self, spread: float) -> dict[str, int]:
        """How far away on an axis every bias is `spread` nats below that of the query's own token, wherever the key
        is on the others. Keys with coordinate 0 are near to all; an axis that is not named has no such distance."""
        return {}

    def draw(self, told: Mapping[str, Ints], shape: tuple[int, int], seed: Sequence[int]) -> dict[str, Ints]:
        """The coordinates [N, T] that a step of training, whose random numbers the seed gives, has instead of those
        that were `told`, or beside them."""
        return {}


class Together(Scheme):
    """Several schemes at once (as in arXiv 2405.17399): what each adds or turns."""

    def __init__(self, schemes: Sequence[Scheme]) -> None:
        nn.Module.__init__(self)
        self.schemes = nn.ModuleList(schemes)
        self.axes = union(scheme.axes for scheme in schemes)
        self.key_axes = union(scheme.key_axes for scheme in schemes)
        self.hides = any(scheme.hides for scheme in schemes)

    @property
    def parts(self) -> list[Scheme]:
        return cast("list[Scheme]", list(self.schemes))

    def embed(self, x: Tensor, where: Where) -> Tensor:
        for scheme in self.parts:
            x = scheme.embed(x, where)
        return x

    def turns(self, where: Where) -> Tensor | None:
        given = [turns for scheme in self.parts if (turns := scheme.turns(where)) is not None]
        return math.prod(given[1:], start=given[0]) if given else None

    def pairs(self, query: Where, key: Where) -> list[Any]:
        return [scheme.pairs(query, key) for scheme in self.parts]

    def bias(self, layer: int, pairs: list[Any]) -> Tensor | None:
        biases = (scheme.bias(layer, pair) for scheme, pair in zip(self.parts, pairs, strict=True))
        given = [bias for bias in biases if bias is not None]
        return sum(given[1:], given[0]) if given else None

    def draw(self, told: Mapping[str, Ints], shape: tuple[int, int], seed: Sequence[int]) -> dict[str, Ints]:
        # each from what was told: two schemes that move one axis move it alike, and only once
        return {
            name: drawn for scheme in self.parts for name, drawn in scheme.draw(told, shape, seed).items()
        }


def union(axes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Every name once, in the order in which they come."""
    return tuple(dict.fromkeys(name for names in axes for name in names))


class Table(nn.Embedding):
    """A trained vector for each position, small at first."""

    __call__: Callable[[Any, Tensor], Tensor]  # of the instance itself and positions

    def __init__(self, positions: int, hidden: int) -> None:
        super().__init__(positions, hidden)
        nn.init.normal_(self.weight, std=0.02)


def angles(length: int, width: int) -> Tensor:
    """Position times frequency (length, width / 2), with wavelengths from 2 pi to 10,000 times that."""
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequency


def check_even(name: str, part: str, width: int) -> None:
    """Raises UsageError for an odd width."""
    if width % 2:
        raise UsageError(f"position {name!r} needs an even {part}, not {width}")
