"""Teacher forcing: predict every token of the completion from the true tokens before it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mathllm.data.batches import IGNORED, Batch


def teacher_forcing(model: Callable[[Tensor, Tensor | None], Tensor], batch: Batch) -> Tensor:
    """The summed cross entropy (nats) of the completion's tokens; the caller divides by their number.

    `model` gives logits (B, T, V) for ids (B, T) and their places.
    """
    logits = model(batch.inputs, batch.places).flatten(0, 1)
    return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
