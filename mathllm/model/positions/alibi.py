"""A penalty for distance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Where


class Alibi(Scheme):
    """A penalty that grows with the distance, with a fixed slope per head (ALiBi, arXiv 2108.12409)."""

    slopes: Tensor

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__(shape, settings)
        slopes = 2 ** (-8 * torch.arange(1, shape.heads + 1, dtype=torch.float32) / shape.heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def pairs(self, query: Where, key: Where) -> Tensor:
        return (query.index[:, None] - key.index).abs()  # (T, S)

    def bias(self, layer: int, pairs: Tensor) -> Tensor:
        return (-self.slopes[:, None, None] * pairs)[None]
