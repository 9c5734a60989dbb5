"""Writing files so that a crash, a kill or a full disk never leaves half of one; reading those of the package."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from mathllm.errors import MathLLMError, UsageError, unknown_choice
from mathllm.limits import MAX_DOCUMENT, MAX_RECIPE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# what these functions call a thing until it is whole (`tmp`), or while its successor takes its place (`old`)
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-\d+")

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_HANDLES: set[int] = set()  # of the files that this process holds


def _let_go() -> None:
    """A forked process holds nothing of its parent's: a file that it held would stay so after the parent's death."""
    for handle in _HANDLES:
        os.close(handle)
    _HANDLES.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an OSError of the block into a MathLLMError: `cannot WHAT: No space left on device`."""
    try:
        yield
    except OSError as error:
        hint = "make room there, or choose another place" if error.strerror else None
        raise MathLLMError(f"cannot {what}: {error.strerror or error}", hint) from error


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """A file that belongs to this process during the block, and is deleted after it; made where there is none.

    The kernel lets go of it when the process dies, so what can be held is nobody's. Gives False on a file system
    without locks, where nothing is held. Raises BlockingIOError where another process (or thread) holds it.
    """
    handle, alone = _hold(path)
    _HANDLES.add(handle)
    try:
        yield alone
    finally:
        if handle in _HANDLES:
            _HANDLES.discard(handle)
            path.unlink(missing_ok=True)
            os.close(handle)


def _hold(path: Path) -> tuple[int, bool]:
    while True:
        # not to be inherited by programs that are started, like all that Python opens
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle, False
            os.close(handle)
            raise
        with suppress(FileNotFoundError):  # whoever held it may have deleted it since it was opened
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle, True
        os.close(handle)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write, which takes the name `path` when the block ends well: the file is whole or
    absent. What killed processes left of it goes."""
    temporary = _beside(path, "tmp")
    with explained(f"write {path}"), held(temporary) as alone:
        for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-*") if alone else ():
            if _LEFTOVER.fullmatch(left.name):
                with suppress(OSError), held(left):  # it is nobody's any more, or it could not be held
                    pass
        yield temporary
        sync(temporary)
        os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes and flushes to disk; the file is whole or absent under its name."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling directory to fill, which takes the name `path` when the block ends well.

    A directory of that name is replaced. When the block fails, nothing changes and the temporary one is
    removed; what a kill leaves behind is for `remove_leftovers`.
    """
    temporary, old = _beside(path, "tmp"), _beside(path, "old")
    with explained(f"write {path}"):
        try:
            remove_leftovers(path.parent, lambda name: name == path.name)
            temporary.mkdir(parents=True)
            yield temporary
            sync(temporary)
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
            sync(path.parent)
        except BaseException:
            if old.exists() and not path.exists():
                os.rename(old, path)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Deletes a directory; killed in the middle, it leaves none that looks whole."""
    doomed = _beside(path, "tmp")
    with explained(f"delete {path}"):
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def remove_leftovers(directory: Path, ours: Callable[[str], bool]) -> None:
    """Removes what killed processes left unfinished of the files and directories whose names are `ours`.

    Nobody else may be writing there. What was about to be replaced, and has not been, gets its name back.
    """
    for path in directory.glob(".*-*"):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or not ours(match["name"]):
            continue
        target = directory / match["name"]
        if match["kind"] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def leftover_of(name: str) -> str | None:
    """The name of the file or directory that one of this name was to become, None if it is no such thing."""
    match = _LEFTOVER.fullmatch(name)
    return match["name"] if match else None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}")


def sync(*paths: Path) -> None:
    """Waits until files, or the names in directories, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_document(path: Path, most: int = MAX_DOCUMENT) -> bytes:
    """A file that is read whole. Raises OSError for what is no regular file (a pipe would be waited for), ValueError
    for more than `most` bytes."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_json(path: Path) -> Any:
    """A JSON document. Raises OSError or ValueError where a file holds none."""
    try:
        return json.loads(read_document(path).decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_names(folder: str) -> list[str]:
    """The TOML files in a folder of the package, by name."""
    entries = (resources.files("mathllm") / folder).iterdir()
    return sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".toml"))


def load_toml(kind: str, folder: str, name: str) -> dict[str, Any]:
    """What a TOML file of that folder of the package says, or one anywhere; `kind` is what errors call it.

    Raises UsageError where there is none, and where it is not TOML.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            known = ", ".join(toml_names(folder))
            raise UsageError(f"there is no {kind} file {name}", f"the package has: {known}")
    elif name in toml_names(folder):
        path = Path(str(resources.files("mathllm") / folder / f"{name}.toml"))
    else:
        raise unknown_choice(kind, name, toml_names(folder))
    try:
        return tomllib.loads(read_document(path, MAX_RECIPE).decode())
    except ValueError as error:  # TOMLDecodeError is one, and so is UnicodeDecodeError
        raise UsageError(f"{kind} {name} is not valid TOML: {error}") from error
    except RecursionError:
        raise UsageError(f"{kind} {name} is nested too deeply") from None
