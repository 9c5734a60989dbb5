"""Key/value caches: what attention has seen so far, in memory laid out once, or growing so that gradients pass."""

from __future__ import annotations

import torch
from torch import Tensor

from mathllm.model.positions import Where


class KeyValueCache:
    """Keys and values (B, H, max_length, D) per layer, of which the first `length` tokens are filled.

    Tokens further than `reach` places from a query get no attention at all (see Scheme.reach): where these are
    many they are left out, so that a token of a long text costs no more than one of a short text.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        max_length: int,
        head_width: int,
        device: torch.device,
        dtype: torch.dtype,
        reach: int | None = None,
    ) -> None:
        shape = (batch, heads, max_length, head_width)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.places = torch.zeros((batch, max_length), device=device, dtype=torch.int64)
        self.length, self.reach = 0, reach
        self.columns: Tensor | None = None  # the tokens that count for the next queries; None: all

    def append(self, where: Where) -> Where:
        """Notes where tokens stand that are about to come; returns where those stand that they may look at."""
        end = self.length + len(where.index)
        index = torch.arange(end, device=where.index.device)
        if where.place is None:
            return Where(index)
        self.places[:, self.length : end] = where.place
        self.columns = self._near(where.place, self.places[:, :end])
        if self.columns is None:
            return Where(index, self.places[:, :end])
        return Where(self.columns, self.places[:, self.columns])

    def _near(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Columns of the keys' places (B, S) within reach of the queries' (B, T) in any row, if it is but half."""
        if self.reach is None or key.shape[1] < 4 * self.reach:
            return None
        lowest, highest = query.amin(1, keepdim=True) - self.reach, query.amax(1, keepdim=True) + self.reach
        columns = (((key >= lowest) & (key <= highest)) | (key == 0)).any(0).nonzero()[:, 0]
        return columns if 2 * len(columns) <= key.shape[1] else None

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, H, T, D) behind the filled part and returns those that count, up to their end.

        The caller moves `length` on when every layer is through.
        """
        keys, values, new = self.keys[layer], self.values[layer], key.shape[2]
        end = self.length + new
        assert end <= keys.shape[2], "the cache is full"
        # narrow is the cheapest way to take a part, and a token of a small model is a matter of microseconds
        keys.narrow(2, self.length, new).copy_(key)
        values.narrow(2, self.length, new).copy_(value)
        if self.columns is not None:
            return keys.index_select(2, self.columns), values.index_select(2, self.columns)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

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


class GrowingCache:
    """Keys and values in tensors that are made anew with every token, so that a gradient goes through them.

    For training on what the model has emitted itself. It has room for anything, and leaves nothing out.
    """

    reach: int | None = None

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.places: Tensor | None = None
        self.length = 0

    def append(self, where: Where) -> Where:
        """Notes where tokens stand that are about to come; returns where those stand that they may look at."""
        index = torch.arange(self.length + len(where.index), device=where.index.device)
        if where.place is None:
            return Where(index)
        self.places = where.place if self.places is None else torch.cat([self.places, where.place], 1)
        return Where(index, self.places)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts keys and values (B, H, T, D) behind those of a layer and returns all of them."""
        if layer in self.keys:
            key = torch.cat([self.keys[layer], key], dim=2)
            value = torch.cat([self.values[layer], value], dim=2)
        self.keys[layer], self.values[layer] = key, value
        return key, value

    def repeat(self, times: int) -> None:
        """Every row so many times, one after the other."""
        self.keys = {layer: key.repeat_interleave(times, 0) for layer, key in self.keys.items()}
        self.values = {layer: value.repeat_interleave(times, 0) for layer, value in self.values.items()}
        if self.places is not None:
            self.places = self.places.repeat_interleave(times, 0)


Cache = KeyValueCache | GrowingCache
