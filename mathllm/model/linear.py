"""Linear maps without a bias, whose products can take bf16 while training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 64  # the products' library compiles a kernel for every new number of rows: so there are but multiples of this


class BlockLinear(nn.Linear):
    """x (..., inputs) -> (..., outputs). After `use_bf16` training rounds the factors and results of its products,
    and of those of the gradients, to bf16.

    It is for CPUs, where autocast makes training slower: attention and what lies between the products gain nothing
    from bf16 there, and every new shape of a batch has its kernels compiled."""

    bf16 = False

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.bf16 and torch.is_grad_enabled():
            out: Tensor = _Bf16Product.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return out
        return F.linear(x, self.weight)


class _Bf16Product(torch.autograd.Function):
    """x W^T of fp32 tensors and its gradients, from products of bf16 that are summed in fp32 and rounded to bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, rounded = padded_rows(x), weight.bfloat16()
        ctx.save_for_backward(rows, rounded)
        return unpadded(torch.mm(rows, rounded.T), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        rows, rounded = ctx.saved_tensors
        of_rows = padded_rows(gradient)
        return unpadded(torch.mm(of_rows, rounded), gradient), torch.mm(of_rows.T, rows).float()


def padded_rows(x: Tensor) -> Tensor:
    """x (..., C) as rows (R, C) of bf16, with rows of zeros up to a multiple of ROWS."""
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.new_empty(-(-len(flat) // ROWS) * ROWS, flat.shape[1], dtype=torch.bfloat16)
    rows[: len(flat)] = flat
    rows[len(flat) :] = 0
    return rows


def unpadded(rows: Tensor, x: Tensor) -> Tensor:
    """The first rows (R, D) in fp32, in the shape of x (..., C) but for its last dimension."""
    shape = x.shape[:-1]
    return rows[: shape.numel()].float().view(*shape, rows.shape[1])


def use_bf16(model: nn.Module) -> None:
    """Has its blocks' linear maps train with bf16 products."""
    for module in model.modules():
        if isinstance(module, BlockLinear):
            module.bf16 = True
