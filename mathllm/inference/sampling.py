"""Choosing the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mathllm.errors import MathLLMError, UsageError

# a temperature below this is this one: anything smaller would overflow, and it is as good as greedy
COLDEST = 1e-6


@dataclass(frozen=True)
class SamplingParams:
    """Temperature 0 is greedy. `top_k` 0 and `top_p` 1 leave all tokens in."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)):
                raise UsageError(f"{name} is a number, not {value!r}")
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature must be from 0 (greedy) to 100, not {self.temperature:g}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be at least 0 (all), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1 (all), not {self.top_p:g}")


GREEDY = SamplingParams()


def pick(
    logits: Tensor,
    params: SamplingParams,
    generator: torch.Generator | None = None,
    chances: Tensor | None = None,
) -> Tensor:
    """Next ids (B) from logits (B, V). Where they are drawn, `chances` (B), numbers from 0 to 1, decide, or such as the
    generator makes: one a row, so that a row's token does not depend on the other rows."""
    if params.temperature == 0:
        return logits.argmax(-1)
    if chances is None:
        chances = torch.rand(len(logits), generator=generator, device=logits.device)
    weights = truncate((logits / max(params.temperature, COLDEST)).softmax(-1), params)
    if weights.isnan().any():
        raise MathLLMError("the model's outputs are not numbers: its weights are damaged")
    sums = weights.double().cumsum(-1)
    return (sums <= chances[:, None] * sums[:, -1:]).sum(-1)


def truncate(weights: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities (B, V) with zeros outside the k likeliest tokens and outside the smallest set of mass p.

    Both sets are those of the whole distribution. The likeliest token always stays.
    """
    if params.top_k == 0 and params.top_p == 1:
        return weights
    ordered, order = weights.sort(stable=True, dim=-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if params.top_k:
        keep[:, params.top_k :] = False
    if params.top_p < 1:
        # a token stays if the mass before it is still below p
        keep &= ordered.cumsum(-1) - ordered < params.top_p
    return torch.zeros_like(weights).scatter(-1, order, ordered * keep)
