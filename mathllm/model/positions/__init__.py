"""How a token knows where it is: one small class per scheme, each named in `mathllm.registry`.

Every scheme has the same three moments: `embed` may add to the token embeddings, `turns` may turn queries and
keys, `bias` may add to the attention scores (`turns`, and the `pairs` of a bias, are worked out once for all layers).
All see where tokens stand, never how long a text is, so cached decoding and training agree. Some have to be told
more than the order of tokens: the `axes` of a scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mathllm.model.positions.base import Scheme, SchemeSettings, Shape, Together, Where, union
from mathllm.registry import own_settings, position_classes

__all__ = ["Scheme", "Shape", "Together", "Where", "axes_of", "make_positions", "room_for"]


def make_positions(name: str, shape: Shape, settings: Mapping[str, Any] | None = None) -> Scheme:
    """The scheme of that name, or several: `one+other`. Raises UsageError for an unknown one."""
    schemes = [scheme(shape, own) for scheme, own in chosen(name, settings or {})]
    return schemes[0] if len(schemes) == 1 else Together(schemes)


def axes_of(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What the schemes of that name have to be told beside the order of tokens."""
    return union(scheme.axes_with(own) for scheme, own in chosen(name, settings))


def room_for(name: str, settings: Mapping[str, Any], max_digits: int) -> tuple[int, str]:
    """The highest coordinate that training such a model may meet, and the setting that leads there (see
    SchemeSettings.room)."""
    return max(own.room(max_digits) for _, own in chosen(name, settings))


def chosen(name: str, settings: Mapping[str, Any]) -> list[tuple[type[Scheme], SchemeSettings]]:
    """The classes of the schemes that make up a name, each with those of the settings that are its own."""
    return [(scheme, own_settings(scheme, settings)) for scheme in position_classes(name).values()]
