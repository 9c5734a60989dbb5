"""`mathllm chat`: the chat on a terminal, with line editing and a history; or line by line through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from mathllm.cli import options
from mathllm.cli.lines import read_lines
from mathllm.cli.options import number
from mathllm.errors import remark


@options.not_needed(model_size="the checkpoint knows it")
def chat(
    *,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    max_new_tokens: Annotated[
        int | None, number("Of an answer, thought included; the model's room by default.", options.SAMPLING)
    ] = None,
) -> None:
    """Talk to a model: type a problem and watch it being worked out.

    Without a terminal, every line of input gives one line: the answer, or nothing.

    Without --checkpoint the newest run is asked, and another one that has learned
    such problems where it has not; the models that ship come last. It is said
    which of them answers.

    \b
    mathllm chat
    mathllm chat --checkpoint checkpoints/addsub-3digit
    mathllm chat --temperature 0.8 --top-k 4
    echo 12+34 | mathllm chat
    """
    from mathllm.chat import Chat, answer_lines
    from mathllm.device import pick_device
    from mathllm.inference.sampling import SamplingParams
    from mathllm.models import find_models
    from mathllm.working import make_console

    params = SamplingParams(temperature, top_k, top_p)
    models = find_models(checkpoint, pick_device(device), remark)
    how: dict[str, Any] = {"params": params, "seed": seed, "most": max_new_tokens}
    if sys.stdin is not None and sys.stdin.isatty():
        Chat(models, make_console(), line_reader(), **how).run()
        return
    chat = Chat(models, make_console(sys.stderr), input, **how)
    if not answer_lines(chat, chain.from_iterable(read_lines(sys.stdin)), sys.stdout):
        raise typer.Exit(1)


def history_path() -> Path:
    """Where line history is kept; see the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local/state") / "mathllm/history"


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
