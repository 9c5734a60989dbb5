"""Teacher forcing: predict every token of the completion from the true tokens before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.data.batches import IGNORED, Batch, micro_batches
from mathllm.formats import Rendered
from mathllm.tasks.numbers import Bools
from mathllm.training.objectives.moment import Moment


class TeacherForcing:
    """The objective of every run that does not say otherwise."""

    def scored(self, rendered: Rendered) -> Bools:
        """True [N, T] for the completions."""
        return rendered.loss_mask

    def batches(
        self,
        rendered: Rendered,
        rows: NDArray[np.int64],
        max_rows: int,
        max_tokens: int,
        device: torch.device,
        places: NDArray[np.int64] | None = None,
    ) -> Iterator[Batch]:
        """The given rows in batches of like length; see `micro_batches`."""
        return micro_batches(rendered, rows, max_rows, max_tokens, device, places)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """The summed cross entropy (nats) of the completions' tokens; nothing in it is random or changes."""
        logits = model(batch.inputs, batch.places).flatten(0, 1)
        return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
