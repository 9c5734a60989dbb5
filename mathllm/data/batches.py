"""Rendered rows as the tensors of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.formats import Rendered

IGNORED = -100  # a target that no loss counts


@dataclass(frozen=True)
class Batch:
    """inputs (B, T) and the tokens that follow them, targets (B, T): IGNORED outside the completion.

    `places` (B, T, 2) for models that use them.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor | None = None


def micro_batches(
    rendered: Rendered,
    rows: NDArray[np.int64],
    max_rows: int,
    max_tokens: int,
    device: torch.device,
    places: NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """The given rows in batches of at most `max_rows` rows and `max_tokens` tokens (padding counted).

    Rows of like length come together, so that little is padding. `places` [N, T, 2] are those of `rendered`.
    """
    for part in batches_by_length(rendered.lengths[rows] - 1, max_rows, max_tokens):
        yield make_batch(rendered, rows[part], device, places)


def batches_by_length(
    lengths: NDArray[np.int64], max_rows: int, max_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """All rows [N] of the given lengths, the short ones first, in batches of bounded rows and padded tokens."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # lengths ascend, so the batch is as wide as its last row: take as many rows as fit
        widths = lengths[order[start : start + max_rows]]
        fits = np.arange(1, len(widths) + 1) * widths <= max_tokens
        stop = start + max(1, int(fits.sum()))
        yield order[start:stop]
        start = stop


def make_batch(
    rendered: Rendered,
    rows: NDArray[np.int64],
    device: torch.device,
    places: NDArray[np.int64] | None = None,
) -> Batch:
    """One batch, no wider than its longest row needs."""
    width = int(rendered.lengths[rows].max())
    ids = rendered.ids[rows, :width].astype(np.int64)
    column = np.arange(1, width)
    counted = (column >= rendered.prompt_lengths[rows, None]) & (column < rendered.lengths[rows, None])
    targets = np.where(counted, ids[:, 1:], IGNORED)
    parts = [np.ascontiguousarray(ids[:, :-1]), targets]
    if places is not None:
        parts.append(places[rows, : width - 1])
    return Batch(*(torch.from_numpy(part).to(device, non_blocking=True) for part in parts))
