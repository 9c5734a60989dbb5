"""Causal self-attention with grouped-query heads, QK-norm and an optional key/value cache."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.model.cache import Cache
from mathllm.model.linear import BlockLinear
from mathllm.model.norms import rms_norm
from mathllm.model.positions import Where

LANES = 16  # numbers that a vector instruction takes at once
NARROW = 16  # heads up to this width gain by whole vectors of keys more than padding costs
MANY_ROWS = 32  # from here on, two products for all heads are faster than a fused kernel for each


class Attention(nn.Module):
    """Multi-head attention; `kv_heads` < `heads` shares keys and values (GQA, arXiv 2305.13245; 0: all have their own).

    With `qk_norm` queries and keys are scaled to unit RMS per head (arXiv 2010.04245; here without a trained
    scale), and the scores are multiplied by `qk_scale`: how sharp attention can be.
    """

    def __init__(self, *, hidden: int, heads: int, kv_heads: int, qk_norm: bool, qk_scale: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.qk_norm = heads, kv_heads or heads, qk_norm
        self.head_width = hidden // heads
        self.scale = qk_scale / math.sqrt(self.head_width)
        # one product for queries, keys and values: three small ones would each read x again
        self.qkv = BlockLinear(hidden, (heads + 2 * self.kv_heads) * self.head_width)
        self.out = BlockLinear(hidden, hidden)

    def forward(
        self, qkv: Tensor, turns: Tensor | None, mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """What `qkv` makes of x (B, T, C) -> (B, T, C); see `Scheme.turns`, and `attention_mask` for the mask."""
        batch, length, _ = qkv.shape
        # (B, T, H + Hkv + Hkv, D); norm and rotation run over memory as it lies, before the transpose
        heads = qkv.view(batch, length, -1, self.head_width)
        qk, v = heads.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        if self.qk_norm:
            qk = rms_norm(qk)
        if turns is not None:
            qk = turn(qk, turns)
        q, k = qk.transpose(1, 2).split([self.heads, self.kv_heads], dim=1)  # (B, H, T, D)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        # without gradients, and not on a GPU, whose fused kernel takes all heads at once
        if length == 1 and batch >= MANY_ROWS and not (q.is_cuda or torch.is_grad_enabled()):
            y = attend_once(q, k, v, mask, self.scale)
        elif mask is not None and mask.requires_grad and self.heads == self.kv_heads and not q.is_cuda:
            y = attend(q, k, v, mask, self.scale)
        else:
            alike = mask is not None and mask.dtype == q.dtype and len(mask) == 1 < length
            if mask is not None and alike and not q.is_cuda:
                k, v, mask = padded_keys(k, v, mask)
            shared, causal = self.heads != self.kv_heads, mask is None and length > 1
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=shared
            )
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return out


def padded_keys(k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (B, H, S, D) and their bias (1, H, T, S), with as many hidden keys more as make S a multiple of
    `LANES`, where that is faster: PyTorch's fused kernel takes the rest of a row of scores number by number."""
    width, seen = k.shape[-1], k.shape[2]
    missing = -seen % LANES
    if not 0 < missing <= LANES // 2 or width > NARROW or seen > 64:
        return k, v, bias
    k, v = (F.pad(x, (0, 0, 0, missing)) for x in (k, v))
    return k, v, F.pad(bias, (0, missing), value=-torch.inf)


def attend_once(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attention of one query a row (B, H, 1, D) to keys and values (B, Hkv, S, D): (B, H, 1, D).

    PyTorch's fused kernel takes the heads one by one, which costs more than their products; here they are two
    products in all."""
    batch, kv_heads, seen, width = k.shape
    scores = torch.bmm(q.reshape(batch * kv_heads, -1, width), k.flatten(0, 1).mT).mul_(scale)
    if bias is not None:
        scores.view(batch, -1, 1, seen).add_(bias)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, -1, 1, width)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention (B, H, T, D) with a bias (B or 1, H, T, S) that is learned: PyTorch has no fused kernel for its
    gradient, and its other way looks through all scores for rows that see nothing."""
    batch, heads, length, _ = q.shape
    bias = bias.expand(batch, -1, -1, -1).reshape(batch * heads, length, -1)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """x (B, T, H, D), each pair of neighbours rotated by unit complex numbers ([B,] T, 1, D / 2)."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).view(x.shape).to(x.dtype)


def attention_mask(bias: Tensor | None, query: Where, key: Where) -> Tensor | None:
    """What is added to the scores of queries: (B or 1, H, T, S), or (T, S) of bools.

    The bias where a query may look, which is at what came before it and at itself, and -inf elsewhere. None
    where causal attention needs no mask: without a past, or for a single query.
    """
    if key.index.dim() == 2:  # of rows that began at different times, some have no token yet in a column
        hidden = (query.behind(key) < 0) | (key.index < 0)[:, None]
        bias = torch.zeros((), device=hidden.device) if bias is None else bias
        return torch.where(hidden[:, None], -torch.inf, bias)
    if query.length == 1 or (bias is None and query.length == key.length):
        return bias
    visible = query.behind(key) >= 0
    return visible if bias is None else bias.masked_fill(~visible, -torch.inf)


def underflow_spread(qk_scale: float, head_width: int) -> float:
    """By how many nats a bias must be lower for a key's weight to be exactly 0 in fp32, whatever the tokens are:
    after QK-norm no two scores are further apart than 2 qk_scale sqrt(D), and e^-104 is less than any number above
    0."""
    return 2 * qk_scale * math.sqrt(head_width) + 104
