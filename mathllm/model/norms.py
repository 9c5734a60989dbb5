"""Norms over the last dimension: RMSNorm with a backward pass that is cheap on a CPU, or PyTorch's LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.errors import check_choice

EPSILON = torch.finfo(torch.float32).eps
ON_CPU = torch.tensor(EPSILON, device="cpu")  # made once: a token's norm would take a third longer


class _RMSNorm(torch.autograd.Function):
    """x / RMS(x), times a weight if there is one. On a CPU PyTorch takes its own apart into many passes over memory:
    this needs half the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        scale = inverse_rms(x)
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale, weight)
        return y if weight is None else y * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (gradient,) = gradients
        y, scale, weight = ctx.saved_tensors
        product = gradient * y
        if weight is None:
            along = product.mean(-1, keepdim=True)
            return torch.addcmul(gradient, y, along, value=-1).mul_(scale), None
        # one product of the two serves both gradients
        along = (product @ (weight / len(weight)))[..., None]
        of_x = (gradient * weight).addcmul_(y, along, value=-1).mul_(scale)
        return of_x, product.reshape(-1, len(weight)).sum(0)


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """x (..., D) scaled to unit root mean square over D (arXiv 1910.07467), times a trained scale if there is one."""
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, EPSILON)  # one kernel
    if not torch.is_grad_enabled():
        out: Tensor = x * inverse_rms(x)
        return out if weight is None else out.mul_(weight)
    normed: Tensor = _RMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return normed


def inverse_rms(x: Tensor) -> Tensor:
    """1 / RMS of x (..., D) over D: (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(ON_CPU, norm, norm, value=1 / x.shape[-1]).rsqrt_()


class RMSNorm(nn.Module):
    """Unit root mean square, times a trained scale per channel (arXiv 1910.07467)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


NORMS: dict[str, type[nn.Module]] = {"rmsnorm": RMSNorm, "layernorm": nn.LayerNorm}


def make_norm(name: str, hidden: int) -> nn.Module:
    """The `rmsnorm` or `layernorm` of that width. Raises UsageError for an unknown one."""
    check_choice("norm", name, NORMS)
    return NORMS[name](hidden)
