"""A trained vector per position."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mathllm.model.positions.base import Scheme, Shape, Table, Where


class Learned(Scheme):
    """A trained vector per position, as in GPT-2."""

    def __init__(self, shape: Shape, settings: Any = None) -> None:
        super().__init__(shape, settings)
        self.table = Table(shape.max_length, shape.hidden)

    def embed(self, x: Tensor, where: Where) -> Tensor:
        embedded: Tensor = x + self.table(where.index)
        return embedded
