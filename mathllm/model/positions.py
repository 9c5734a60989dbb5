"""How a token knows where it is: one small class per scheme, behind one registry.

Every scheme has the same three moments: `embed` may add to the token embeddings, `turns` may turn queries and
keys, `bias` may add to the attention scores (`turns`, and the `pairs` of a bias, are worked out once for all layers).
All see where tokens stand, never how long a text is, so cached decoding and training agree. Some have to be told
more than the order of tokens: what a scheme `uses`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mathllm.config import position_names
from mathllm.formats.places import SPREAD, Coordinates


@dataclass(frozen=True)
class Where:
    """Where tokens stand: `index` (T) counts from the start of the text. For schemes that use more, `place` (B, T)
    is the digit place that each token is about (units 1; 0: none), the position of a digit in its own number, or a
    number drawn for the token, and `segment` (B, T) is 1 from `=` on."""

    index: Tensor
    place: Tensor | None = None
    segment: Tensor | None = None


class Scheme(nn.Module):
    """No position at all, if nothing is overridden: the causal mask alone tells order (arXiv 2305.19466)."""

    uses: Coordinates | None = None

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__()

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

    def reach(self, spread: float) -> int | None:
        """How many places away every bias is `spread` nats below that of the query's own place; None: nowhere."""
        return None


class Learned(Scheme):
    """A trained vector per position, as in GPT-2."""

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        self.table = nn.Embedding(max_length, hidden)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        embedded: Tensor = x + self.table(where.index)
        return embedded


class Sinusoidal(Scheme):
    """Fixed sines and cosines of many wavelengths (Attention Is All You Need, arXiv 1706.03762)."""

    table: Tensor

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        angles = _angles(max_length, hidden)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=-1), persistent=False)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table[where.index].to(x.dtype)


class Rope(Scheme):
    """Rotary embedding of queries and keys (RoFormer, arXiv 2104.09864): neighbours are pairs, as in the paper.

    A pair is a complex number and its rotation a product: one pass over memory where sines and cosines take five.
    """

    table: Tensor

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        angles = _angles(max_length, hidden // heads)[:, None]
        self.register_buffer("table", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def turns(self, where: Where) -> Tensor | None:
        return self.table[where.index]


class CoupledRope(Rope):
    """Rotary embedding over places instead of positions: digits that line up are turned alike."""

    uses: Coordinates | None = "places"

    def turns(self, where: Where) -> Tensor | None:
        assert where.place is not None
        return self.table[where.place]


class Coupled(Scheme):
    """A trained vector per place, the same for all digits that line up (Position Coupling, arXiv 2405.20671).

    Places start at a random number while training (`model.random_start`), so that high ones are trained too;
    the batch has it added already. Tokens that are about no place share one vector.
    """

    uses: Coordinates | None = "places"

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        self.table = nn.Embedding(max_length, hidden)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        assert where.place is not None
        embedded: Tensor = x + self.table(where.place)
        return embedded


class Abacus(Coupled):
    """A trained vector per position of a digit in its own number (Abacus embeddings, arXiv 2405.17399).

    Numbers have to be written least significant digit first for it to be the digit's place. The start is random
    while training, as for `coupled`. The paper adds it to another scheme; here nothing else tells the order.
    """

    uses: Coordinates | None = "runs"


class Randomized(Scheme):
    """A trained vector per position, where positions are drawn (Randomized Positional Encodings, arXiv 2305.16843).

    While training, the tokens of a text have ordered random numbers below SPREAD max_length (the batch has them: see
    data.sources.drawn_coordinates), so that high ones are trained, too. Otherwise token i has number SPREAD i.
    The paper draws numbers there as well, and always from the whole range; ours must not change when a token is
    appended, so training shows rows as dense as that, too.
    """

    uses: Coordinates | None = "order"

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        self.table = nn.Embedding(SPREAD * max_length, hidden)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        assert where.place is not None
        embedded: Tensor = x + self.table(where.place if self.training else SPREAD * where.place)
        return embedded


class Alibi(Scheme):
    """A penalty that grows with the distance, with a fixed slope per head (ALiBi, arXiv 2108.12409)."""

    slopes: Tensor

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        slopes = 2 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float32) / heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def pairs(self, query: Where, key: Where) -> Tensor:
        return (query.index[:, None] - key.index).abs()  # (T, S)

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        return (-self.slopes[:, None, None] * pairs)[None]


class Fire(Scheme):
    """A bias from the distance, relative to the query's position, by a small network (FIRE, arXiv 2310.04418).

    b(i, j) = f(log(c (i - j) + 1) / log(c max(i, L) + 1)), with f of one hidden layer of 32, and c and L learned,
    for each layer.
    """

    INNER, FREQUENCY, THRESHOLD = 32, 0.1, 512.0

    def __init__(self, hidden: int, heads: int, layers: int, max_length: int) -> None:
        super().__init__(hidden, heads, layers, max_length)
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(1, self.INNER), nn.ReLU(), nn.Linear(self.INNER, heads))
            for _ in range(layers)
        )
        self.frequency = nn.Parameter(torch.full((layers,), self.FREQUENCY))
        self.threshold = nn.Parameter(torch.ones(layers))  # in units of THRESHOLD

    def pairs(self, query: Where, key: Where) -> tuple[Tensor, Tensor]:
        distance = (query.index[:, None] - key.index).clamp(min=0)  # (T, S): 0 where nothing is seen
        return query.index.float(), distance.float()

    def bias(self, layer: int, pairs: tuple[Tensor, Tensor]) -> Tensor:
        index, distance = pairs
        frequency, threshold = self.frequency[layer].abs(), (self.threshold[layer] * self.THRESHOLD).abs()
        most = torch.log(frequency * torch.maximum(index, threshold) + 1)
        relative = torch.log(frequency * distance + 1) / (most[:, None] + 1e-6)
        # in full precision: bf16 cannot tell distant neighbours apart
        with torch.autocast(relative.device.type, enabled=False):
            by_head: Tensor = self.networks[layer](relative[..., None].float())  # (T, S, H)
        return by_head.movedim(-1, 0)[None]


