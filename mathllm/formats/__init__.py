"""How a problem is written down: one file per notation, and the registry that names them.

To add a format, write a file with a `Format` value like the ones beside this one and list it in FORMATS.
"""

from __future__ import annotations

from dataclasses import replace

from mathllm.errors import UsageError, unknown_choice
from mathllm.formats.base import Format, Parsed, Rendered
from mathllm.formats.column import COLUMN
from mathllm.formats.follow import ALLOWED, Walk
from mathllm.formats.hinted import HINTED
from mathllm.formats.pairwise import PAIRWISE
from mathllm.formats.plain import PLAIN
from mathllm.formats.reversed import REVERSED
from mathllm.formats.slots import SLOTS, slots_format
from mathllm.formats.steps import FILLER, NO_STEPS, RANDOM_STEPS, STEPS
from mathllm.tasks import get_tasks

NOTATIONS = (COLUMN, PAIRWISE, REVERSED, HINTED, PLAIN, SLOTS, STEPS, NO_STEPS, FILLER, RANDOM_STEPS)
FORMATS = {notation.name: notation for notation in NOTATIONS}

__all__ = ["ALLOWED", "FORMATS", "Format", "Parsed", "Rendered", "Walk", "formats_for", "get_format"]


def formats_for(task: str) -> list[str]:
    """The names of the notations that can write problems of a task."""
    (asked,) = get_tasks(task)
    return [name for name, notation in FORMATS.items() if notation.knows_task(asked)]


def get_format(name: str, zero_pad: bool = False, thought_length: int = 0) -> Format:
    """The notation of that name. Raises UsageError for an unknown one, and for a thought's length that it cannot
    have.
    """
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS)
    if thought_length and name != SLOTS.name:
        raise UsageError(
            f"format {name!r} has thoughts of a length of their own", "leave out --thought-length"
        )
    return replace(slots_format(thought_length) if thought_length else FORMATS[name], zero_pad=zero_pad)
