"""The decoder: pre-norm blocks of attention and feed-forward over sixteen tokens.

It knows tensors only: token ids or embeddings, positions, an optional cache. Objectives, formats and decoding
live elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.errors import check_choice
from mathllm.model.attention import Attention, attention_mask, underflow_spread
from mathllm.model.cache import Cache, KeyValueCache
from mathllm.model.linear import BlockLinear
from mathllm.model.norms import make_norm
from mathllm.model.positions import Shape, Where, make_positions

if TYPE_CHECKING:
    from mathllm.config import ModelConfig

ACTIVATIONS = ("gelu", "relu2", "swiglu")
TOKENS = 16  # of the vocabulary


class FeedForward(nn.Module):
    """Two linear maps around a GELU or ReLU² (arXiv 2109.08668), or three for SwiGLU (arXiv 2002.05202)."""

    def __init__(self, hidden: int, inner: int, activation: str) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.up = BlockLinear(hidden, inner)
        self.gate = BlockLinear(hidden, inner) if activation == "swiglu" else None
        self.down = BlockLinear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        elif self.activation == "gelu":
            y = F.gelu(y)
        else:
            y = F.relu(y).square()
        out: Tensor = self.down(y)
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = ("hidden", "heads", "kv_heads", "qk_norm", "qk_scale")
        self.attention_norm = make_norm(config.norm, config.hidden)
        self.attention = Attention(**{name: getattr(config, name) for name in own})
        self.feed_forward_norm = make_norm(config.norm, config.hidden)
        self.feed_forward = FeedForward(config.hidden, config.feed_forward, config.activation)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor] | None,
        turns: Tensor | None,
        mask: Tensor | None,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). Where x are but rows of a `table`, it is ids (B, T) and rows (V, C)."""
        qkv = self.attention.qkv(self.attention_norm(x if table is None else table[1]))
        if table is not None:
            qkv = F.embedding(table[0], qkv)
        x = x + self.attention(qkv, turns, mask, cache, layer)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Transformer(nn.Module):
    """A decoder-only transformer; `from_config` builds one whose weights are those of a seed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden, config.heads
        self.max_length, self.loops, self.vocab_size = config.max_length, config.loops, TOKENS
        self.heads, self.kv_heads, self.head_width = heads, config.kv_heads or heads, hidden // heads
        self.spread = underflow_spread(config.qk_scale, self.head_width) if config.qk_norm else None
        self.embedding = nn.Embedding(self.vocab_size, hidden)
        shape = Shape(hidden, heads, config.layers, config.max_length)
        self.positions = make_positions(config.position, shape, config.position_settings)
        self.axes = self.positions.axes  # the coordinates that `forward` has to be told
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = make_norm(config.norm, hidden)
        # a tied head is the embedding itself: it holds no weight of its own, so none is saved twice
        self.head = None if config.tie_embeddings else nn.Linear(hidden, self.vocab_size, bias=False)
        self._initialise(hidden)

    @classmethod
    def from_config(cls, config: ModelConfig, seed: int = 0) -> Transformer:
        """A new model; the same seed gives the same weights, whatever else draws random numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def _initialise(self, hidden: int) -> None:
        nn.init.normal_(self.embedding.weight, std=1.0 if self.head is not None else 1 / math.sqrt(hidden))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if name.endswith(("attention.out", "feed_forward.down", "head")):
                    # each block starts as the identity, and all tokens as equally likely
                    nn.init.zeros_(module.weight)

    def forward(
        self, tokens: Tensor, coordinates: Mapping[str, Tensor] | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T) or embeddings (B, T, C). With a cache, the tokens are appended to it.

        `coordinates` of the tokens by the name of the axis, (B, T), or (1, T) where all rows stand alike: a model needs
        those that its `axes` name.
        """
        past = cache.length if cache is not None else 0
        length = tokens.shape[1]
        coordinates, positions = coordinates or {}, self.positions
        index = torch.arange(past, past + length, device=tokens.device)
        start = None if cache is None else cache.start
        where = Where(index if start is None else index - start[:, None], coordinates)
        assert coordinates.keys() >= set(self.axes), f"this model has to be told {self.axes}"
        seen = where if cache is None else cache.append(where, positions.key_axes)
        looked_up = tokens if tokens.is_floating_point() else self.embedding(tokens)
        x = positions.embed(looked_up, where)
        # where no position is added, the first block's queries, keys and values are those of sixteen tokens (on a GPU
        # that is not measured)
        plain = x is looked_up and not (tokens.is_floating_point() or tokens.is_cuda)
        table = (tokens, self.embedding.weight) if plain and tokens.numel() > self.vocab_size else None
        embedded, turns, pairs = x, positions.turns(where), positions.pairs(where, seen)
        # blocks repeated share weights, and each repetition sees the input again (arXiv 2405.17399)
        for loop in range(self.loops):
            x = x + embedded if loop else x
            for layer, block in enumerate(self.blocks):
                mask = positions.bias(layer, pairs)
                mask = mask if positions.hides else attention_mask(mask, where, seen)
                x = block(x, table, turns, mask, cache, loop * len(self.blocks) + layer)
                table = None
        if cache is not None:
            cache.length += length
        x = self.final_norm(x)
        logits: Tensor = x @ self.embedding.weight.T if self.head is None else self.head(x)
        return logits.float()

    def make_cache(self, batch: int, max_length: int) -> KeyValueCache:
        """An empty cache for sequences of up to max_length tokens."""
        weight = self.embedding.weight
        shape = self.depth, batch, self.kv_heads, max_length, self.head_width
        return KeyValueCache(shape, weight, axes=self.positions.key_axes, reach=self.reach)

    @property
    def reach(self) -> dict[str, int]:
        """How far away on an axis a token gets no attention at all, as the weights are now; an axis that is not named
        leaves none out."""
        return self.positions.reach(self.spread) if self.spread else {}

    @property
    def cache_bytes(self) -> int:
        """What a token takes in a cache."""
        weight = self.embedding.weight
        return 2 * self.depth * self.kv_heads * self.head_width * weight.element_size()

    @property
    def depth(self) -> int:
        """Blocks that a token goes through."""
        return len(self.blocks) * self.loops

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
