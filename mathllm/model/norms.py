"""Norms over the last dimension: RMSNorm with a backward pass that is cheap on a CPU, or PyTorch's LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = torch.finfo(torch.float32).eps


class _RMSNorm(torch.autograd.Function):
    """x / RMS(x). On a CPU PyTorch takes its own apart into many passes over memory: this needs half the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = inverse_rms(x)
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        y, scale = ctx.saved_tensors
        along = (gradient * y).mean(-1, keepdim=True)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale)


def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """x (..., D) scaled to unit root mean square over D (arXiv 1910.07467), times a trained scale if there is one."""
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, EPSILON)  # one kernel
    if not torch.is_grad_enabled():
        out: Tensor = x * inverse_rms(x)
        return out if weight is None else out.mul_(weight)
    out = _RMSNorm.apply(x)  # type: ignore[no-untyped-call]
    return out if weight is None else out * weight


def inverse_rms(x: Tensor) -> Tensor:
    """1 / RMS of x (..., D) over D: (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse: Tensor = norm.square_().mul_(1 / x.shape[-1]).add_(EPSILON).rsqrt_()
    return inverse


class RMSNorm(nn.Module):
    """Unit root mean square, times a trained scale per channel (arXiv 1910.07467)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


def make_norm(name: str, hidden: int) -> nn.Module:
    """The `rmsnorm` or `layernorm` of that width."""
    return RMSNorm(hidden) if name == "rmsnorm" else nn.LayerNorm(hidden)
