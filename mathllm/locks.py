"""One process at a time: who writes into a directory locks it, and says so to whoever comes second."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mathllm.errors import MathLLMError, UsageError, remark
from mathllm.files import held

LOCK = ".mathllm.lock"


def check_place(directory: Path) -> None:
    """Raises UsageError for what is there and is no directory."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", "choose another --output-dir")


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Keeps others that ask, too, out of a directory during the block; `what` is running there, as they are told.

    The directory is made if need be, and goes again if it stays empty. What a dead process left is no obstacle.
    Raises UsageError for what is no directory, MathLLMError where somebody else is at work there, and OSError where
    nothing can be written.
    """
    check_place(directory)
    made = [place for place in (directory, *directory.parents) if not place.exists()]
    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                alone = stack.enter_context(held(path))
            except BlockingIOError:
                raise _occupied(path) from None
            if not alone:
                remark(f"{directory} is on a disk without locks: let nobody else write there")
            since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
            said = {"what": what, "pid": os.getpid(), "host": platform.node(), "since": since}
            path.write_text(json.dumps(said) + "\n", encoding="utf-8")
            yield
    finally:
        for place in made:
            with suppress(OSError):  # it is in use by now
                place.rmdir()


def _occupied(path: Path) -> MathLLMError:
    """The error for a directory that another process has locked."""
    hint = "wait for its end, or choose another --output-dir"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        what, who = said["what"], f"process {said['pid']} on {said['host']}, since {said['since']}"
        if said["host"] == platform.node():  # elsewhere that number is another process, or none
            hint = f"wait for its end, stop it (kill {said['pid']}), or choose another --output-dir"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        what, who = "something", "another process"
    return MathLLMError(f"{what} is running in {path.parent} ({who})", hint)
