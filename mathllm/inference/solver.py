"""Asking a loaded checkpoint: expressions in, answers with their reasoning out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mathllm.errors import UsageError
from mathllm.inference.engine import ENDED, REASONS, Step, decode, generate
from mathllm.inference.sampling import SamplingParams
from mathllm.model.checkpoint import Checkpoint
from mathllm.tasks import TASK_NAMES, Problems, answer, concatenate
from mathllm.tasks.expressions import parse_expression
from mathllm.tokenizer import decode as decode_text
from mathllm.tokenizer import decode_rows


@dataclass(frozen=True)
class Solution:
    """What the model wrote for one problem.

    `answer` is None where the text holds no number; `correct` compares it with the true result; `steps` are the
    parts of the thought; `confidence` is the probability that the model gave to all it wrote; `reason` is why it
    stopped (`end` or `length`).
    """

    expression: str
    answer: int | None
    correct: bool
    steps: tuple[str, ...]
    text: str
    confidence: float
    reason: str


class Solver:
    """A checkpoint that answers expressions like `12+34`, many at a time or token by token."""

    def __init__(self, checkpoint: Checkpoint, params: SamplingParams | None = None, seed: int = 0) -> None:
        self.checkpoint = checkpoint
        self.model, self.notation = checkpoint.model, checkpoint.notation
        self.params = params or SamplingParams()
        device = self.model.embedding.weight.device
        self.generator = torch.Generator(device).manual_seed(seed)

    def check(self, problems: Problems) -> None:
        """Raises UsageError for problems that the checkpoint's format cannot write or that are too long for it."""
        for code in np.unique(problems.task):
            self.notation.check_task(code)
        longest = int(self.notation.prompts(problems)[1].max(initial=0))
        if longest >= self.model.max_length:
            raise UsageError(
                f"the problem takes {longest} tokens, and this model reads at most {self.model.max_length}",
                f"it was trained on numbers of up to {self.checkpoint.data.max_digits} digits",
            )

    def solve(self, expression: str) -> Solution:
        """One answer. Raises ExpressionError for a text that is no problem, UsageError for one that is too long."""
        return self.solve_many([expression])[0]

    def solve_many(self, expressions: Sequence[str], batch_size: int = 1024) -> list[Solution]:
        """Answers to many expressions, in batches."""
        if not expressions:
            return []
        problems = concatenate([parse_expression(text) for text in expressions])
        self.check(problems)
        prompts, lengths = self.notation.prompts(problems)
        written = generate(
            self.model,
            prompts,
            lengths,
            self.model.max_length,
            self.params,
            batch_size=batch_size,
            generator=self.generator,
        )
        texts = [
            np.concatenate([prompt[:n], ids[:m]])
            for prompt, n, ids, m in zip(prompts, lengths, written.ids, written.lengths, strict=True)
        ]
        return [
            self.read(problems[row : row + 1], text, float(written.log_probs[row].sum()), int(written.reasons[row]))
            for row, text in enumerate(texts)
        ]

    def stream(self, problem: Problems) -> Iterator[Step]:
        """The completion of one problem, a token at a time."""
        self.check(problem)
        prompt, _ = self.notation.prompts(problem)
        device = self.model.embedding.weight.device
        ids = torch.from_numpy(prompt).to(device).long()
        return decode(self.model, ids, self.model.max_length, self.params, generator=self.generator)

    def read(self, problem: Problems, ids: np.ndarray, log_prob: float, reason: int) -> Solution:
        """The solution that a text (T) of prompt and completion amounts to."""
        from mathllm.tasks.expressions import expressions

        parsed = self.notation.parse(ids[None])
        good = bool(parsed.well_formed[0]) and reason == ENDED
        thought = ids[parsed.thought_start[0] : parsed.thought_end[0]]
        body = decode_text(thought).replace("<think>", " ").replace("</think>", " ")
        return Solution(
            expression=expressions(problem)[0],
            answer=parsed.answer.to_ints()[0] if parsed.well_formed[0] else None,
            correct=good and bool(parsed.answer.same(answer(problem))[0]),
            steps=tuple(body.split()),
            text=decode_text(ids),
            confidence=math.exp(log_prob),
            reason=REASONS[reason],
        )
