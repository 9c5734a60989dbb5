"""Rejection sampling: the model answers every problem several times, and learns its own texts whose answer is right.

No written solution is looked at, only whether the answer is the true integer. So a model has to be right now and then
before there is anything to learn: `train.init` starts from one.

Source: expert iteration as in STaR (Self-Taught Reasoner, arXiv 2203.14465). Ours draws from the model as it is at
every step, goes on with the same weights, and never shows a solution as a hint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mathllm.inference.sampling import SamplingParams
from mathllm.limits import MAX_SAMPLES, check_range
from mathllm.math_model import MathModel
from mathllm.tasks import Problems
from mathllm.training.objectives import Lesson, Moment, Objective


@dataclass(frozen=True)
class RejectionSettings:
    """How many `samples` are drawn of every problem, at which `temperature`."""

    samples: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_range("objective.samples", self.samples, 1, MAX_SAMPLES)
        SamplingParams(self.temperature)  # which knows what a temperature can be


class RejectionSampling(Objective):
    """Teacher forcing on what the model has drawn itself: the ids as they were, `<end>` included."""

    Settings = RejectionSettings

    def prepare(self, model: MathModel, problems: Problems, moment: Moment) -> Lesson:
        """The right ones among the drawn texts, each once for a problem. Reports the share of the drawn ones that are
        right (`accepted`), and of the problems that have any (`solved`)."""
        of = np.repeat(np.arange(len(problems)), self.settings.samples)  # the problem of each text
        params = SamplingParams(self.settings.temperature)
        # tokens are drawn where the model is
        generator = torch.Generator(model.device).manual_seed(moment.generator.initial_seed())
        written = model.complete(model.format.render(problems)[of], params=params, generator=generator)
        right = model.right(written)
        # not among all: a text that was cut looks like one that has ended, behind which `<end>` pads
        rows = np.flatnonzero(right)
        texts = np.concatenate([of[rows, None], written.ids[rows]], axis=1)
        kept = rows[np.unique(texts, axis=0, return_index=True)[1]]
        solved = len(np.unique(of[kept])) / len(problems)
        return Lesson(written[kept], {"accepted": float(right.mean()), "solved": solved})
