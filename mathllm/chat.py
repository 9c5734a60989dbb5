"""The chat: a read-line function and a console, and in between the model that works out what is typed.

On a terminal the steps of a thought come one a line, as the model writes them; `answer_lines` is the same for
pipes: lines in, answers out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import IO

import numpy as np
import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mathllm.errors import (
    ExpressionError,
    MathLLMError,
    UsageError,
    check_choice,
    complain,
    remark,
    unknown_choice,
    visible,
)
from mathllm.flags import listed
from mathllm.formats import Rendered
from mathllm.inference.engine import Step
from mathllm.inference.sampling import GREEDY, SamplingParams
from mathllm.inference.texts import most_tokens
from mathllm.limits import MAX_LENGTH, check_range
from mathllm.math_model import MathModel, is_unfinished
from mathllm.models import Models, find_models
from mathllm.tasks import extent
from mathllm.tasks.expressions import expressions, split_answer
from mathllm.working import (
    ANSWER,
    INDENT,
    TALK,
    WRONG,
    answer_text,
    check_stated,
    never_saw,
    remarks,
    say_stated,
    token_table,
    work_out,
)

PROMPT = "> "

HELP = (
    ("658+189", "a problem; a = at the end is welcome too"),
    ("658+", "an unfinished one: the model chooses the last number"),
    ("/temperature [T]", "show or set the temperature; 0 always takes the likeliest token"),
    ("/tokens [on|off]", "ids and probabilities of the last answer, or of every one from now on"),
    ("/checkpoint [PATH]", "show the model, or change to another one"),
    ("/help", "this list"),
    ("quit, exit, Ctrl-D", "leave; Ctrl-C stops an answer"),
)


# commands that may stand without their slash only if they stand alone
BARE = ("/help", "/quit", "/exit")


class Chat:
    """A conversation with models, of which for each problem one is chosen: `read_line` is called with the prompt and
    raises EOFError at the end.

    `params` are how tokens are drawn, with random numbers from `seed` on; no answer has more than `most` tokens.
    """

    def __init__(
        self,
        models: Models,
        console: Console,
        read_line: Callable[[str], str],
        *,
        params: SamplingParams = GREEDY,
        seed: int = 0,
        most: int | None = None,
    ) -> None:
        self.models, self.console, self.read_line = models, console, read_line
        self.model = models.first
        self.params, self.most = params, most
        check_range("seed", seed, 0, 2**63 - 1)
        if most is not None:
            check_range("the most tokens of an answer", most, 1, MAX_LENGTH)
        self.generator = torch.Generator(self.model.device).manual_seed(seed)
        self.commands: dict[str, Callable[[str], bool]] = {
            "/help": self.help,
            "/temperature": self.temperature,
            "/tokens": self.tokens,
            "/checkpoint": self.checkpoint,
            "/quit": lambda _: False,
            "/exit": lambda _: False,
        }
        self.show_tokens = False
        self.asked: Rendered | None = None  # the last problem
        self.written: list[Step] = []  # what the model answered to it

    def run(self) -> None:
        """Reads and answers until the end of the input or `quit`."""
        task, digits = self.model.tasks[0], self.model.data.max_digits
        example = task.example if task.one_digit else f"{'658'[:digits]}{task.symbol}{'189'[:digits]}"
        self.say(*self.description(), f"type a problem like {example}, or /help; Ctrl-D leaves")
        while True:
            try:
                self.console.print()
                line = self.read_line(PROMPT)
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                continue
            try:
                if not self.handle(line):
                    return
            except KeyboardInterrupt:
                self.console.print()
                self.say("stopped")
            except MathLLMError as error:
                self.show_error(error, line)

    def handle(self, line: str) -> bool:
        """Answers one line; False if it asks to leave. Raises MathLLMError for what cannot be done."""
        words = line.split(None, 1)
        if not words:
            return True
        if self.is_command(line):
            name = "/" + words[0].lower().lstrip("/")
            meant = [command for command in self.commands if command.startswith(name)]
            if len(meant) != 1:  # the whole name, or too little of one
                check_choice("command", name, self.commands)
                meant = [name]
            return self.commands[meant[0]](words[1].strip() if len(words) > 1 else "")
        self.ask(line)
        return True

    def is_command(self, line: str) -> bool:
        """Commands start with a slash, but for `quit` and the others nobody has to remember that; what is more than
        the command is none then, unless that takes more."""
        first, *more = line.split(None, 1) or [""]
        plain = "/" + first.lower() in self.commands and not (more and "/" + first.lower() in BARE)
        return first.startswith("/") or plain

    def problem(self, line: str) -> tuple[Rendered, list[str]]:
        """The problem in a line for the model that is chosen for it, which finishes it if need be, and what is odd
        about it. Where there is none, the model stays what it was."""
        unfinished = is_unfinished(line)
        ((model, _),) = self.models.choose([line + "1" * unfinished])
        asked = model.finish(line, self.params, self.generator) if unfinished else model.ask(line)
        self.model = model
        notes = list(map(never_saw, model.unseen(asked.problems)))
        if unfinished:
            chosen = expressions(asked.problems)[0]
            notes.insert(0, f"the model chose {chosen} (it was trained only on what follows the =)")
        return asked, notes

    def ask(self, line: str) -> None:
        """Streams what the model makes of a problem."""
        problem, stated = split_answer(line)
        before = self.model
        asked, notes = self.problem(problem)
        if self.model is not before:
            notes.insert(0, self.models.introduce(self.model, expressions(asked.problems)[0]))
        self.say(*notes)
        self.asked, self.written = asked, []
        steps = self.model.stream(asked, self.params, self.generator, self.most)
        solution = work_out(self.model, asked, steps, self.console, self.written)
        say_stated(solution, stated, self.console)
        if self.show_tokens:
            self.console.print(token_table(self.asked, self.written, self.console.width))

    # the commands: each is given what follows its name, and returns False to leave

    def help(self, _: str) -> bool:
        table = Table.grid(padding=(0, 2))
        for what, meaning in HELP:
            table.add_row(Text(INDENT + what, ANSWER), meaning)
        self.console.print(table)
        return True

    def temperature(self, value: str) -> bool:
        if value:
            try:
                temperature = float(value)
            except ValueError:
                raise UsageError(f"a temperature is a number like 0.8, not {value!r}") from None
            self.params = replace(self.params, temperature=temperature)
        temperature = self.params.temperature
        self.say(f"temperature {temperature:g}{' (always the likeliest token)' if temperature == 0 else ''}")
        return True

    def tokens(self, value: str) -> bool:
        if value.lower() in ("on", "off"):
            self.show_tokens = value.lower() == "on"
            self.say(f"tokens are shown {'after every answer' if self.show_tokens else 'by /tokens only'}")
        elif value:
            raise unknown_choice("setting of /tokens", value, ("on", "off"))
        elif self.asked is None:
            self.say("there is no answer yet")
        else:
            self.console.print(token_table(self.asked, self.written, self.console.width))
        return True

    def checkpoint(self, path: str) -> bool:
        if path:
            models = find_models(os.path.expanduser(path), self.model.device)
            self.model, self.models = models.first, models
            self.asked, self.written = None, []
        self.say(*self.description())
        return True

    def description(self) -> list[str]:
        """What one should know about the model, and who else may answer, before talking to it."""
        others = self.models.others(self.model)
        named = ", ".join(others[:3]) + (f" and {len(others) - 3:,} more" if len(others) > 3 else "")
        return description(self.model) + [f"what it has not learned, another may answer: {named}"] * bool(
            others
        )

    def say(self, *texts: str, style: str = TALK) -> None:
        """Talk, which is neither a thought nor an answer, wrapped between words."""
        for text in texts:
            self.console.print(Padding(Text(visible(text), style), (0, 0, 0, len(INDENT)), expand=False))

    def show_error(self, error: MathLLMError, line: str) -> None:
        """The caret under what was typed, the message, and the hint."""
        if isinstance(error, ExpressionError):
            shown, caret = error.caret(max(20, self.console.width - 2 * len(INDENT))).split("\n")
            for text in [caret] if shown == line else [shown, caret]:
                self.console.out(INDENT + text, style=WRONG)
        self.say(error.message, style=WRONG)
        if error.hint:
            self.say(error.hint)


def description(model: MathModel) -> list[str]:
    """What one should know about a model before talking to it."""
    names = listed((task.name for task in model.tasks), "and")
    return [
        f"{model.path}: {model.model.num_parameters:,} parameters",
        f"trained on {names} {extent(model.data.task, model.scope.size)}"
        + ("" if model.scope.in_integers else f", {model.scope.meaning}"),
        f"{model.format.name} format: {model.format.summary}",
    ]


def answer_lines(chat: Chat, lines: Iterable[str | MathLLMError], out: IO[str]) -> bool:
    """Without a terminal: one line of `out` for each line that is no command, and all talk on stderr.

    The line is empty where there is no answer. Returns whether every line could be read and asked.
    """
    all_good = True
    introduced: list[MathModel] = []
    for number, line in enumerate(lines, 1):
        command, answer = False, ""
        try:
            if isinstance(line, MathLLMError):
                raise line
            line = line.rstrip("\r\n")
            command = chat.is_command(line)
            if command and not chat.handle(line):
                break
            if line.strip() and not command:
                answer = _answer_line(chat, line, number, introduced)
        except MathLLMError as error:
            all_good = False
            complain(error, f"line {number}: ")
        if not command:
            print(answer, file=out, flush=True)
    return all_good


def _answer_line(chat: Chat, line: str, number: int, introduced: list[MathModel]) -> str:
    """The answer to a line, with notes on stderr; each model is introduced once."""
    problem, stated = split_answer(line)
    asked, notes = chat.problem(problem)
    if chat.model not in introduced:
        introduced.append(chat.model)
        if news := chat.models.introduce(chat.model, expressions(asked.problems)[0]):
            remark(news)
    limits = np.minimum(most_tokens(asked), chat.most or chat.model.max_length)
    written = chat.model.complete(asked, params=chat.params, generator=chat.generator, limits=limits)
    (solution,) = chat.model.read(written)
    for note in [*notes, *remarks(solution), *check_stated(solution, stated)[1]]:
        remark(f"line {number}: {note}")
    answer = answer_text(solution)
    return f"{solution.expression}={answer}" if is_unfinished(problem) else answer
