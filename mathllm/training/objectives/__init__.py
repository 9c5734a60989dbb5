"""What is learned from rendered rows: one file per objective, and the function that chooses one.

An objective says which tokens it scores, lays rows out in batches, and gives the loss of a batch. To add one,
write a class like the ones beside this file and name it in OBJECTIVES (config.py) and here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.config import ObjectiveConfig
from mathllm.formats import Rendered
from mathllm.tasks.numbers import Bools
from mathllm.training.objectives.gumbel import GumbelThoughts
from mathllm.training.objectives.moment import Moment
from mathllm.training.objectives.teacher_forcing import TeacherForcing

__all__ = ["Moment", "Objective", "make_objective"]


class Objective(Protocol):
    """See the classes beside this file."""

    def scored(self, rendered: Rendered) -> Bools: ...

    def batches(
        self,
        rendered: Rendered,
        rows: NDArray[np.int64],
        max_rows: int,
        max_tokens: int,
        device: torch.device,
        places: NDArray[np.int64] | None = None,
    ) -> Iterator[Any]: ...

    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> Tensor: ...


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the settings name."""
    return GumbelThoughts(config) if config.name == "gumbel" else TeacherForcing()
