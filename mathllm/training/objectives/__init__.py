"""What is learned from rendered rows: one file per objective, and the function that chooses one.

An objective says which tokens it scores, lays rows out in batches, and gives the loss of a batch. To add one,
write a class like the ones beside this file and name it in `mathllm.registry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.config import ObjectiveConfig
from mathllm.formats import Format, Rendered
from mathllm.registry import objective_class, own_settings
from mathllm.tasks.numbers import Bools
from mathllm.training.objectives.moment import Moment

__all__ = ["Moment", "Objective", "make_objective"]


class Objective(Protocol):
    """See the classes beside this file. `Settings` is a dataclass of what can be set under [objective], of which the
    constructor takes a value; `check` raises UsageError for what the objective does not go with."""

    Settings: ClassVar[type]

    @staticmethod
    def check(notation: Format, compile: bool) -> None: ...

    def scored(self, rendered: Rendered) -> Bools: ...

    def batches(
        self,
        rendered: Rendered,
        rows: NDArray[np.int64],
        max_rows: int,
        max_tokens: int,
        device: torch.device,
        coordinates: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Iterator[Any]: ...

    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> Tensor: ...


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the settings name."""
    kind = objective_class(config.name)
    return cast(Objective, kind(own_settings(kind, config.settings)))
