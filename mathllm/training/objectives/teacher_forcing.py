"""Teacher forcing: predict every token of the completion from the true tokens before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.data.batches import IGNORED, Batch, micro_batches
from mathllm.formats import Format, Rendered
from mathllm.math_model import MathModel
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints
from mathllm.training.objectives.base import Lesson, Moment, Room, written_down


def completions(rendered: Rendered) -> Bools:
    """True [N, T] for the completions' tokens."""
    return rendered.loss_mask


def by_length(lesson: Lesson, rows: Ints, room: Room) -> Iterator[Batch]:
    """Rows of like length together."""
    return micro_batches(lesson.rendered, rows, room.rows, room.tokens, room.device, lesson.coordinates)


def cross_entropy(model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
    """That of the completions' tokens; nothing in it is random or changes."""
    logits = model(batch.inputs, batch.coordinates).flatten(0, 1)
    return {"loss": F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")}


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to set."""


class TeacherForcing:
    """The objective of every run that does not say otherwise."""

    Settings = NoSettings
    scored = staticmethod(completions)
    batches = staticmethod(by_length)
    loss = staticmethod(cross_entropy)

    def __init__(self, settings: NoSettings | None = None) -> None:
        pass

    @staticmethod
    def check(format: Format, compiled: bool) -> None:
        """It goes with everything."""

    def prepare(self, model: MathModel, problems: Problems, moment: Moment) -> Lesson:
        """The true texts."""
        return written_down(model, problems)
