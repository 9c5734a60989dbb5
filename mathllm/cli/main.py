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
from mathllm.cli.chat import chat
from mathllm.cli.demo import demo
from mathllm.cli.eval import evaluate
from mathllm.cli.gen_data import gen_data
from mathllm.cli.solve import solve
from mathllm.cli.train import train
from mathllm.errors import ExpressionError, MathLLMError

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


def show_error(error: MathLLMError) -> None:
    """What happened, where, and what mends it, on stderr."""
    print(f"error: {error.message}", file=sys.stderr)
    if isinstance(error, ExpressionError):
        print("  " + error.caret().replace("\n", "\n  "), file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def main() -> None:
    """The console script."""
    try:
        app()
    except MathLLMError as error:
        if os.environ.get("MATHLLM_TRACEBACK"):
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output has gone (`mathllm ... | head`): that is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
