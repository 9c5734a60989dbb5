"""Queries and keys turned by where they stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Where, angles, check_even


class Rope(Scheme):
    """Rotary embedding of queries and keys (RoFormer, arXiv 2104.09864): neighbours are pairs, as in the paper.

    A pair is a complex number and its rotation a product: one pass over memory where sines and cosines take five.
    """

    table: Tensor

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__(shape, settings)
        self.register_buffer("table", rotations(shape), persistent=False)

    @classmethod
    def check(cls, name: str, hidden: int, heads: int) -> None:
        check_even(name, "hidden width per head", hidden // heads)

    def turns(self, where: Where) -> Tensor | None:
        return self.table[where.index]


def rotations(shape: Shape) -> Tensor:
    """Unit complex numbers (max_length, 1, D / 2) for every position and pair of a head's channels."""
    angle = angles(shape.max_length, shape.hidden // shape.heads)[:, None]
    return torch.polar(torch.ones_like(angle), angle)
