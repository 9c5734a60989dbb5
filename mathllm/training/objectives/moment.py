"""When a loss is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moment:
    """The step, the share of training that lies behind it, and the random numbers that are its own."""

    step: int
    progress: float
    generator: torch.Generator
