"""What a model computes, written out: the same logits as `Transformer.forward`, with every site in between handed to
whoever looks.

A test holds that both agree to 1e-5 for every scheme, activation, norm, sharing of heads and number of loops. It works
without a cache, on any batch, with gradients."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.errors import UsageError
from mathllm.interp.sites import DEAR
from mathllm.model.attention import Attention, turn
from mathllm.model.norms import EPSILON, RMSNorm
from mathllm.model.positions import Where
from mathllm.model.transformer import Block, FeedForward, Transformer

# takes what a site holds, and gives what the pass is to go on with
Tap = Callable[[str, Tensor], Tensor]


def forward(
    model: Transformer,
    tokens: Tensor,
    coordinates: Mapping[str, Tensor] | None = None,
    *,
    tap: Tap,
    dear: bool = False,
) -> Tensor:
    """Logits (B, T, V) of ids (B, T) or embeddings (B, T, C), with `tap` called at every site on the way (see
    interp.sites); at `hook_result`, a head's part of the residual stream, only with `dear`.

    `coordinates` (B, T) by the name of the axis, as `Transformer.forward` has them."""
    positions, length = model.positions, tokens.shape[1]
    where = Where(torch.arange(length, device=tokens.device), coordinates or {})
    embedded = tokens if tokens.is_floating_point() else model.embedding(tokens)
    added = positions.embed(embedded, where) - embedded
    x = embedded = tap("hook_embed", embedded) + tap("hook_pos_embed", added)
    turns, pairs = positions.turns(where), positions.pairs(where, where)
    hidden = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    for number in range(model.depth):
        layer = number % len(model.blocks)
        x = x + embedded if number and layer == 0 else x
        block = cast(Block, model.blocks[layer])
        bias = positions.bias(layer, pairs)
        x = _block(block, x, turns, bias, hidden, _named(tap, f"blocks.{number}."), dear)
    x = _norm(model.final_norm, x, _named(tap, "ln_final."))
    logits: Tensor = x @ model.embedding.weight.T if model.head is None else model.head(x)
    return logits


def sites_of(model: Transformer) -> list[str]:
    """The names of the sites that this model has, in the order in which they come."""
    found = []

    def note(name: str, tensor: Tensor) -> Tensor:
        found.append(name)
        return tensor

    nowhere = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.weight.device)
    with torch.inference_mode():
        forward(model, nowhere, dict.fromkeys(model.axes, nowhere), tap=note, dear=True)
    return found


def matching(model: Transformer, names: str | Iterable[str]) -> list[str]:
    """The model's sites that these names, or patterns like `blocks.*.attn.hook_pattern`, stand for. Raises UsageError
    for one that is none."""
    sites, found = sites_of(model), set()
    for name in [names] if isinstance(names, str) else names:
        some = fnmatch.filter(sites, name)
        if not some:
            alike = [site for site in sites if site.split(".")[-1] == name.split(".")[-1]]
            hint = (
                f"there is {alike[0]}"
                if alike
                else f"for example {sites[0]}; mathllm/interp/sites.py has all"
            )
            raise UsageError(f"this model has no site {name!r}", hint)
        found |= set(some)
    return [site for site in sites if site in found]


def _named(tap: Tap, prefix: str) -> Tap:
    return lambda name, tensor: tap(prefix + name, tensor)


def _block(
    block: Block,
    x: Tensor,
    turns: Tensor | None,
    bias: Tensor | None,
    hidden: Tensor,
    tap: Tap,
    dear: bool,
) -> Tensor:
    x = tap("hook_resid_pre", x)
    normed = _norm(block.attention_norm, x, _named(tap, "ln1."))
    attended = _attention(block.attention, normed, turns, bias, hidden, _named(tap, "attn."), dear)
    x = tap("hook_resid_mid", x + tap("hook_attn_out", attended))
    normed = _norm(block.feed_forward_norm, x, _named(tap, "ln2."))
    return tap(
        "hook_resid_post",
        x + tap("hook_mlp_out", _feed_forward(block.feed_forward, normed, _named(tap, "mlp."))),
    )


def _norm(norm: nn.Module, x: Tensor, tap: Tap) -> Tensor:
    if isinstance(norm, RMSNorm):
        scale = tap("hook_scale", (x.square().mean(-1, keepdim=True) + EPSILON).sqrt())
        return tap("hook_normalized", x / scale) * norm.weight
    assert isinstance(norm, nn.LayerNorm)
    x = x - x.mean(-1, keepdim=True)
    scale = tap("hook_scale", (x.square().mean(-1, keepdim=True) + norm.eps).sqrt())
    return tap("hook_normalized", x / scale * norm.weight + norm.bias)


def _attention(
    attention: Attention,
    x: Tensor,
    turns: Tensor | None,
    bias: Tensor | None,
    hidden: Tensor,
    tap: Tap,
    dear: bool,
) -> Tensor:
    heads, kv_heads = attention.heads, attention.kv_heads
    qkv = attention.qkv(x).unflatten(-1, (-1, attention.head_width))
    parts = zip("qkv", qkv.split([heads, kv_heads, kv_heads], dim=2), strict=True)
    q, k, v = (tap(f"hook_{name}", part) for name, part in parts)  # (B, T, H, D)
    if attention.qk_norm:
        q, k = (part / (part.square().mean(-1, keepdim=True) + EPSILON).sqrt() for part in (q, k))
    if turns is not None:
        q, k = turn(q, turns), turn(k, turns)
    if attention.qk_norm or turns is not None:
        q, k = tap("hook_rot_q", q), tap("hook_rot_k", k)
    k, v = (part.repeat_interleave(heads // kv_heads, dim=2) for part in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * attention.scale
    if bias is not None:
        scores = scores + tap("hook_bias", bias.expand(len(x), -1, -1, -1))
    scores = tap("hook_attn_scores", scores.masked_fill(hidden, -torch.inf))
    pattern = tap("hook_pattern", scores.softmax(-1))
    z = tap("hook_z", torch.einsum("bhts,bshd->bthd", pattern, v))
    if not dear:
        out: Tensor = attention.out(z.flatten(2))
        return out
    weight = attention.out.weight.view(-1, heads, attention.head_width)
    return tap(DEAR.removeprefix("attn."), torch.einsum("bthd,chd->bthc", z, weight)).sum(2)


def _feed_forward(feed_forward: FeedForward, x: Tensor, tap: Tap) -> Tensor:
    pre = tap("hook_pre", (feed_forward.up if feed_forward.gate is None else feed_forward.gate)(x))
    if feed_forward.gate is not None:
        post = F.silu(pre) * tap("hook_pre_linear", feed_forward.up(x))
    else:
        post = F.gelu(pre) if feed_forward.activation == "gelu" else F.relu(pre).square()
    out: Tensor = feed_forward.down(tap("hook_post", post))
    return out
