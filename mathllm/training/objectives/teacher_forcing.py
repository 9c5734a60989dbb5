"""Teacher forcing: predict every token of the completion from the true tokens before it."""

from __future__ import annotations

import torch.nn.functional as F
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

    batches = staticmethod(micro_batches)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """The summed cross entropy (nats) of the completions' tokens; nothing in it is random or changes."""
        logits = model(batch.inputs, batch.places).flatten(0, 1)
        return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