class CoupledBias(Scheme):
    """A bias over the difference of places: a table where they touch (as T5's, arXiv 1910.10683), beyond it a
    decay that is linear as ALiBi's (arXiv 2108.12409) but learned, per layer and head.

    A column of a sum needs its own place and the one below, at any length, and nothing else: so the table has
    the differences -1, 0 and 1 only (`near` 1), and the decay is steep from the start (3 nats a place), or some models
    learn short cuts over several places that hold up to the length seen in training. A vector tells the answer from
    the prompt.
    """

    uses: Coordinates | None = "places"
    UNIT = 10.0  # parameters are stored divided by it, so that they learn that much faster

    def __init__(
        self, hidden: int, heads: int, layers: int, max_length: int, near: int = 1, decay: float = 3.0
    ) -> None:
        super().__init__(hidden, heads, layers, max_length)
        self.reaches = near
        self.near = nn.Parameter(torch.zeros(layers, 2 * near + 1, heads))
        self.decay = nn.Parameter(torch.full((layers, heads), decay / self.UNIT))
        self.placeless = nn.Parameter(torch.zeros(layers, heads))
        self.segments = nn.Embedding(2, hidden)
        nn.init.normal_(self.segments.weight, std=0.02)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        embedded: Tensor = x + self.segments(where.segment)
        return embedded

    def pairs(self, query: Where, key: Where) -> Tensor:
        assert query.place is not None
        assert key.place is not None
        difference = key.place[:, None, :] - query.place[:, :, None]  # (B, T, S)
        within = difference.clamp(-self.reaches, self.reaches)
        placeless = (key.place[:, None, :] == 0) & (query.place[:, :, None] > 0)
        batch, length, seen = difference.shape
        planes = self.near.new_empty(batch, 2 * self.reaches + 3, length, seen)
        for column, near in enumerate(range(-self.reaches, self.reaches + 1)):
            planes[:, column] = (within == near) & ~placeless
        planes[:, -2] = (difference - within).abs().masked_fill(placeless, 0)
        planes[:, -1] = placeless
        # a bias is a product with these: cheaper than to look each up in a table, above all backwards
        return planes

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        learned = [self.near[layer], -self.decay[layer][None], self.placeless[layer][None]]
        weights = torch.cat(learned).T * self.UNIT  # (H, 2 near + 3)
        # in full precision: bf16 would round what is learned here to a few steps
        with torch.autocast(pairs.device.type, enabled=False):
            bias = torch.bmm(weights.expand(len(pairs), -1, -1), pairs.flatten(2))  # (B, H, T S)
            return bias.view(len(pairs), -1, *pairs.shape[2:])

    def reach(self, spread: float) -> int | None:
        steepest = self.decay.min().item() * self.UNIT
        edges = self.near[:, [0, -1]].amax(1) - self.near[:, self.reaches]  # (layers, H), above the own place
        highest = edges.max().item() * self.UNIT
        if not (steepest > 0 and math.isfinite(highest)):
            return None
        return self.reaches + max(1, math.ceil((highest + spread) / steepest))


class Together(Scheme):
    """Several schemes at once, `coupled+rope` or `abacus+fire` (arXiv 2405.17399): what each adds or turns."""

    def __init__(self, schemes: Sequence[Scheme]) -> None:
        nn.Module.__init__(self)
        self.schemes = nn.ModuleList(schemes)
        self.uses = next((scheme.uses for scheme in schemes if scheme.uses), None)

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


SCHEMES: dict[str, type[Scheme]] = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "nope": Scheme,
    "alibi": Alibi,
    "fire": Fire,
    "randomized": Randomized,
    "abacus": Abacus,
    "coupled": Coupled,
    "coupled-rope": CoupledRope,
    "coupled-bias": CoupledBias,
}


def make_positions(
    name: str, hidden: int, heads: int, layers: int, max_length: int, near: int = 1, decay: float = 3.0
) -> Scheme:
    """The scheme of that name, or several: `coupled+rope`; `near` and `decay` are those of `coupled-bias`.

    Raises UsageError for an unknown one.
    """
    shape = (hidden, heads, layers, max_length)
    schemes = [
        CoupledBias(*shape, near, decay) if kind is CoupledBias else kind(*shape) for kind in schemes_of(name)
    ]
    return schemes[0] if len(schemes) == 1 else Together(schemes)


def schemes_of(name: str) -> list[type[Scheme]]:
    """The classes that a name stands for. Raises UsageError for an unknown one."""
    return [SCHEMES[part] for part in position_names(name)]


def coordinates_used(name: str) -> Coordinates | None:
    """What the schemes of that name have to be told beside the order of tokens."""
    return next((scheme.uses for scheme in schemes_of(name) if scheme.uses), None)


def _angles(length: int, width: int) -> Tensor:
    """Position times frequency (length, width / 2), with wavelengths from 2 pi to 10,000 times that."""
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequency
