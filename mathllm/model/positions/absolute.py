"""A vector for every position, added to embeddings: trained, or of sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Table, Where, angles, check_even


class Learned(Scheme):
    """A trained vector per position, as in GPT-2."""

    def build(self, shape: Shape) -> None:
        self.table = Table(shape.max_length, shape.hidden)

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

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table[where.index].to(x.dtype)
