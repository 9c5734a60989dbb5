"""Schemes that go by the order of tokens alone: vectors, rotations, and biases over a distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mathllm.model.positions.base import Ints, Scheme, Shape, Table, Where, angles, check_even

SPREAD = 4  # times as many numbers as a text has tokens
DRAWN = "randomized"  # the axis of the numbers that training draws; nobody is asked for it


class Learned(Scheme):
    """A trained vector per position, as in GPT-2."""

    def build(self, shape: Shape) -> None:
        self.table = Table(shape.max_length, shape.hidden)

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        return hidden

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table(where.index)


class Sinusoidal(Scheme):
    """Fixed sines and cosines of many wavelengths (Attention Is All You Need, arXiv 1706.03762)."""

    table: Tensor

    def build(self, shape: Shape) -> None:
        angle = angles(shape.max_length, shape.hidden)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], dim=-1), persistent=False)

    @classmethod
    def check(cls, name: str, hidden: int, heads: int) -> None:
        check_even(name, "hidden width", hidden)

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        return hidden

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table[where.index].to(x.dtype)


class Rope(Scheme):
    """Rotary embedding of queries and keys (RoFormer, arXiv 2104.09864): neighbours are pairs, as in the paper.

    A pair is a complex number and its rotation a product: one pass over memory where sines and cosines take five.
    """

    table: Tensor

    def build(self, shape: Shape) -> None:
        # unit complex numbers (max_length, 1, D / 2) for every position and pair of a head's channels
        angle = angles(shape.max_length, shape.hidden // shape.heads)[:, None]
        self.register_buffer("table", torch.polar(torch.ones_like(angle), angle), persistent=False)

    @classmethod
    def check(cls, name: str, hidden: int, heads: int) -> None:
        check_even(name, "hidden width per head", hidden // heads)

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        return hidden // heads

    def turns(self, where: Where) -> Tensor | None:
        return self.table[where.index]


class Alibi(Scheme):
    """A penalty that grows with the distance, with a fixed slope per head (ALiBi, arXiv 2108.12409)."""

    slopes: Tensor

    def build(self, shape: Shape) -> None:
        slopes = 2 ** (-8 * torch.arange(1, shape.heads + 1, dtype=torch.float32) / shape.heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def pairs(self, query: Where, key: Where) -> Tensor:
        return query.behind(key).abs()  # ([B,] T, S)

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        return -self.slopes[:, None, None] * pairs.view(-1, 1, *pairs.shape[-2:])


class Fire(Scheme):
    """A bias from the distance, relative to the query's position, by a small network (FIRE, arXiv 2310.04418).

    b(i, j) = f(log(c (i - j) + 1) / log(c max(i, L) + 1)), with f of one hidden layer of 32, and c and L learned,
    for each layer.
    """

    INNER, FREQUENCY, THRESHOLD = 32, 0.1, 512.0

    def build(self, shape: Shape) -> None:
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(1, self.INNER), nn.ReLU(), nn.Linear(self.INNER, shape.heads))
            for _ in range(shape.layers)
        )
        self.frequency = nn.Parameter(torch.full((shape.layers,), self.FREQUENCY))
        self.threshold = nn.Parameter(torch.ones(shape.layers))  # in units of THRESHOLD

    def pairs(self, query: Where, key: Where) -> tuple[Tensor, Tensor]:
        distance = query.behind(key).clamp(min=0)  # ([B,] T, S): 0 where nothing is seen
        return query.index.float(), distance.float()

    def bias(self, layer: int, pairs: tuple[Tensor, Tensor]) -> Tensor:
        index, distance = pairs
        frequency, threshold = self.frequency[layer].abs(), (self.threshold[layer] * self.THRESHOLD).abs()
        most = torch.log(frequency * torch.maximum(index, threshold) + 1)
        relative = torch.log(frequency * distance + 1) / (most[..., None] + 1e-6)
        # in full precision: bf16 cannot tell distant neighbours apart
        with torch.autocast(relative.device.type, enabled=False):
            by_head: Tensor = self.networks[layer](relative[..., None].float())  # ([B,] T, S, H)
        return by_head.view(-1, *by_head.shape[-3:]).movedim(-1, 1)


class Randomized(Scheme):
    """A trained vector per position, where positions are drawn (Randomized Positional Encodings, arXiv 2305.16843).

    While training, the tokens of a text have ordered random numbers below SPREAD max_length, so that high ones are
    trained, too. Otherwise token i has number SPREAD i. The paper draws numbers there as well, and always from the
    whole range; ours must not change when a token is appended, so training shows rows as dense as that, too.
    """

    def build(self, shape: Shape) -> None:
        self.table = Table(SPREAD * shape.max_length, shape.hidden)

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        return SPREAD * hidden

    def embed(self, x: Tensor, where: Where) -> Tensor:
        numbers = where.axes[DRAWN] if DRAWN in where.axes else SPREAD * where.index
        return x + self.table(numbers)

    def draw(self, told: Mapping[str, Ints], shape: tuple[int, int], seed: Sequence[int]) -> dict[str, Ints]:
        """Ordered random numbers, in some rows as close as SPREAD to a token and in others spread out over all."""
        (rows, length), rng = shape, np.random.default_rng(seed)
        most = rng.integers(SPREAD * length, self.table.num_embeddings + 1, (rows, 1))
        # sorted, and spread out by their rank so that none comes twice
        drawn = np.sort(rng.integers(0, most - length + 1, (rows, length)), axis=1)
        return {DRAWN: drawn + np.arange(length)}
