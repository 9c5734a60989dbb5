"""The key/value cache: what attention has seen so far, in memory laid out once."""

from __future__ import annotations

import torch
from torch import Tensor

from mathllm.model.positions import Where


class KeyValueCache:
    """Keys and values (B, H, max_length, D) per layer, of which the first `length` tokens are filled."""

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        max_length: int,
        head_width: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch, heads, max_length, head_width)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.places = torch.zeros((batch, max_length), device=device, dtype=torch.int64)
        self.length = 0

    def append(self, where: Where) -> Where:
        """Notes where tokens stand that are about to come; returns where all up to their end do."""
        end = self.length + len(where.index)
        if where.place is None:
            return Where(torch.arange(end, device=where.index.device))
        self.places[:, self.length : end] = where.place
        return Where(torch.arange(end, device=where.index.device), self.places[:, :end])

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, H, T, D) behind the filled part and returns all up to their end.

        The caller moves `length` on when every layer is through.
        """
        end = self.length + key.shape[2]
        assert end <= self.keys[layer].shape[2], "the cache is full"
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keeps only these rows of the batch, in this order."""
        self.keys = [self._kept(key, rows) for key in self.keys]
        self.values = [self._kept(value, rows) for value in self.values]
        self.places = self.places[rows]

    def _kept(self, filled: Tensor, rows: Tensor) -> Tensor:
        # what is not filled yet need not be copied: of a long cache that is most
        kept = filled.new_empty((len(rows), *filled.shape[1:]))
        kept[:, :, : self.length] = filled[rows, :, : self.length]
        return kept
