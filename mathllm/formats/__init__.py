"""How a problem is written down: one file per notation, and the registry that names them.

To add a format, write a file with a `Format` value like the ones beside this one and list it in FORMATS.
"""

from __future__ import annotations

from dataclasses import replace

from mathllm.errors import unknown_choice
from mathllm.formats.base import Format, Parsed, Rendered
from mathllm.formats.column import COLUMN
from mathllm.formats.hinted import HINTED
from mathllm.formats.pairwise import PAIRWISE
from mathllm.formats.plain import PLAIN
from mathllm.formats.reversed import REVERSED

FORMATS = {notation.name: notation for notation in (COLUMN, PAIRWISE, REVERSED, HINTED, PLAIN)}

__all__ = ["FORMATS", "Format", "Parsed", "Rendered", "get_format"]


def get_format(name: str, zero_pad: bool = False) -> Format:
    """The notation of that name. Raises UsageError for an unknown one."""
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS)
    return replace(FORMATS[name], zero_pad=zero_pad)
