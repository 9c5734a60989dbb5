"""Queries and keys turned by where they stand."""

from __future__ import annotations

import torch
from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Where, angles, check_even


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

    def turns(self, where: Where) -> Tensor | None:
        return self.table[where.index]
