"""Asking a loaded checkpoint: expressions in, answers with their reasoning out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mathllm.errors import CheckpointError, DataError, ExpressionError, MathLLMError, UsageError
from mathllm.inference.engine import (
    ENDED,
    REASONS,
    Generation,
    Step,
    allowed_by,
    decode,
    generate,
    places_for,
)
from mathllm.inference.sampling import SamplingParams
from mathllm.model.checkpoint import Checkpoint
from mathllm.tasks import CHAIN, TASKS, Problems, answer, concatenate, extent, get_tasks
from mathllm.tasks.expressions import MAX_DIGITS, expressions, parse_expression, parse_expressions
from mathllm.tokenizer import END, END_THINK, EQUALS, MINUS, PLUS, THINK, TOKENS, Ids, decode_rows, unflatten

_OPEN, _CLOSE = TOKENS[THINK], TOKENS[END_THINK]


@dataclass(frozen=True)
class Solution:
    """What the model wrote for one problem.

    `answer` is None where the text holds no number; `expected` is the true result, and `correct` says that
    the text came to its end and gives that result. `steps` are the parts of the thought, `text` is prompt and
    completion. `confidence` is the probability that the model gave to all it wrote, `reason` why it stopped:
    `end`, or `length` where it ran out of room.
    """

    expression: str
    answer: int | None
    expected: int
    correct: bool
    steps: tuple[str, ...]
    text: str
    confidence: float
    reason: str


class Solver:
    """A checkpoint that answers expressions like `12+34`, many at a time or token by token.

    Raises CheckpointError for weights that are not numbers.
    """

    def __init__(self, checkpoint: Checkpoint, params: SamplingParams | None = None, seed: int = 0) -> None:
        self.checkpoint = checkpoint
        self.model, self.notation = checkpoint.model, checkpoint.notation
        self.params = params or SamplingParams()
        self.device = self.model.embedding.weight.device
        self.places, self.allowed = places_for(self.model, self.notation), allowed_by(self.notation)
        self.chain = get_tasks(checkpoint.data.task) == (CHAIN,)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise CheckpointError(
                f"{checkpoint.path} holds weights that are not numbers (NaN or infinite)",
                "its training has failed; use an earlier checkpoint of the run",
            )

    def check(self, problems: Problems) -> None:
        """Raises UsageError for the first problem that the checkpoint's format or length has no room for."""
        refused = self.refusals(problems)
        if refused:
            raise refused[min(refused)]

    def refusals(self, problems: Problems) -> dict[int, UsageError]:
        """The rows that the model cannot be asked, and why: no notation for them, or no room."""
        refused: dict[int, UsageError] = {}
        for code in np.unique(problems.task):
            try:
                self.notation.check_task(code)
            except UsageError as error:
                refused |= dict.fromkeys(np.flatnonzero(problems.task == code).tolist(), error)
        rows = np.setdiff1d(np.arange(len(problems)), list(refused))
        needed = np.zeros(len(rows), np.int64)
        if len(rows):
            needed = self.notation.prompts(problems[rows])[1]
        # what follows a prompt that fits must fit as well (its text is short enough to be written out here)
        fits = needed < self.model.max_length
        if fits.any():
            needed[fits] = self.notation.render(problems[rows[fits]]).lengths
        limit = self.model.max_length
        for place in np.flatnonzero((needed > limit) | ~fits):
            what = "the problem and its solution take" if fits[place] else "the problem alone takes"
            refused[int(rows[place])] = UsageError(
                f"{what} {needed[place]:,} tokens, and this model has room for {limit:,}",
                f"it was trained on problems {extent(self.checkpoint.data.task, self.checkpoint.data.max_digits)}",
            )
        return refused

    def unseen(self, problem: Problems) -> list[str]:
        """In what ways one problem lies outside all that the model was trained on; mostly in none."""
        data = self.checkpoint.data
        code, digits, operands = (int(x[0]) for x in (problem.task, problem.widths, problem.num_operands))
        unseen = []
        if code not in get_tasks(data.task):
            unseen.append(f"a problem of {TASKS[code].name}")
        if digits > data.max_digits:
            what = "chain of more than {}" if self.chain else "number of more than {}"
            unseen.append("a " + what.format(_count(data.max_digits, "number" if self.chain else "digit")))
        if 0 < TASKS[code].factor_digits < int(problem.lengths[0, 1:].max()):
            unseen.append(f"a factor of more than {_count(TASKS[code].factor_digits, 'digit')}")
        if operands > max(data.max_operands, 2):
            unseen.append(f"a problem of more than {data.max_operands} numbers")
        if answer(problem).negative[0] and not data.signed:
            unseen.append("a result below zero")
        return unseen

    def complete(self, text: str) -> Problems:
        """The problem that the model makes of one like `7+`, whose last number it chooses itself.

        Not for chains. It was trained only on what follows `=`, so its choice is held to digits (at most as many as
        it was trained on there) and `=`. Raises as `solve` does, and ExpressionError where no operator ends the text.
        """
        if self.chain:
            raise UsageError("a chain has to be written whole", "for example 3+4*7-2")
        if not is_unfinished(text):
            raise ExpressionError("the model can go on after an operator only", text, len(text), "write 7+")
        try:
            problem = parse_expression(text + "0")
        except ExpressionError as error:  # about what was written, not about the 0
            raise ExpressionError(error.message, text, error.position, error.hint) from None
        self.check(problem)
        if self.notation.hints:
            raise UsageError(
                f"with format {self.notation.name!r} a model chooses no numbers",
                "write the whole problem, like 7+5",
            )
        prompt = self.notation.prompts(problem)[0][0]
        prompt = prompt[: np.flatnonzero((prompt == PLUS) | (prompt == MINUS))[-1] + 1]
        written: list[int] = []
        most = TASKS[problem.task[0]].factor_digits or max(1, self.checkpoint.data.max_digits)
        while len(written) < most and written != [0]:
            may = np.arange(len(TOKENS)) < 10
            may[EQUALS] = bool(written)

            def allowed(texts: Ids, may: NDArray[np.bool_] = may) -> NDArray[np.bool_]:
                return may[None, None]

            ids = torch.tensor([[*prompt.tolist(), *written]], device=self.device)
            decoded = decode(self.model, ids, 1, self.params, END, allowed, self.generator, self.places)
            step = next(decoded, None)
            if step is None or int(step.ids[0]) == EQUALS:
                break
            written.append(int(step.ids[0]))
        digits = "".join(TOKENS[i] for i in written)
        return parse_expression(text + (digits[::-1] if self.notation.least_significant_first else digits))

    def solve(self, expression: str) -> Solution:
        """One answer. Raises ExpressionError for what is no problem, UsageError for what does not fit."""
        return self.solve_problems(self.parse(expression))[0]

    def parse(self, expression: str) -> Problems:
        """The problem that a text is for this model. Raises ExpressionError for what is none."""
        return parse_expression(expression, self.chain)

    def solve_many(self, expressions: Sequence[str], batch_size: int = 1024) -> list[Solution]:
        """Answers to many expressions, in batches. Raises DataError naming the first row that cannot be read,
        UsageError for the first that does not fit the model."""
        problems = parse_expressions(expressions, self.chain)
        return self.solve_problems(problems, batch_size) if expressions else []

    def try_many(self, expressions: Sequence[str], batch_size: int = 1024) -> list[Solution | MathLLMError]:
        """An answer for each expression, or the error that `solve` would raise for it."""
        outcomes: dict[int, Solution | MathLLMError] = {}
        try:
            problems, rows = parse_expressions(expressions, self.chain), list(range(len(expressions)))
        except DataError:
            parsed = {}
            for row, text in enumerate(expressions):
                try:
                    parsed[row] = self.parse(text)
                except ExpressionError as error:
                    outcomes[row] = error
            rows = list(parsed)
            problems = concatenate(list(parsed.values())) if parsed else parse_expressions([])
        refused = self.refusals(problems)
        outcomes |= {rows[place]: error for place, error in refused.items()}
        asked = [place for place in range(len(problems)) if place not in refused]
        solutions = self.solve_problems(problems[asked], batch_size)
        outcomes |= {rows[place]: solution for place, solution in zip(asked, solutions, strict=True)}
        return [outcomes[row] for row in range(len(expressions))]

    def solve_problems(self, problems: Problems, batch_size: int = 1024) -> list[Solution]:
        """Answers to problems, in batches. Raises UsageError for the first that does not fit the model."""
        if len(problems) == 0:
            return []
        self.check(problems)
        prompts, lengths = self.notation.prompts(problems)
        limit, params, generator = self.model.max_length, self.params, self.generator
        written = generate(
            self.model, prompts, lengths, limit, params, END, batch_size, generator, self.places, self.allowed
        )
        return self._read(
            problems, *_join(prompts, lengths, written), written.log_probs.sum(1), written.reasons
        )

    def stream(self, problem: Problems) -> Iterator[Step]:
        """The completion of one problem, token by token. Raises UsageError if it does not fit the model."""
        self.check(problem)
        ids = torch.from_numpy(self.notation.prompts(problem)[0]).to(self.device).long()
        limit, generator = self.model.max_length, self.generator
        return decode(self.model, ids, limit, self.params, END, self.allowed, generator, self.places)

    def read(self, problem: Problems, ids: Ids, log_prob: float, reason: int) -> Solution:
        """The solution that a text (T) of prompt and completion amounts to; `reason` indexes REASONS."""
        return self._read(problem, ids[None], np.array([len(ids)]), np.array([log_prob]), np.array([reason]))[
            0
        ]

    def _read(
        self,
        problems: Problems,
        ids: Ids,
        lengths: NDArray[np.int64],
        log_probs: NDArray[Any],
        reasons: NDArray[Any],
    ) -> list[Solution]:
        """The solutions that texts [N, T] of the given lengths [N] amount to."""
        if np.isnan(log_probs).any():
            raise CheckpointError(
                f"the outputs of {self.checkpoint.path} are not numbers: its weights are damaged",
                "use an earlier checkpoint of the run",
            )
        parsed, truth = self.notation.parse(ids), answer(problems)
        correct = parsed.well_formed & (reasons == ENDED) & parsed.answer.same(truth)
        # a model that babbles may write a number that is too long for an int
        readable = parsed.well_formed & (parsed.answer.lengths <= MAX_DIGITS + 2)
        answers: list[int | None] = [None] * len(ids)
        for row, number in zip(np.flatnonzero(readable), parsed.answer[readable].to_ints(), strict=True):
            answers[row] = number
        column = np.arange(ids.shape[1])
        inside = (column >= parsed.thought_start[:, None]) & (column < parsed.thought_end[:, None])
        thoughts = decode_rows(*_rows(ids, inside))
        return [
            Solution(*fields)
            for fields in zip(
                expressions(problems),
                answers,
                truth.to_ints(),
                correct.tolist(),
                (tuple(thought.replace(_OPEN, " ").replace(_CLOSE, " ").split()) for thought in thoughts),
                decode_rows(ids, lengths),
                np.exp(log_probs.astype(np.float64)).tolist(),
                (REASONS[reason] for reason in reasons),
                strict=True,
            )
        ]


def is_unfinished(text: str) -> bool:
    """Is it a problem without its last number, like `7+`?"""
    return text.rstrip().endswith(tuple(task.symbol for task in TASKS if task.symbol))


def _join(prompts: Ids, lengths: NDArray[np.int64], written: Generation) -> tuple[Ids, NDArray[np.int64]]:
    """Prompts [N, P] of the given lengths [N] with their completions behind them: ids [N, T], lengths [N]."""
    inside = [
        np.arange(part.shape[1]) < n[:, None]
        for part, n in ((prompts, lengths), (written.ids, written.lengths))
    ]
    return _rows(np.concatenate([prompts, written.ids], axis=1), np.concatenate(inside, axis=1))


def _rows(ids: Ids, inside: NDArray[np.bool_]) -> tuple[Ids, NDArray[np.int64]]:
    """Those ids [N, T] that are inside [N, T], moved to the left and padded; and how many there are [N]."""
    lengths = inside.sum(1)
    return unflatten(ids[inside], lengths), lengths


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
