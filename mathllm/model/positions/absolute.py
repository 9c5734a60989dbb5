"""A vector for every position, added to embeddings: trained, or of sines and cosines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Table, Where, angles, check_even


class Learned(Scheme):
    """A trained vector per position, as in GPT-2."""

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__(shape, settings)
        self.table = Table(shape.max_length, shape.hidden)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        embedded: Tensor = x + self.table(where.index)
        return embedded


class Sinusoidal(Scheme):
    """Fixed sines and cosines of many wavelengths (Attention Is All You Need, arXiv 1706.03762)."""

    table: Tensor

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__(shape, settings)
        angle = angles(shape.max_length, shape.hidden)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], dim=-1), persistent=False)

    @classmethod
    def check(cls, name: str, hidden: int, heads: int) -> None:
        check_even(name, "hidden width", hidden)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table[where.index].to(x.dtype)
