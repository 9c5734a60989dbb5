"""Rendered rows as the tensors of a training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mathllm.formats import Rendered
from mathllm.tasks.numbers import Ints

Told = Mapping[str, Ints] | None  # coordinates of a text's tokens, by axis

IGNORED = -100  # a target that no loss counts

# what a batch costs beside its tokens, as a number of tokens; for a GPU, which waits for the host at every one, it is
# chosen and not measured
BATCH_COST = {"cpu": 128, "cuda": 1 << 16}


@dataclass(frozen=True)
class Batch:
    """inputs (B, T) and the tokens that follow them, targets (B, T): IGNORED outside the completion.

    `coordinates` (B, T) by the name of the axis, for models that use them.
    """

    inputs: Tensor
    targets: Tensor
    coordinates: Mapping[str, Tensor] = field(default_factory=dict)


def micro_batches(
    rendered: Rendered,
    rows: Ints,
    max_rows: int,
    max_tokens: int,
    device: torch.device,
    coordinates: Told = None,
) -> Iterator[Batch]:
    """The given rows in batches of at most `max_rows` rows and `max_tokens` tokens (padding counted).

    Rows of like length come together, so that little is padding. `coordinates` [N, T] are those of `rendered`.
    """
    for part in batches_by_length(rendered.lengths[rows] - 1, max_rows, max_tokens, BATCH_COST[device.type]):
        yield make_batch(rendered, rows[part], device, coordinates)


def batches_by_length(lengths: Ints, max_rows: int, max_tokens: int, batch_cost: int) -> Iterator[Ints]:
    """All rows [N] of the given lengths, the short ones first, in batches of bounded rows and padded tokens.

    They are cut where it costs least, if a batch costs its padded tokens and `batch_cost` more: found for the
    shortest lengths first, as lines are broken in a paragraph. What is too much for one batch is cut into even ones.
    """
    order = np.argsort(lengths, kind="stable")
    widths, counts = np.unique(lengths, return_counts=True)
    ends = np.concatenate([[0], counts.cumsum()])  # rows of each of the shortest lengths
    cost = np.zeros(len(ends))
    # the first length of the batches that end with each, and how many they are
    begin, number = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    for last, width in enumerate(widths, 1):
        rows = ends[last] - ends[:last]
        numbers = -(-rows // max(1, min(max_rows, max_tokens // width)))
        costs = cost[:last] + rows * width + batch_cost * numbers
        begin[last], cost[last] = costs.argmin(), costs.min()
        number[last] = numbers[begin[last]]
    found = []
    last = len(widths)
    while last:
        rows = order[ends[begin[last]] : ends[last]]
        found += np.array_split(rows, number[last])[::-1]
        last = begin[last]
    yield from found[::-1]


def shares_by_length(lengths: Ints, count: int) -> list[Ints]:
    """All rows [N] in `count` shares with like numbers of tokens, the short rows first."""
    order = np.argsort(lengths, kind="stable")
    middle = lengths[order].cumsum() - lengths[order] / 2
    return np.split(order, np.searchsorted(middle, lengths.sum() * np.arange(1, count) / count))


def make_batch(rendered: Rendered, rows: Ints, device: torch.device, coordinates: Told = None) -> Batch:
    """One batch, no wider than its longest row needs."""
    width = int(rendered.lengths[rows].max())
    ids = rendered.ids[rows, :width].astype(np.int64)
    column = np.arange(1, width)
    counted = (column >= rendered.prompt_lengths[rows, None]) & (column < rendered.lengths[rows, None])
    targets = np.where(counted, ids[:, 1:], IGNORED)

    def tensor(array: Ints) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    located = {axis: tensor(array[rows, : width - 1]) for axis, array in (coordinates or {}).items()}
    return Batch(tensor(np.ascontiguousarray(ids[:, :-1])), tensor(targets), located)
