"""Data parallelism inside one process: a thread per CPU core, each with rows of its own.

The products of a tiny model are too small to share: threads that split one wait for each other at every operation.
So each thread runs whole micro-batches on a copy of the model that shares its weights and has its own gradients,
which are added up in a fixed order: with the same number of threads the result is the same, bit for bit.
The number is part of a run's settings, so that a resumed run has it too, on any machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


class Replicas:
    """A model and copies of it, one for each of `count` threads (one: no copy and no thread)."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.models = [model, *(share_weights(model) for _ in range(count - 1))]
        # OpenMP's number of threads belongs to the thread that sets it
        self.pool = (
            ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None
        )

    def run(self, work: Callable[[nn.Module, int], T]) -> list[T]:
        """`work(model, number)` for every copy at once, in order; then all gradients are the first model's."""
        if self.pool is None:
            return [work(self.models[0], 0)]
        results = list(self.pool.map(work, self.models, range(len(self.models))))
        with torch.no_grad():
            for parameters in zip(*(model.parameters() for model in self.models), strict=True):
                add_gradients(parameters)
        return results


def share_weights(model: Model) -> Model:
    """A copy whose parameters lie in the same memory and have no gradient."""
    twin = copy.deepcopy(model)
    for own, original in zip(twin.parameters(), model.parameters(), strict=True):
        own.data, own.grad = original.data, None
    return twin


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Moves the sum of all gradients into the first parameter's."""
    first, *others = parameters
    for other in others:
        if other.grad is not None:
            first.grad = other.grad if first.grad is None else first.grad.add_(other.grad)
            other.grad = None
