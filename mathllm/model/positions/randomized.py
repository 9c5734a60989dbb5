"""A trained vector per position, where positions are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from mathllm.model.positions.base import Ints, Scheme, Shape, Table, Where

SPREAD = 4  # times as many numbers as a text has tokens
DRAWN = "randomized"  # the axis of the numbers that training draws; nobody is asked for it


class Randomized(Scheme):
    """A trained vector per position, where positions are drawn (Randomized Positional Encodings, arXiv 2305.16843).

    While training, the tokens of a text have ordered random numbers below SPREAD max_length, so that high ones are
    trained, too. Otherwise token i has number SPREAD i. The paper draws numbers there as well, and always from the
    whole range; ours must not change when a token is appended, so training shows rows as dense as that, too.
    """

    def build(self, shape: Shape) -> None:
        self.table = Table(SPREAD * shape.max_length, shape.hidden)

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
