"""`mathllm chat`: the chat on a terminal, with line editing and a history; or line by line through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

MODEL, SAMPLING = "Model", "Sampling"

EPILOG = """Examples: [cyan]mathllm chat[/]; [cyan]mathllm chat --checkpoint checkpoints/addsub-3digit[/];
[cyan]mathllm chat --temperature 0.8 --top-k 4[/]; [cyan]echo 12+34 | mathllm chat[/] (answers only)."""


def chat(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint, or the run that holds it (default: the newest under checkpoints/)",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N", rich_help_panel=MODEL)] = "auto",
    temperature: Annotated[
        float, typer.Option(help="0 always takes the likeliest token", rich_help_panel=SAMPLING)
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option(help="Only the k likeliest tokens; 0: all", rich_help_panel=SAMPLING)
    ] = 0,
    top_p: Annotated[
        float, typer.Option(help="Only the likeliest tokens of this mass; 1: all", rich_help_panel=SAMPLING)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling", rich_help_panel=SAMPLING)] = 0,
) -> None:
    """Talk to a model: type a problem and watch it being worked out.

    Without a terminal, every line of input gives one line: the answer, or nothing.
    """
    from mathllm.chat import Chat, answer_lines, make_console
    from mathllm.checkpoint import load_checkpoint
    from mathllm.device import pick_device
    from mathllm.inference.sampling import SamplingParams
    from mathllm.inference.solver import Solver

    params = SamplingParams(temperature, top_k, top_p)
    solver = Solver(load_checkpoint(checkpoint, pick_device(device)), params, seed)
    forgive_bytes()
    if sys.stdin is not None and sys.stdin.isatty():
        Chat(solver, make_console(), line_reader()).run()
    elif not answer_lines(Chat(solver, make_console(sys.stderr), input), sys.stdin or (), sys.stdout):
        raise typer.Exit(1)


def forgive_bytes() -> None:
    """Bytes that are no text in the terminal's encoding, or text that it cannot show, never end a chat."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def history_path() -> Path:
    """Where line history is kept; see the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return home / "mathllm" / "history"


def line_reader() -> Callable[[str], str]:
    """`input` with line editing and a history, kept after every line in a file that only its owner can read.

    Where there is no readline, or no place for the file, the chat goes without.
    """
    try:
        import readline

        path = history_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # private from its first byte
        os.chmod(path, 0o600)
        readline.set_history_length(1000)
        readline.read_history_file(path)
    except (ImportError, OSError, RuntimeError):
        return input

    def read_line(prompt: str) -> str:
        line = input(prompt)
        with suppress(OSError):
            readline.write_history_file(path)
        return line

    return read_line
