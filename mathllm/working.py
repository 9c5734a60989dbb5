"""A problem being worked out, as people see it: the steps of a thought as they come, the answer, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import IO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mathllm.formats import Rendered
from mathllm.inference.engine import CUT, ENDED, Step
from mathllm.inference.texts import Written
from mathllm.math_model import MathModel, Solution
from mathllm.percent import percent_sure
from mathllm.tasks.expressions import expressions
from mathllm.tokenizer import END, TOKENS, decode

INDENT = "  "  # as wide as the chat's prompt, so that a caret stands under what was typed
MEANING = "\t"  # begins what a row says, in a thought laid out
MARGIN = 12  # columns of a row, and of the space behind it, besides its digits
THOUGHT, ANSWER, RIGHT, WRONG, TALK = "cyan", "bold", "green", "red", "dim"  # styles


def make_console(file: IO[str] | None = None) -> Console:
    """A console, by default on standard output, that prints texts as they are."""
    return Console(file=file, highlight=False, markup=False, emoji=False)


def work_out(
    model: MathModel, asked: Rendered, steps: Iterable[Step], console: Console, written: list[Step]
) -> Solution:
    """Shows a problem being solved step by step, and whether it came out right; `written` is filled with the
    steps."""
    prompt = asked.ids[0, : asked.prompt_lengths[0]]
    equation = f"{INDENT}{expressions(asked.problems)[0]} = "
    # an answer that starts with its units is shown as it is written first, and the right way round then
    backwards = model.format.least_significant_first
    lead, style = (INDENT + decode(prompt), THOUGHT) if backwards else (equation, ANSWER)
    page = Page(console, lead, style, partial(layout, model, asked, console.width))
    ids: list[int] = []
    for step in steps:
        written.append(step)
        ids.append(int(step.ids[0]))
        page.show(ids, done=False)
    page.show(ids, done=True)
    text = np.array([[*prompt, *ids]], np.uint8)
    reasons = np.array([ENDED if ids[-1:] == [END] else CUT], np.uint8)
    likely = np.array([[float(step.log_probs[0]) for step in written]], np.float32)
    lengths = np.array([text.shape[1]])
    (solution,) = model.read(Written(asked.problems, text, lengths, asked.prompt_lengths, reasons, likely))
    if backwards and answer_text(solution):
        page.end_line()
        console.out(equation + answer_text(solution), style=ANSWER, end="")
    elif not answer_text(solution):
        page.end_line()
    console.print(verdict(solution, console), soft_wrap=True)
    return solution


class Page:
    """What has been shown of a completion so far: the steps of its thought one a line, then the answer."""

    def __init__(
        self, console: Console, lead: str, answer_style: str, layout: Callable[[list[int]], tuple[str, str]]
    ) -> None:
        self.console, self.lead, self.answer_style, self.layout = console, lead, answer_style, layout
        self.thought = self.answer = ""

    def show(self, ids: list[int], done: bool) -> None:
        """Prints what the ids of a completion have got more than at the last call."""
        thought, answer = self.layout(ids)
        answer = self.lead + answer if answer else ""
        if not done:
            # the last digit may turn out to begin the next step, a sign to be half of an operator, and a % (-+) to
            # be a - before a * (++): they wait
            held = re.compile(r"[0-9+%-]\Z")
            thought, answer = (thought, held.sub("", answer)) if answer else (held.sub("", thought), "")
        parts = (thought, self.thought, THOUGHT), (answer, self.answer, self.answer_style)
        for text, shown, style in parts:
            for piece in re.split(f"({MEANING}[^\n]*)", text[len(shown) :]):
                said = piece.startswith(MEANING)
                self.console.out(piece.removeprefix(MEANING), style=TALK if said else style, end="")
        self.thought, self.answer = thought, answer

    def end_line(self) -> None:
        """Goes to the beginning of a line, if not there yet."""
        if (self.thought + self.answer)[-1:] not in ("", "\n"):
            self.console.print()


def layout(model: MathModel, asked: Rendered, width: int, ids: list[int]) -> tuple[str, str]:
    """The thought and the answer in a completion: what a token adds never depends on the ones behind it, but
    for the digit or sign in front of it. Behind a finished row stands what it says, where there is room for that."""
    says = model.format.reader(asked)
    margin = int(asked.problems.widths.max()) + MARGIN
    (text,) = model.format.texts(asked.problems, np.array([ids], np.uint8))
    pieces = re.split("(</?think>| )", text.removesuffix(TOKENS[END]))
    thought, depth = "", 0
    for place, piece in enumerate(pieces):
        if piece and depth == 0 and piece != "<think>":
            # all else is the answer, whatever it holds
            return thought, "".join(pieces[place:])
        depth += {"<think>": 1, "</think>": -1}.get(piece, 0)
        if place % 2 == 0:  # between two of these
            thought += INDENT * depth * (thought[-1:] in ("", "\n")) + piece if piece else ""
        elif thought[-1:] not in ("", "\n"):
            row = thought[thought.rfind("\n") + 1 :]
            meaning = says(row.strip())
            if meaning and margin + len(meaning) < width:
                thought += MEANING + " " * (margin - len(row)) + meaning
            thought += "\n"
    return thought, ""


def verdict(solution: Solution, console: Console) -> Text:
    """Right or wrong, and how sure the model was."""
    right, wrong = ("✓", "✗") if console.encoding.lower().startswith("utf") else ("right", "wrong:")
    if solution.correct:
        text = Text(f"  {right}", RIGHT)
    elif answer_text(solution):
        text = Text(f"  {wrong} it is {solution.expected}", WRONG)
    else:
        what = "that is no number" if solution.reason == "end" else "it came to no end"
        text = Text(f"{INDENT}{wrong} {what}; {solution.expression} = {solution.expected}", WRONG)
    return text.append(f"  confidence {percent_sure(solution.confidence)}", TALK)


def token_table(asked: Rendered, written: list[Step], width: int) -> Table:
    """The prompt's tokens, then those that the model wrote, each with the likeliest other one."""
    names = ("position", "id", "token", "probability", "runner-up", "")
    if narrow := width < 64:
        names = ("at", "id", "token", "sure", "or", "")
    table = Table(box=None, header_style=TALK, padding=(0, 1, 0, 0) if narrow else (0, 2))
    for name in names:
        table.add_column(name, justify="left" if name in ("token", "runner-up", "or") else "right")
    prompt = asked.ids[0, : asked.prompt_lengths[0]].tolist()
    for position, token in enumerate(prompt):
        table.add_row(str(position), str(token), TOKENS[token], style=TALK)
    for position, step in enumerate(written, len(prompt)):
        probabilities, token = step.logits[0].softmax(-1).tolist(), int(step.ids[0])
        other = max((id for id in range(len(TOKENS)) if id != token), key=lambda id: probabilities[id])
        sure, less = percent_sure(probabilities[token]), percent_sure(probabilities[other])
        cells = Text(TOKENS[token], ANSWER), sure, Text(TOKENS[other], TALK), Text(less, TALK)
        table.add_row(str(position), str(token), *cells)
    return table


