"""The `mathllm` command: one file per subcommand beside this one.

stdout is the result, stderr is progress and talk. Exit codes: 0 done, 1 failure, 2 usage, 3 threshold missed,
130 after Ctrl-C. Heavy imports live inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mathllm import __version__
from mathllm.cli.bench import bench
from mathllm.cli.chat import chat
from mathllm.cli.demo import demo
from mathllm.cli.eval import evaluate
from mathllm.cli.gen_data import gen_data
from mathllm.cli.solve import solve
from mathllm.cli.study import study
from mathllm.cli.thoughts import thoughts
from mathllm.cli.train import train
from mathllm.errors import MathLLMError, complain

EPILOG = "The main line: mathllm gen-data, mathllm train, mathllm eval, mathllm chat. To see all of it: mathllm demo."

app = typer.Typer(
    name="mathllm",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# in the order in which they are used
app.command("demo")(demo)
app.command("gen-data")(gen_data)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("chat")(chat)
app.command("solve")(solve)
app.command("study")(study)
app.command("thoughts")(thoughts)
app.command("bench")(bench)


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


def main() -> None:
    """The console script."""
    try:
        app()
    except MathLLMError as error:
        if os.environ.get("MATHLLM_TRACEBACK"):
            raise
        complain(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk, a file or a network drive that failed where nobody expected it
        if os.environ.get("MATHLLM_TRACEBACK"):
            raise
        complain(MathLLMError(f"the system refused: {error}", "mathllm --traceback COMMAND shows where"))
        sys.exit(1)
