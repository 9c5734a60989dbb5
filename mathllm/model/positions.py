"""How a token knows where it is: one small class per scheme, behind one registry.

Every scheme has the same two moments: `embed` may add to the token embeddings, `rotate` may turn queries and
keys. Both see positions only, never lengths, so cached decoding and training agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mathllm.errors import unknown_choice


class Learned(nn.Module):
    """A trained vector per position, as in GPT-2."""

    def __init__(self, hidden: int, head_width: int, max_length: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_length, hidden)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = x + self.table(positions)
        return embedded

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


class Sinusoidal(nn.Module):
    """Fixed sines and cosines of many wavelengths (Attention Is All You Need, arXiv 1706.03762)."""

    table: Tensor

    def __init__(self, hidden: int, head_width: int, max_length: int) -> None:
        super().__init__()
        angles = _angles(max_length, hidden)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=-1), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions].to(x.dtype)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


class Rope(nn.Module):
    """Rotary embedding of queries and keys (RoFormer, arXiv 2104.09864): neighbours are pairs, as in the paper.

    A pair is a complex number and its rotation a product: one pass over memory where sines and cosines take five.
    """

    turns: Tensor

    def __init__(self, hidden: int, head_width: int, max_length: int) -> None:
        super().__init__()
        angles = _angles(max_length, head_width)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        # x (B, T, H, D); positions (T); turns (T, 1, D / 2)
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * self.turns[positions, None])
        return turned.flatten(-2).to(x.dtype)


class Nope(nn.Module):
    """No position at all: the causal mask alone tells order (arXiv 2305.19466)."""

    def __init__(self, hidden: int, head_width: int, max_length: int) -> None:
        super().__init__()

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


PositionScheme = Learned | Sinusoidal | Rope | Nope
SCHEMES: dict[str, type[PositionScheme]] = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "nope": Nope,
}


def make_positions(name: str, hidden: int, head_width: int, max_length: int) -> PositionScheme:
    """The scheme of that name. Raises UsageError for an unknown one."""
    if name not in SCHEMES:
        raise unknown_choice("position", name, SCHEMES)
    return SCHEMES[name](hidden, head_width, max_length)


def _angles(length: int, width: int) -> Tensor:
    """Position times frequency (length, width / 2), with wavelengths from 2 pi to 10,000 times that."""
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequency
