"""Schemes over digit places, which start at a random number in training so that high ones are trained, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mathllm.limits import MAX_LENGTH, check_range
from mathllm.model.positions.base import Ints, Scheme, SchemeSettings, Shape, Table, Where
from mathllm.model.positions.order import Rope
from mathllm.registry import OWN

MOVED = ("place", "run")  # the axes that count digits


@dataclass(frozen=True)
class StartSettings(SchemeSettings):
    """`random_start` is the highest number that places begin with in training."""

    random_start: int = 0

    def __post_init__(self) -> None:
        check_range("model.random_start", self.random_start, 0, MAX_LENGTH)

    def room(self, max_digits: int) -> tuple[int, str]:
        if not self.random_start:
            return 0, ""
        return self.random_start + max_digits + 4, f"random_start {self.random_start}"


class Placed(Scheme):
    """A scheme over places: those of each row are moved up together, by a random number from 0 to `random_start`.

    Tokens that are about no place stay so (Position Coupling, arXiv 2405.20671).
    """

    Settings = StartSettings

    def draw(self, told: Mapping[str, Ints], shape: tuple[int, int], seed: Sequence[int]) -> dict[str, Ints]:
        highest = self.settings.random_start
        if not highest:
            return {}
        start = np.random.default_rng(seed).integers(0, highest + 1, (shape[0], 1))
        moved = (axis for axis in self.axes if axis.removeprefix(OWN) in MOVED)
        return {axis: told[axis] + start * (told[axis] > 0) for axis in moved}


class Coupled(Placed):
    """A trained vector per place, the same for all digits that line up (Position Coupling, arXiv 2405.20671).

    Tokens that are about no place share one vector.
    """

    axes = ("place",)

    def build(self, shape: Shape) -> None:
        self.table = Table(shape.max_length, shape.hidden)

    @classmethod
    def table_width(cls, hidden: int, heads: int) -> int:
        return hidden

    def embed(self, x: Tensor, where: Where) -> Tensor:
        return x + self.table(where.axes[self.axes[0]])


class Abacus(Coupled):
    """A trained vector per position of a digit in its own number (Abacus embeddings, arXiv 2405.17399).

    Numbers have to be written least significant digit first for it to be the digit's place. The paper adds it to
    another scheme; here nothing else tells the order.
    """

    axes = ("run",)


class CoupledRope(Placed, Rope):
    """Rotary embedding over places instead of positions: digits that line up are turned alike."""

    axes = ("place",)

    def turns(self, where: Where) -> Tensor | None:
        return self.table[where.axes["place"]]