def never_saw(what: str) -> str:
    """The note on a problem unlike those of training."""
    return f"in training this model never saw {what}"


def check_stated(solution: Solution, stated: str) -> tuple[bool, list[str]]:
    """Whether an answer that stands in a problem is true, and what to say of it, where there is one."""
    right = stated == str(solution.expected)
    verdict = "is true" if right else f"is not true: it is {solution.expected}"
    return right, [f"{solution.expression}={stated} {verdict}"] if stated else []


def say_stated(solution: Solution, stated: str, console: Console) -> None:
    """The same on a terminal."""
    right, texts = check_stated(solution, stated)
    for text in texts:
        console.print(Text(INDENT + text, RIGHT if right else WRONG), soft_wrap=True)


def answer_text(solution: Solution) -> str:
    """The answer as one word; empty where the model wrote no number, or came to no end."""
    return "" if solution.answer is None or solution.reason != "end" else str(solution.answer)


def remarks(solution: Solution) -> list[str]:
    """What to say about a solution that is not right."""
    if solution.correct:
        return []
    if solution.reason != "end":
        wrote = "came to no end"
    else:
        wrote = "wrote no number" if solution.answer is None else f"says {solution.answer}"
    return [f"{solution.expression} is {solution.expected}, but the model {wrote}"]
