"""A bias from how far apart two tokens are: by fixed slopes, or by a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mathllm.model.positions.base import Scheme, Shape, Where


class Alibi(Scheme):
    """A penalty that grows with the distance, with a fixed slope per head (ALiBi, arXiv 2108.12409)."""

    slopes: Tensor

    def build(self, shape: Shape) -> None:
        slopes = 2 ** (-8 * torch.arange(1, shape.heads + 1, dtype=torch.float32) / shape.heads)
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

    def build(self, shape: Shape) -> None:
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(1, self.INNER), nn.ReLU(), nn.Linear(self.INNER, shape.heads))
            for _ in range(shape.layers)
        )
        self.frequency = nn.Parameter(torch.full((shape.layers,), self.FREQUENCY))
        self.threshold = nn.Parameter(torch.ones(shape.layers))  # in units of THRESHOLD

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
