"""Teacher forcing: predict every token of the completion from the true tokens before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.data.batches import IGNORED, Batch, micro_batches
from mathllm.formats import Format, Rendered
from mathllm.tasks.numbers import Bools
from mathllm.training.objectives.moment import Moment


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to set."""


class TeacherForcing:
    """The objective of every run that does not say otherwise."""

    Settings = NoSettings

    def __init__(self, settings: NoSettings | None = None) -> None:
        pass

    @staticmethod
    def check(notation: Format, compile: bool) -> None:
        """Every format will do."""

    def scored(self, rendered: Rendered) -> Bools:
        """True [N, T] for the completions."""
        return rendered.loss_mask

    batches = staticmethod(micro_batches)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        """The summed cross entropy (nats) of the completions' tokens; nothing in it is random or changes."""
        logits = model(batch.inputs, batch.coordinates).flatten(0, 1)
        return F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
