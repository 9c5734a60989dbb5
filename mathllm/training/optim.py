"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from mathllm.config import OPTIMIZERS, SCHEDULES
from mathllm.errors import check_choice


def make_optimizers(
    model: nn.Module, optimizer: str, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest.

    Weight decay applies to the blocks' matrices only. Muon (https://kellerjordan.github.io/posts/muon/) is
    PyTorch's: momentum, orthogonalised by Newton-Schulz iterations in bf16.
    """
    check_choice("optimizer", optimizer, OPTIMIZERS)
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".blocks." in f".{name}" else others).append(parameter)
    if optimizer == "muon":
        return [
            torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay, momentum=0.95),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)]


def make_schedule(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at a step (from 0): linear warm-up, then the named decay to zero."""

    check_choice("schedule", name, SCHEDULES)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if name == "constant":
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return factor
