"""What is learned from problems. To add an objective, write a class like `Objective` in a file of its own beside this
one, and name it in `mathllm.registry`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.config import ObjectiveConfig
from mathllm.data.batches import IGNORED, micro_batches
from mathllm.formats import Format, Rendered
from mathllm.math_model import MathModel
from mathllm.registry import objective_class, own_settings
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints


@dataclass(frozen=True)
class Moment:
    """The step, the share of training that lies behind it, and the random numbers that are its own."""

    step: int
    progress: float
    generator: torch.Generator


@dataclass(frozen=True)
class Lesson:
    """What a step learns from: N texts, and what there is to report of the step, by name. The trainer adds the texts'
    coordinates [N, T] by axis, for models that use them.

    An objective that has to know more of its texts adds arrays of as many rows in a class of its own.
    """

    rendered: Rendered
    metrics: Mapping[str, float] = field(default_factory=dict)
    coordinates: Mapping[str, Ints] = field(default_factory=dict)


@dataclass(frozen=True)
class Room:
    """The most rows of a batch, about how many tokens it may have, and the device it goes to."""

    rows: int
    tokens: int
    device: torch.device


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to set."""


class Objective:
    """What one step means: teacher forcing, to predict every token of the completion from the true tokens before it,
    unless a subclass says otherwise.

    `Settings` is a dataclass of what can be set under [objective], and the constructor takes one. A step asks in this
    order, each process for the whole batch, and each of its threads for rows of its own.
    """

    Settings: ClassVar[type] = NoSettings
    own_thoughts: ClassVar[bool] = False  # does the model choose what its thoughts say?

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @staticmethod
    def check(format: Format, compiled: bool) -> None:
        """Raises UsageError where it makes no sense for texts of a format, or for a compiled model."""

    def prepare(self, model: MathModel, problems: Problems, moment: Moment) -> Lesson:
        """The texts that these problems are learned from: written down, or drawn from the model as it is.

        It may be none: then the step changes no weight.
        """
        return Lesson(model.format.render(problems))

    def scored(self, rendered: Rendered) -> Bools:
        """The tokens [N, T] that count: what is summed up in the loss is divided by their number in the whole
        step."""
        return rendered.loss_mask

    def batches(self, lesson: Lesson, rows: Ints, room: Room) -> Iterator[Any]:
        """The given rows in batches."""
        return micro_batches(lesson.rendered, rows, room.rows, room.tokens, room.device, lesson.coordinates)

    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> dict[str, Tensor]:
        """Sums over a batch's tokens that count: `loss` (nats), which is learned from, and what else to report."""
        logits = model(batch.inputs, batch.coordinates).flatten(0, 1)
        return {
            "loss": F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        }


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the settings name."""
    kind: type[Objective] = objective_class(config.name)
    return kind(own_settings(kind, config.settings))
