"""`mathllm solve`: answers to expressions, once: worked out for a person, one word a line for a program."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from mathllm.cli import options
from mathllm.cli.lines import Line, read_lines
from mathllm.errors import ExpressionError, MathLLMError, UsageError, complain, remark, unknown_choice

if TYPE_CHECKING:
    from mathllm.math_model import MathModel, Solution
    from mathllm.models import Models

SHOWN = 10  # notes of one kind that are told one by one
# or -5+3 would be an option that there is not
CONTEXT_SETTINGS = {"ignore_unknown_options": True}


def _words(context: typer.Context, words: list[str] | None) -> list[str]:
    """The expressions on a command line. Raises UsageError for what looks like an option, and not like a number below
    zero."""
    for word in words or ():
        if re.match(r"--?[^\W\d]", word):
            known = [name for parameter in context.command.params for name in parameter.opts]
            raise unknown_choice("option", word, [name for name in known if name.startswith("-")])
    return joined(words or ())


def joined(words: Iterable[str]) -> list[str]:
    """Expressions from the words of a command line, where one with spaces in it may have come as several.

    An operator that stands alone goes with the words on both sides; one at an end of a word with the word there if
    that is a number alone, since `7+ 12+34` are two."""
    from mathllm.tasks.expressions import fold

    texts: list[str] = []
    last = ""
    for word in words:
        before, last = last, fold(word).strip()
        goes_on = re.fullmatch("[-+*/%=]", last) or (before.isdigit() and re.match("[-+*/%=]", last))
        opened = re.fullmatch("[-+*/%]", before) or (last.isdigit() and re.search("[-+*/%]$", before))
        stated = before.endswith("=") and re.fullmatch("-?[0-9]+", last)
        if texts and texts != ["-"] and (goes_on or opened or stated):
            texts[-1] += " " + word
        else:
            texts.append(word)
    return texts


def solve(
    expressions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPRESSION",
            help="Such as 12+34, or 12+34=46 to have it checked; without any, or with -, one a line from stdin.",
            show_default=False,
            callback=_words,
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer expressions: the worked solution on a terminal, just the answer in a pipe.

    Every line of stdin gives one line: the answer, or nothing; a line of more than
    1 MiB is an error. Lines are answered as they come, many at once where many are
    there. --json prints a document a line, with the reasoning, the confidence and
    what the model has never seen of such a problem, and skips blank lines.

    Without --checkpoint the newest run that has learned such problems answers,
    else a model that ships, and stderr says which.

    Exit code 1: an expression could not be read, or does not fit the model.
    A wrong answer is no failure, but is told on stderr.

    \b
    mathllm solve 658+189
    mathllm solve 12+34=46
    mathllm solve --json 658+189 99+1
    mathllm solve < problems.txt
    """
    texts = expressions or []
    from_stdin = not texts or texts == ["-"]
    if from_stdin and not texts and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("there is nothing to solve", "for example: mathllm solve 658+189")

    from mathllm.device import pick_device
    from mathllm.models import find_models

    models = find_models(checkpoint, pick_device(device), say)
    if from_stdin:
        good = answer_all(models, read_lines(sys.stdin), as_json, numbered=True)
    elif sys.stdout.isatty() and not as_json:
        talk = Talk(models)
        good = all([work_out_one(models, text, talk) for text in texts])
    else:
        good = answer_all(models, [texts], as_json, numbered=False)
    if not good:
        raise typer.Exit(1)


class Solved(NamedTuple):
    """An answer to a text, by which model; `stated` is the one that stood in the text itself, if any."""

    stated: str
    model: MathModel
    solution: Solution

    def document(self) -> dict[str, Any]:
        """What --json prints: numbers of any length are exact as texts alone."""
        answer, expected = self.solution.answer, str(self.solution.expected)
        numbers = {"answer": None if answer is None else str(answer), "expected": expected}
        stated = {"stated": self.stated, "stated_correct": self.stated == expected} if self.stated else {}
        return {**asdict(self.solution), **numbers, **stated, "checkpoint": str(self.model.path)}


