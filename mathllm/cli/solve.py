"""`mathllm solve`: answers to expressions, once: worked out for a person, one word a line for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mathllm
from mathllm.cli import options
from mathllm.cli.chat import forgive_bytes
from mathllm.errors import ExpressionError, MathLLMError, UsageError, complain

if TYPE_CHECKING:
    from mathllm.math_model import MathModel, Solution

BATCH = 1024  # lines that are read before they are answered together
SHOWN = 10  # wrong answers that are told one by one


def solve(
    expressions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPRESSION",
            help="Such as 12+34; without any, or with -, one a line from stdin",
            show_default=False,
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer expressions: the worked solution on a terminal, just the answer in a pipe.

    Every line of stdin gives one line: the answer, or nothing. --json prints a document a line, with the
    reasoning and the confidence, and skips blank lines.

    Exit code 1: an expression could not be read, or does not fit the model.
    A wrong answer is no failure, but is told on stderr.

    \b
    mathllm solve 658+189
    mathllm solve --json 658+189 99+1
    mathllm solve < problems.txt
    """
    from_stdin = not expressions or expressions == ["-"]
    if from_stdin and not expressions and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("there is nothing to solve", "for example: mathllm solve 658+189")

    from mathllm.chat import make_console

    model = mathllm.load(checkpoint, device)
    forgive_bytes()
    if from_stdin:
        good = answer_all(model, (line.rstrip("\r\n") for line in sys.stdin or ()), as_json, numbered=True)
    elif sys.stdout.isatty() and not as_json:
        good = all([work_out_one(model, text, make_console()) for text in expressions or ()])
    else:
        good = answer_all(model, expressions or (), as_json, numbered=False)
    if not good:
        raise typer.Exit(1)


def work_out_one(model: MathModel, text: str, console: Any) -> bool:
    """The worked solution, as the chat shows it; False if there is none."""
    from mathllm.chat import work_out

    try:
        asked = model.ask(text)
        for unseen in model.unseen(asked.problems):
            print(f"note: in training this model never saw {unseen}", file=sys.stderr)
        work_out(model, asked, model.stream(asked), console, [])
    except MathLLMError as error:
        complain(error)
        return False
    return True


def answer_all(model: MathModel, texts: Iterable[str], as_json: bool, numbered: bool) -> bool:
    """A line for each text, in batches; `numbered` texts are lines of a file, of which some may be blank.

    Returns whether all that is not blank could be read and asked.
    """
    from mathllm.chat import answer_text, remarks

    bad = wrong = answered = 0
    for number, text, outcome in outcomes(model, texts, numbered):
        where = f"line {number}: " if numbered else ""
        if as_json and outcome is not None:
            print(json.dumps(document(model, text, outcome), allow_nan=False))
        if isinstance(outcome, MathLLMError):
            bad += 1
            complain(outcome, where)
        elif outcome is not None:
            answered += 1
            wrong += not outcome.correct
            for note in remarks(outcome) if wrong <= SHOWN else []:
                print(f"note: {where}{note}", file=sys.stderr)
        if not as_json:
            print("" if outcome is None or isinstance(outcome, MathLLMError) else answer_text(outcome))
    if wrong > SHOWN:
        note = f"{wrong:,} of {answered:,} answers are wrong; the first {SHOWN} are above"
        print(f"note: {note}", file=sys.stderr)
    return bad == 0


def outcomes(
    model: MathModel, texts: Iterable[str], blanks: bool
) -> Iterator[tuple[int, str, Solution | MathLLMError | None]]:
    """Each text with its number from 1 and its solution, its error, or None where it may be blank and is."""
    numbered = enumerate(texts, 1)
    while batch := list(islice(numbered, BATCH)):
        asked = [text for _, text in batch if text.strip() or not blanks]
        answers = iter(model.try_many(asked))
        for number, text in batch:
            yield number, text, next(answers) if text.strip() or not blanks else None


def document(model: MathModel, text: str, outcome: Solution | MathLLMError) -> dict[str, Any]:
    """What --json prints about one expression."""
    if isinstance(outcome, MathLLMError):
        position = {"position": outcome.position} if isinstance(outcome, ExpressionError) else {}
        return {"expression": text, "error": outcome.message, **position}
    return {**asdict(outcome), "checkpoint": str(model.path)}
