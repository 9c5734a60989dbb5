"""Where the result of a command goes, to stdout as text or as JSON, and to files; and its progress bar on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mathllm.errors import UsageError, visible
from mathllm.files import write_json


@dataclass(frozen=True)
class Output:
    """Prints a result as text, or as JSON, and writes it into a JSON `file`, too; `plot` is for a picture of it, and
    `more` for what else the command writes.

    Raises UsageError for files that could not be written: better now than after all the work.
    """

    as_json: bool = False
    file: Path | None = None
    plot: Path | None = None
    more: tuple[Path | None, ...] = ()

    def __post_init__(self) -> None:
        files = [path for path in (self.file, self.plot, *self.more) if path is not None]
        for path in files:
            parent = path.absolute().parent
            if not parent.is_dir():
                place = f"there is no directory {path.parent} to write {path.name} into"
                raise UsageError(place, "make it first")
            if path.is_dir():
                raise UsageError(f"{path} is a directory", "give the name of a file")
            if not os.access(parent, os.W_OK):
                raise UsageError(f"nothing can be written into {parent}", "choose another directory")
        if len({path.absolute() for path in files}) < len(files):
            raise UsageError("two outputs have the same file", "give them two names")
        if self.plot is not None:
            from mathllm.evaluation.plots import check_plot

            check_plot(self.plot)

    def give(self, document: Any, show: Callable[[Console], None]) -> None:
        """The result: a JSON document, or what `show` prints of it."""
        if self.as_json:
            print(json.dumps(document, indent=2))
        else:
            show(Console(highlight=False))
        if self.file is not None:
            write_json(self.file, document)


def tell(console: Console, text: str, style: str = "") -> None:
    """Prints a line that may quote from files, and may be as long as it likes."""
    console.print(visible(text), style=style, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes how much is done and how much there is, and draws it where stderr is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
