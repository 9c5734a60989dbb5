"""Lines as they come: each at once where they come slowly, many where they are there, and none without bounds."""

import io
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.cli.lines import BATCH, read_lines
from mathllm.errors import DataError
from mathllm.limits import MAX_LINE


def lines_of(raw: bytes, encoding: str = "utf-8") -> list[object]:
    return [line for batch in read_lines(io.TextIOWrapper(io.BytesIO(raw), encoding)) for line in batch]


def test_a_line_is_there_as_soon_as_it_is_sent() -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as stream, open(writing, "wb", buffering=0) as sender:
        batches = read_lines(stream)
        sender.write(b"1+1\n")
        assert next(batches) == ["1+1"]
        sender.write(b"2+2\r\n3+3\n4+")
        assert next(batches) == ["2+2", "3+3"]
        sender.write(b"4\n")
        assert next(batches) == ["4+4"]
        sender.write(b"5+5")
        sender.close()
        assert list(batches) == [["5+5"]]


def test_what_is_there_comes_in_batches() -> None:
    batches = list(read_lines(io.TextIOWrapper(io.BytesIO(b"12+34\n" * 40_000), "utf-8")))
    assert {len(batch) for batch in batches[:-1]} == {BATCH}
    assert sum(map(len, batches)) == 40_000


@given(st.lists(st.binary(max_size=5), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_lines_are_those_of_text(parts: list[bytes], end: bytes) -> None:
    raw = end.join(parts)
    # decoded whole: piece by piece Python loses a lone first byte of a byte order mark
    expected = io.StringIO(raw.decode("utf-8-sig", "replace"), newline=None).read().split("\n")
    assert lines_of(raw) == expected[: len(expected) - (expected[-1] == "")]


def test_a_byte_order_mark_is_passed_over() -> None:
    assert lines_of(b"\xef\xbb\xbf1+1\n2+2\n") == ["1+1", "2+2"]
    assert lines_of(b"1+1\n\xef\xbb\xbf2+2") == ["1+1", "\ufeff2+2"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_bytes_that_are_no_text(encoding: str) -> None:
    assert lines_of(b"\xff+1\n1+1", encoding) == ["\ufffd+1", "1+1"]


def test_no_stream_no_lines() -> None:
    assert list(read_lines(None)) == []
    assert lines_of(b"") == []


def test_long_lines_take_no_memory() -> None:
    class Endless(io.RawIOBase):
        sent = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            if self.sent > 40 * MAX_LINE:
                return 0
            text = b"1" * (1 << 16)
            if not self.sent % (10 * MAX_LINE):
                text = b"\n2+2\n" + text[5:]
            buffer[: len(text)] = text
            self.sent += len(text)
            return len(text)

    tracemalloc.start()
    found = [
        line
        for batch in read_lines(io.TextIOWrapper(io.BufferedReader(Endless(), 1 << 16)))
        for line in batch
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE
    errors = [line for line in found if isinstance(line, DataError)]
    assert len(errors) == 4
    assert errors[0].message == "a line of more than 1 MiB"
    assert found.count("2+2") == 5