class Talk:
    """What is said on stderr beside errors: which model answers, and notes, of each kind no more than SHOWN."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.introduced: list[MathModel] = []
        self.answered = 0
        self.notes: Counter[str] = Counter()

    def introduce(self, model: MathModel, text: str, again: bool = False) -> None:
        """Which model answers a text, where it was not named: the first time, and `again` after another one has."""
        if model not in (self.introduced[-1:] if again else self.introduced):
            self.introduced.append(model)
            say(self.models.introduce(model, text))

    def about(self, one: Solved, where: str) -> None:
        """What there is to say of an answer."""
        from mathllm.working import check_stated, never_saw, remarks

        self.introduce(one.model, one.solution.expression)
        self.answered += 1
        true, stated = check_stated(one.solution, one.stated)
        self.note("problems are unlike those of training", map(never_saw, one.solution.unseen), where)
        self.note("answers are wrong", remarks(one.solution), where)
        self.note(f"stated answers are {'true' if true else 'not true'}", stated, where)

    def note(self, kind: str, texts: Iterable[str], where: str) -> None:
        """Notes of one kind on one answer."""
        for place, text in enumerate(texts):
            self.notes[kind] += place == 0
            if self.notes[kind] <= SHOWN:
                say(where + text)

    def sum_up(self) -> None:
        """How many notes have been left out."""
        for kind, count in self.notes.items():
            if count > SHOWN:
                say(f"{count:,} of {self.answered:,} {kind}; the first {SHOWN} are above")


def say(text: str) -> None:
    """A note on stderr."""
    if text:
        remark(text)


def work_out_one(models: Models, text: str, talk: Talk) -> bool:
    """The worked solution, as the chat shows it; False if there is none."""
    from mathllm.tasks.expressions import split_answer
    from mathllm.working import make_console, never_saw, say_stated, work_out

    try:
        problem, stated = split_answer(text)
        model = models.choose([problem])[0][0]
        asked = model.ask(problem)
        talk.introduce(model, problem, again=True)
        for unseen in model.unseen(asked.problems):
            say(never_saw(unseen))
        console = make_console()
        solution = work_out(model, asked, model.stream(asked), console, [])
        say_stated(solution, stated, console)
    except MathLLMError as error:
        complain(error)
        return False
    return True


def answer_all(models: Models, batches: Iterable[Sequence[Line]], as_json: bool, numbered: bool) -> bool:
    """A line for each text, in batches; `numbered` texts are lines of a file, of which some may be blank.

    Returns whether all that is not blank could be read and asked.
    """
    from mathllm.working import answer_text

    talk = Talk(models)
    bad = before = 0
    for batch in batches:
        for number, (text, result) in enumerate(outcomes(models, batch, numbered), before + 1):
            where, answer = f"line {number}: " if numbered else "", ""
            if isinstance(result, MathLLMError):
                bad += 1
                complain(result, where)
            elif result is not None:
                talk.about(result, where)
                answer = answer_text(result.solution)
            if not as_json:
                print(answer)
            elif result is not None:
                print(json.dumps(document(text, result), allow_nan=False))
        before += len(batch)
        sys.stdout.flush()  # whoever has sent a line may be waiting for this
    talk.sum_up()
    return bad == 0


def outcomes(
    models: Models, lines: Sequence[Line], blanks: bool
) -> list[tuple[str, Solved | MathLLMError | None]]:
    """Each line with its answer or its error; where lines may be blank (`blanks`), None for those that are."""
    from mathllm.tasks.expressions import split_answer

    found: dict[int, Solved | MathLLMError] = {}
    asked: dict[int, tuple[str, str]] = {}
    texts = ["" if isinstance(line, MathLLMError) else line for line in lines]
    for row, line in enumerate(lines):
        if isinstance(line, MathLLMError):
            found[row] = line
        elif line.strip() or not blanks:
            try:
                asked[row] = split_answer(line)
            except ExpressionError as error:
                found[row] = error
    answers = models.try_many([problem for problem, _ in asked.values()])
    for (row, (_, stated)), (model, result) in zip(asked.items(), answers, strict=True):
        if isinstance(result, MathLLMError):
            found[row] = result
        else:
            found[row] = Solved(stated, model, result)
    return [(text, found.get(row)) for row, text in enumerate(texts)]


def document(text: str, result: Solved | MathLLMError) -> dict[str, Any]:
    """What --json prints of a line."""
    if isinstance(result, Solved):
        return result.document()
    position = {"position": result.position} if isinstance(result, ExpressionError) else {}
    return {"expression": text, "error": result.message, **position}
