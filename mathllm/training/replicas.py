"""Data parallelism inside one process: a thread per CPU core, each with rows of its own.

The products of a tiny model are too small to share: threads that split one wait for each other at every operation.
So each thread runs whole micro-batches on a copy of the model that shares its weights and has its own gradients,
which are added up in a fixed order: with the same number of threads the result is the same, bit for bit.
The number is part of a run's settings, so that a resumed run has it too, on any machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from mathllm.device import workers

T = TypeVar("T")


class Replicas:
    """A model and copies of it, one for each of `count` threads (one: no copy and no thread)."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        for twin in self.models[1:]:
            for own, original in zip(twin.parameters(), model.parameters(), strict=True):
                own.data, own.grad = original.data, None  # in the same memory

    def run(self, work: Callable[[nn.Module, int], T]) -> list[T]:
        """`work(model, number)` for every copy at once, in order; then all gradients are the first model's."""
        count = len(self.models)
        if count == 1:
            return [work(self.models[0], 0)]
        results = list(workers(count).map(work, self.models, range(count)))
        with torch.no_grad():
            for first, *others in zip(*(model.parameters() for model in self.models), strict=True):
                for other in others:
                    if other.grad is not None:
                        first.grad = other.grad if first.grad is None else first.grad.add_(other.grad)
                        other.grad = None
        return results
