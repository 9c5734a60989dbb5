"""Lines from a pipe or a file as they come: whoever sends one and waits gets its answer, and files go by in batches."""

from __future__ import annotations

import codecs
import select
from collections.abc import Iterator
from typing import TextIO

from mathllm.errors import DataError
from mathllm.limits import MAX_LINE

BATCH = 1024  # lines at once, at most
_CHUNK = 1 << 16

Line = str | DataError


def read_lines(stream: TextIO | None) -> Iterator[list[Line]]:
    """The lines of a stream without their ends, in lists of what has arrived, and a DataError in place of one that is
    too long. Bytes that are no text become characters that no expression has; a byte order mark is passed over."""
    if stream is None:
        return
    rest, first = b"", True
    lines: list[Line] = []
    size = 0
    while chunk := stream.buffer.read1(_CHUNK):  # type: ignore[attr-defined]
        parts = (rest + (chunk.removeprefix(codecs.BOM_UTF8) if first else chunk)).splitlines(keepends=True)
        first = False
        # a \r may be the first half of a line's end
        rest = parts.pop() if parts and not parts[-1].endswith(b"\n") else b""
        rest = rest[: MAX_LINE + 1]
        for part in parts:
            lines.append(_line(part, stream.encoding))
            size += len(part)
            if len(lines) == BATCH or size > MAX_LINE:
                yield lines
                lines, size = [], 0
        if lines and not _more(stream):
            yield lines
            lines, size = [], 0
    if rest:
        lines.append(_line(rest, stream.encoding))
    if lines:
        yield lines


def _line(raw: bytes, encoding: str) -> Line:
    if len(raw) > MAX_LINE:
        what = f"a line of more than {MAX_LINE / 2**20:g} MiB"
        return DataError(what, "write one problem a line, like 12+34")
    return raw.decode(encoding, "replace").rstrip("\r\n")


def _more(stream: TextIO) -> bool:
    """Can more be read without waiting for it?"""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except (OSError, ValueError):  # nothing that one could wait for
        return True
