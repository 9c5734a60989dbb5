"""Key/value caches: what attention has seen so far, in memory laid out once, or growing so that gradients pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mathllm.model.positions import Where
from mathllm.registry import OWN


class KeyValueCache:
    """Keys and values (B, H, max_length, D) per layer, of which the first `length` tokens are filled, and their
    coordinates on the given axes.

    Tokens further than `reach` from a query on an axis get no attention at all (see Scheme.reach): where these are
    many they are left out, so that a token of a long text costs no more than one of a short text.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int, int],
        like: Tensor,
        *,
        axes: Sequence[str] = (),
        reach: Mapping[str, int] | None = None,
    ) -> None:
        """`shape` is layers, rows, heads, tokens and width of a head; dtype and device are those of `like`."""
        layers, _, _, max_length, _ = shape
        self.keys = [like.new_empty(shape[1:]) for _ in range(layers)]
        self.values = [like.new_empty(shape[1:]) for _ in range(layers)]
        # one row for all of them, until they stand apart
        self.coordinates = {axis: like.new_zeros((1, max_length), dtype=torch.int64) for axis in axes}
        self.length, self.reach = 0, reach or {}
        self.start: Tensor | None = (
            None  # the first column (B) that is a token of each row; None: of all the first
        )
        self.columns: Tensor | None = None  # the tokens that count for the next queries; None: all

    def append(self, where: Where, axes: Sequence[str]) -> Where:
        """Notes where tokens stand, on the axes that keys need, that are about to come; returns where those stand that
        they may look at."""
        end = self.length + where.length
        for axis in axes:
            told, known = where.axes[axis], self.coordinates[axis]
            if len(told) > len(known):
                self.coordinates[axis] = known.expand(len(told), -1).clone()
            self.coordinates[axis][:, self.length : end] = told
        self.columns = self._near(where, end)
        seen = {
            axis: known[:, :end] if self.columns is None else known[:, self.columns]
            for axis, known in self.coordinates.items()
        }
        index = torch.arange(end, device=where.index.device) if self.columns is None else self.columns
        return Where(index if self.start is None else index - self.start[:, None], seen)

    def _near(self, where: Where, end: int) -> Tensor | None:
        """Which of the first `end` columns are within reach of the queries on every axis, in any row, if it is but
        half."""
        if not self.reach or end < 4 * min(self.reach.values()):
            return None
        near = torch.ones((), dtype=torch.bool, device=where.index.device)
        for axis, reach in self.reach.items():
            own = axis not in self.coordinates
            query, key = where.axes[axis], self.coordinates[OWN * own + axis][:, :end]
            lowest, highest = query.amin(1, keepdim=True) - reach, query.amax(1, keepdim=True) + reach
            within = ((key >= lowest) & (key <= highest)) | (key == 0)
            if own:  # a query about nothing sees all
                within = within | (query == 0).any(1, keepdim=True)
            near = near & within
        columns = near.any(0).nonzero()[:, 0]
        return columns if 2 * len(columns) <= end else None

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
        first = 0  # columns before it are no token of any row any more
        if self.start is not None:
            start = self.start[rows]
            first = int(start.min())
            self.start = start - first if bool((start > first).any()) else None
        self.keys = [self._kept(key, rows, first) for key in self.keys]
        self.values = [self._kept(value, rows, first) for value in self.values]
        self.coordinates = {
            axis: (known[rows] if len(known) > 1 else known)[:, first:]
            for axis, known in self.coordinates.items()
        }
        self.length -= first

    def _kept(self, filled: Tensor, rows: Tensor, first: int) -> Tensor:
        # what is not filled yet need not be copied: of a long cache that is most
        kept = filled.new_empty((len(rows), filled.shape[1], filled.shape[2] - first, filled.shape[3]))
        kept[:, :, : self.length - first] = filled[rows, :, first : self.length]
        return kept

    def join(self, other: KeyValueCache, room: int) -> None:
        """Takes in the rows of another cache behind its own, the last tokens of all in one column, with room for so
        many more."""
        length, parts = max(self.length, other.length), (self, other)
        starts = [length - part.length + part._starts() for part in parts]
        start = torch.cat(starts)
        self.keys, self.values = (
            [
                _joined(
                    [(part.length, of[layer]) for part, of in zip(parts, pair, strict=True)], length, room
                )
                for layer in range(len(self.keys))
            ]
            for pair in ((self.keys, other.keys), (self.values, other.values))
        )
        self.coordinates = {
            axis: _joined(
                [
                    (part.length, part.coordinates[axis].expand(len(one), -1)[:, None, :, None])
                    for part, one in zip(parts, starts, strict=True)
                ],
                *(length, room),
            )[:, 0, :, 0]
            for axis in self.coordinates
        }
        self.start, self.length = start if bool(start.any()) else None, length

    def _starts(self) -> Tensor:
        rows = self.keys[0].shape[0]
        return self.keys[0].new_zeros(rows, dtype=torch.int64) if self.start is None else self.start


def _joined(parts: Sequence[tuple[int, Tensor]], length: int, room: int) -> Tensor:
    """Tensors (B, H, T, D), of each of which so many tokens are filled, as one whose filled ones end at `length`."""
    first = parts[0][1]
    rows = sum(len(part) for _, part in parts)
    whole = first.new_zeros((rows, first.shape[1], length + room, first.shape[3]))
    at = 0
    for filled, part in parts:
        whole[at : at + len(part), :, length - filled : length] = part[:, :, :filled]
        at += len(part)
    return whole


class GrowingCache:
    """Keys and values in tensors that are made anew with every token, so that a gradient goes through them.

    For training on what the model has emitted itself. It has room for anything, and leaves nothing out.
    """

    start: Tensor | None = None  # all rows have begun with the first column

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.coordinates: dict[str, Tensor] = {}
        self.length = 0

    def append(self, where: Where, axes: Sequence[str]) -> Where:
        """Notes where tokens stand, on the axes that keys need, that are about to come; returns where those stand that
        they may look at."""
        index = torch.arange(self.length + where.length, device=where.index.device)
        past = self.coordinates
        self.coordinates = {
            axis: torch.cat([past[axis], where.axes[axis]], 1) if past else where.axes[axis] for axis in axes
        }
        return Where(index, self.coordinates)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts keys and values (B, H, T, D) behind those of a layer and returns all of them."""
        if layer in self.keys:
            key = torch.cat([self.keys[layer], key], dim=2)
            value = torch.cat([self.values[layer], value], dim=2)
        self.keys[layer], self.values[layer] = key, value
        return key, value

    def repeat(self, times: int) -> None:
        """Every row `times` times, one after the other."""
        self.keys = {layer: key.repeat_interleave(times, 0) for layer, key in self.keys.items()}
        self.values = {layer: value.repeat_interleave(times, 0) for layer, value in self.values.items()}
        self.coordinates = {
            axis: known.repeat_interleave(times, 0) for axis, known in self.coordinates.items()
        }


Cache = KeyValueCache | GrowingCache
