"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mathllm.errors import MathLLMError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes and flushes to disk; the file is whole or absent under its name."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MathLLMError(f"cannot write {path}: {error.strerror or error}", "is the disk full?") from error


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling directory to fill, which takes the name `path` when the block ends well.

    A directory of that name is replaced. When the block fails, nothing changes and the temporary one is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise MathLLMError(f"cannot write {path}: {error.strerror or error}", "is the disk full?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
