"""The `mathllm` command: one file per subcommand beside this one.

stdout is the result, stderr is progress and talk. Exit codes: 0 done, 1 failure, 2 usage, 3 threshold missed,
130 after Ctrl-C, 143 after SIGTERM. Heavy imports live inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer

from mathllm import __version__
from mathllm.cli.options import NARROW
from mathllm.errors import MathLLMError, complain

FIRST_TELLS = 5.0  # seconds in which a process of torchrun leaves an error to the first one

EPILOG = "The main line: mathllm gen-data, mathllm train, mathllm eval, mathllm chat. To see all of it: mathllm demo."

app = typer.Typer(
    name="mathllm",
    no_args_is_help=True,
    rich_markup_mode=None if NARROW else "rich",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# in the order in which they are used: functions, each in a file of its command's name
COMMANDS = {
    "demo": "demo",
    "gen-data": "gen_data",
    "train": "train",
    "eval": "evaluate",
    "chat": "chat",
    "solve": "solve",
    "study": "study",
    "thoughts": "thoughts",
    "prove": "prove",
    "inspect": "inspect",
    "serve": "serve",
    "bench": "bench",
    "doctor": "doctor",
}
# what options were called before they had the same name in every command: still taken, and not in --help
RENAMED = {
    "demo": {"limit": "exhaustive", "steps": "max-steps"},
    "thoughts": {"examples": "max-examples"},
    "bench": {"size": "model-size"},
}


def renamed(command: str, option: str) -> str:
    """What an option of a command is called, its dashes left out."""
    return RENAMED.get(command, {}).get(option, option)


for command, function in COMMANDS.items():
    module = import_module(f"mathllm.cli.{command.replace('-', '_')}")
    how = {"token_normalize_func": partial(renamed, command), **getattr(module, "CONTEXT_SETTINGS", {})}
    app.command(command, context_settings=how)(getattr(module, function))


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mathllm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the Python traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train tiny transformers to calculate, exactly, and watch them reason."""
    if traceback:
        os.environ["MATHLLM_TRACEBACK"] = "1"


def out_of_memory(error: Exception) -> bool:
    """Is it memory that was missing? PyTorch says so in an error of no kind of its own."""
    wanted = "can't allocate memory", "not enough memory", "out of memory"
    return isinstance(error, MemoryError) or any(text in str(error) for text in wanted)


@app.command("help")
def explain(
    command: Annotated[str | None, typer.Argument(help="One of these commands.", show_default=False)] = None,
) -> None:
    """Explain a command, as its --help does."""
    app([*filter(None, [command]), "--help"], prog_name="mathllm")


def main() -> None:
    """The console script."""
    # bytes that are no text in this encoding, and text that it cannot show, never end a command
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        with terminable():
            app()
    except (MathLLMError, OSError, MemoryError, RuntimeError) as error:
        if os.environ.get("MATHLLM_TRACEBACK"):
            raise
        # a disk, a file or a network drive that failed where nobody expected it
        if isinstance(error, OSError):
            error = MathLLMError(f"the system refused: {error}", "mathllm --traceback COMMAND shows where")
        elif out_of_memory(error):
            error = MathLLMError(
                "there is not enough memory for this", "try smaller sizes, lengths or batches"
            )
        elif not isinstance(error, MathLLMError):
            raise
        if os.environ.get("RANK", "0") != "0":
            # most errors are those of all processes, and the first tells them: torchrun ends the others then
            time.sleep(FIRST_TELLS)
        complain(error)
        sys.exit(error.exit_code)


@contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM end the block like Ctrl-C, so that what it was writing is cleared up; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
