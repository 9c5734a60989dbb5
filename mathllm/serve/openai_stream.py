"""Streams of OpenAI's routes: what each event of a job is there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mathllm.errors import ExpressionError
from mathllm.serve import protocol
from mathllm.serve.guard import as_openai
from mathllm.serve.jobs import Done, Outcome, Solved, Token
from mathllm.serve.protocol import usage_of
from mathllm.serve.versions import Version
from mathllm.tasks import Problems
from mathllm.tasks.expressions import parse_expression, split_answer
from mathllm.tokenizer import END, END_THINK, THINK, TOKENS


def said(head: dict[str, Any], event: Token | Done) -> str:
    """A chunk of a stream of completions."""
    if isinstance(event, Token):
        text = "" if event.id == END else TOKENS[event.id]
        return chunk(head, {"index": event.row, "text": text, "finish_reason": None, "logprobs": None})
    if isinstance(event.outcome, Solved):
        ending = finish_of(event.outcome)
        return chunk(head, {"index": event.row, "text": "", "finish_reason": ending, "logprobs": None})
    return failed(event)


class Talk:
    """Chunks of a chat: the steps of the thought as they come, one a line, then the answer, the right way round."""

    def __init__(self, head: dict[str, Any], version: Version, text: str) -> None:
        self.head, self.format = head, version.model.format
        self.problems = self._problems(version, text)
        self.ids: dict[int, list[int]] = {}
        self.thought: dict[int, str] = {}  # what has been said of it
        self.begun: set[int] = set()  # choices that have said whose words they are

    @staticmethod
    def _problems(version: Version, text: str) -> Problems | None:
        try:
            return parse_expression(split_answer(text)[0], version.model.readable)
        except ExpressionError:
            return None  # the end says so

    def said(self, event: Token | Done) -> str:
        if isinstance(event, Token):
            return self.token(event)
        if not isinstance(event.outcome, Solved):
            return failed(event)
        found = self.think(event.row, "\n".join(event.outcome.solution.steps))
        if self.format.least_significant_first:  # an answer with its units first comes whole
            found += self.delta(event.row, "content", content_of(event.outcome))
        choice = {
            "index": event.row,
            "delta": {},
            "finish_reason": finish_of(event.outcome),
            "logprobs": None,
        }
        return found + chunk(self.head, choice)

    def token(self, event: Token) -> str:
        ids = self.ids.setdefault(event.row, [])
        ids.append(event.id)
        if event.id == END or self.problems is None:
            return ""
        inside = ids.count(THINK) > ids.count(END_THINK)
        if inside or event.id == END_THINK:
            steps = steps_of(self.format.texts(self.problems, np.array([ids], np.uint8))[0])
            # the last token may turn out to begin the next step
            return self.think(event.row, steps[:-1] if inside else steps)
        if self.format.least_significant_first:
            return ""
        return self.delta(event.row, "content", TOKENS[event.id])

    def think(self, row: int, thought: str) -> str:
        """What a thought has got more than was said."""
        before = self.thought.get(row, "")
        if len(thought) <= len(before):
            return ""
        self.thought[row] = thought
        return self.delta(row, "reasoning_content", thought[len(before) :])

    def delta(self, row: int, name: str, text: str) -> str:
        delta = {name: text} if row in self.begun else {"role": "assistant", name: text}
        self.begun.add(row)
        return chunk(self.head, {"index": row, "delta": delta, "finish_reason": None, "logprobs": None})


def steps_of(text: str) -> str:
    """The steps in a completion as far as it is written, one a line."""
    inside = 0
    found: list[str] = []
    for piece in re.split("(</?think>)", text):
        inside += {"<think>": 1, "</think>": -1}.get(piece, 0)
        if inside and not piece.startswith("<"):
            found += piece.split()
    return "\n".join(found)


def chunk(head: dict[str, Any], choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


def failed(event: Done) -> str:
    if event.outcome is None or isinstance(event.outcome, Solved):
        return ""
    return f"data: {json.dumps({'error': as_openai(protocol.error_of(event.outcome))})}\n\n"


def end(head: dict[str, Any], outcomes: Sequence[Outcome], *, with_usage: bool) -> str:
    """The end of a stream."""
    usage = ""
    if with_usage:
        usage = f"data: {json.dumps({**head, 'choices': [], 'usage': usage_of(outcomes)})}\n\n"
    return usage + "data: [DONE]\n\n"


def finish_of(outcome: Solved) -> str:
    return "stop" if outcome.solution.reason == "end" else "length"


def content_of(outcome: Solved) -> str:
    """The answer, the right way round."""
    answer = outcome.solution.answer
    return "" if answer is None else str(answer)
