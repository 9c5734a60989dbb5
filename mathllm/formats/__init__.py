"""How a problem is written down: one file per format.

To add one, write a file with a `Format` value like the ones beside this one and name it in `mathllm.registry`.
"""

from __future__ import annotations

from dataclasses import replace

from mathllm import registry
from mathllm.errors import UsageError, unknown_choice
from mathllm.formats.base import Format, Parsed, Rendered
from mathllm.formats.follow import ALLOWED, Walk
from mathllm.formats.slots import SLOTS, slots_format
from mathllm.tasks import get_tasks

FORMATS: dict[str, Format] = dict(zip(registry.FORMATS, registry.everything(registry.FORMATS), strict=True))

__all__ = ["ALLOWED", "FORMATS", "SLOTS", "Format", "Parsed", "Rendered", "Walk", "formats_for", "get_format"]


def formats_for(task: str) -> list[str]:
    """The names of the formats that can write problems of a task."""
    (asked,) = get_tasks(task)
    return [name for name, format in FORMATS.items() if format.knows_task(asked)]


def get_format(name: str, zero_pad: bool = False, thought_length: int = 0) -> Format:
    """The format of that name. Raises UsageError for an unknown one, and for a thought's length that it cannot
    have.
    """
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS)
    if thought_length and name != SLOTS.name:
        raise UsageError(
            f"format {name!r} has thoughts of a length of their own", "leave out --thought-length"
        )
    return replace(slots_format(thought_length) if thought_length else FORMATS[name], zero_pad=zero_pad)
