"""The key/value cache: what attention has seen so far, in memory laid out once."""

from __future__ import annotations

import torch
from torch import Tensor


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
        self.length = 0

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
        self.keys = [key[rows] for key in self.keys]
        self.values = [value[rows] for value in self.values]
