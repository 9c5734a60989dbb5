"""A model with its format: the one object that reads problems, writes texts, and says what they amount to.

    model = load_checkpoint("checkpoints/mine")
    print(model.solve("658+189").answer)

It holds nothing that changes while it answers, so several threads may ask it at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mathllm.config import DataConfig
from mathllm.data.importing import read_problems
from mathllm.errors import CheckpointError, ExpressionError, MathLLMError, UsageError, check_whole
from mathllm.evaluation.report import Report, evaluate_problems
from mathllm.formats import Parsed, Rendered, Walk
from mathllm.inference.engine import ENDED, REASONS, Step, as_tensors, decode, generate, read, room_in
from mathllm.inference.sampling import GREEDY, SamplingParams, pick
from mathllm.inference.scoring import Draft, draft, score_gold
from mathllm.inference.texts import Written, join, most_tokens, pack
from mathllm.interp.edits import Edit
from mathllm.interp.texts import Run, run_texts
from mathllm.limits import MAX_DIGITS
from mathllm.model.transformer import Transformer
from mathllm.scope import Scope
from mathllm.tasks import TASKS, Problems, answer
from mathllm.tasks.expressions import (
    alike,
    expressions,
    fold,
    parse_expression,
    parse_expressions,
    read_expressions,
)
from mathllm.tasks.numbers import Bools, Ints, Numbers
from mathllm.tokenizer import END_THINK, EQUALS, MINUS, OPERATORS, PLUS, THINK, TOKENS, decode_rows

_THINKING = TOKENS[THINK], TOKENS[END_THINK]


@dataclass(frozen=True)
class Solution:
    """What the model wrote for one problem.

    `answer` is None where the text holds no number; `expected` is the true result, and `correct` says that
    the text came to its end and gives that result. `steps` are the parts of the thought, `text` is prompt and
    completion. `confidence` is the probability that the model gave to all it wrote, `reason` why it stopped:
    `end`, or `length` where it came to no end and was cut. `unseen` says in what ways the problem lies outside all
    that the model was trained on.
    """

    expression: str
    answer: int | None
    expected: int
    correct: bool
    steps: tuple[str, ...]
    text: str
    confidence: float
    reason: str
    unseen: tuple[str, ...] = ()


class MathModel:
    """A transformer, the format in which it was taught, and what it was trained on.

    `path` is where it was loaded from. `params` and `seed` are for answers that are asked for without their own: with a
    temperature, each call draws other random numbers, in the order in which calls come.
    """

    def __init__(
        self,
        model: Transformer,
        data: DataConfig,
        path: Path = Path(),
        *,
        params: SamplingParams = GREEDY,
        seed: int = 0,
    ) -> None:
        self.model, self.data, self.path, self.params, self.seed = model, data, path, params, seed
        self.scope = Scope(data, room_in(model))
        self.format, self.tasks, self.readable = self.scope.format, self.scope.tasks, self.scope.readable
        self._asked = itertools.count()  # so that no two answers are drawn with the same random numbers

    def check_weights(self) -> None:
        """Raises CheckpointError for weights that are not numbers."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise CheckpointError(
                f"{self.path} holds weights that are not numbers (NaN or infinite)",
                "its training has failed; use an earlier checkpoint of the run",
            )

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @property
    def max_length(self) -> int:
        """The most tokens of prompt and completion."""
        return self.scope.max_length

    # expressions to problems, and to the texts that the model is given

    def ask(self, expression: str) -> Rendered:
        """The problem that a text is for this model, ready to be answered.

        Raises ExpressionError for what is none, UsageError for what the model cannot be asked.
        """
        return self.render(parse_expression(text_of(expression), self.readable))

    def render(self, problems: Problems) -> Rendered:
        """Problems with their gold texts. Raises UsageError for the first that the format or the model has no room
        for."""
        rendered, refused = self.fit(problems)
        if refused:
            raise refused[min(refused)]
        return rendered

    def fit(self, problems: Problems) -> tuple[Rendered, dict[int, UsageError]]:
        """The problems that the model can be asked, with their gold texts; and why not, by row, for the others."""
        return self.scope.fit(problems)

    def unseen(self, problem: Problems) -> list[str]:
        """In what ways one problem lies outside all that the model was trained on; mostly in none."""
        return [what for what, _ in self.scope.unseen(problem)]

    def finish(
        self,
        text: str,
        params: SamplingParams | None = None,
        generator: torch.Generator | None = None,
    ) -> Rendered:
        """The problem that the model makes of one like `7+`, whose last number it chooses itself.

        It was trained only on what follows `=`, so its choice is held to digits (at most as many as it was trained on
        there) and `=`. Raises as `ask` does, and ExpressionError where no operator ends the text.
        """
        params, generator = self._drawing(params, generator)
        first = self.tasks[0]
        if first.one_digit:
            raise UsageError(f"a {first.name} has to be written whole", f"for example {first.example}")
        if not is_unfinished(text_of(text)):
            raise ExpressionError("the model can go on after an operator only", text, len(text), "write 7+")
        try:
            whole = self.ask(text + "1")
        except ExpressionError as error:  # about what was written, not about the 1
            raise ExpressionError(error.message, text, error.position, error.hint) from None
        if self.format.hints:
            raise UsageError(
                f"with format {self.format.name!r} a model chooses no numbers",
                "write the whole problem, like 7+5",
            )
        task, last = TASKS[whole.problems.task[0]], int(whole.problems.num_operands[0]) - 1
        prompt = whole.ids[0, : whole.prompt_lengths[0]]
        prompt = prompt[: np.flatnonzero((prompt == PLUS) | (prompt == MINUS))[-1] + 1]
        dividing = fold(text).rstrip()[-1] in "/%"  # nothing is divided by 0
        written: list[int] = []
        while len(written) < max(1, task.digits_of(last, self.scope.size)) and written != [0]:
            ids = np.array([[*prompt, *written]], np.uint8)
            told = as_tensors(self.format.coordinates(whole.problems, ids, self.model.axes), self.device)
            with torch.inference_mode():
                (*_, logits) = read(self.model, torch.from_numpy(ids).to(self.device).long(), told)
            may = torch.arange(len(TOKENS), device=self.device) < 10
            may[EQUALS] = bool(written)
            may[0] = bool(written) or not dividing
            token = int(pick(logits[:, -1].masked_fill(~may, -torch.inf), params, generator))
            if token == EQUALS:
                break
            written.append(token)
        digits = "".join(TOKENS[i] for i in written)
        return self.ask(text + (digits[::-1] if self.format.least_significant_first else digits))

    # answers

    def solve(self, expression: str) -> Solution:
        """The model's answer to `12+34`, with its reasoning. Raises as `ask` does."""
        return self.answer(self.ask(expression))[0]

    def generate(self, expressions: Iterable[str], batch_size: int = 1024) -> list[Solution]:
        """Answers to many expressions, in batches. Raises DataError naming the first row that cannot be read,
        UsageError for the first that does not fit the model."""
        return self.answer(self.render(parse_expressions(texts_of(expressions), self.readable)), batch_size)

    def try_many(self, expressions: Iterable[str], batch_size: int = 1024) -> list[Solution | MathLLMError]:
        """An answer for each expression, or the error that `solve` would raise for it."""
        texts = texts_of(expressions)
        outcomes: dict[int, Solution | MathLLMError] = {}
        for rows in alike(texts):
            found = self._try_alike([texts[row] for row in rows], batch_size)
            outcomes |= {rows[row]: outcome for row, outcome in found.items()}
        return [outcomes[row] for row in range(len(texts))]

    def _try_alike(self, expressions: Sequence[str], batch_size: int) -> dict[int, Solution | MathLLMError]:
        """The same, by row, for expressions of like size."""
        outcomes: dict[int, Solution | MathLLMError] = {}
        problems, good = read_expressions(expressions, self.readable)
        for row in np.flatnonzero(~good).tolist():
            try:
                parse_expression(expressions[row], self.readable)
            except ExpressionError as error:
                outcomes[row] = error
        readable = np.flatnonzero(good)
        rendered, refused = self.fit(problems[readable])
        outcomes |= {int(readable[row]): error for row, error in refused.items()}
        asked = np.delete(readable, list(refused))
        return outcomes | dict(zip(asked.tolist(), self.answer(rendered, batch_size), strict=True))

    def answer(self, texts: Rendered, batch_size: int = 1024) -> list[Solution]:
        """What the model writes for problems, in batches; a text that is far too long is cut (see
        inference.texts.most_tokens)."""
        return self.read(self.complete(texts, batch_size=batch_size, limits=most_tokens(texts)))

    def stream(
        self,
        asked: Rendered,
        params: SamplingParams | None = None,
        generator: torch.Generator | None = None,
        most: int | None = None,
    ) -> Iterator[Step]:
        """The completion of one problem, token by token, of at most so many; cut where it is far too long."""
        params, generator = self._drawing(params, generator)
        room = min(int(most_tokens(asked)[0]), most or self.max_length)
        prompt = torch.from_numpy(asked.ids[:, : asked.prompt_lengths[0]]).to(self.device).long()
        walk = Walk(self.format, asked.problems, self.model.axes)
        return decode(self.model, prompt, room, params=params, generator=generator, walk=walk)

    def complete(
        self,
        texts: Rendered,
        *,
        params: SamplingParams | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 1024,
        limits: Ints | None = None,
    ) -> Written:
        """What the model writes behind the prompts of texts, at most `limits` [N] tokens each."""
        check_whole("batch_size", batch_size, 1)
        params, generator = self._drawing(params, generator)
        most = self.max_length if limits is None else int(limits.max(initial=0))
        written = generate(
            self.model,
            texts.ids,
            texts.prompt_lengths,
            most,
            params=params,
            batch_size=batch_size,
            generator=generator,
            walk=lambda rows: Walk(self.format, texts.problems[rows], self.model.axes),
        )
        return join(texts, written, limits)

    def draft(self, gold: Rendered) -> Draft:
        """See inference.scoring.draft."""
        return draft(self.model, self.format, gold)

    def score(self, gold: Rendered, *, batch_size: int = 1024) -> Iterator[tuple[Ints, Ints, Bools]]:
        """See inference.scoring.score_gold."""
        check_whole("batch_size", batch_size, 1)
        return score_gold(self.model, self.format, gold, batch_size)

    def run_with_cache(self, problems: str | Iterable[str], names: str | Iterable[str] = "*") -> Run:
        """What is at the sites inside the model that names, or patterns like `blocks.*.attn.hook_pattern`, stand for,
        while it reads problems with their true working and answer: `run.cache[name]`, with the logits and the tokens'
        roles.

        Names are those of TransformerLens: mathllm/interp/sites.py has all of them. Raises UsageError for one that this
        model has not, and as `ask` does."""
        return self.run_with((), problems, names)

    @torch.inference_mode()
    def run_with(
        self, edits: Iterable[Edit], problems: str | Iterable[str], names: str | Iterable[str] = ()
    ) -> Run:
        """The same under edits (see mathllm.interp.edits), of which nothing stays behind. Raises UsageError for an
        edit of a site that this model has not, or that changes nothing."""
        texts = [problems] if isinstance(problems, str) else texts_of(problems)
        gold = self.render(parse_expressions(texts, self.readable))
        return run_texts(self.model, self.format, gold, edits=edits, names=names)

    def read(self, written: Written) -> list[Solution]:
        """The solutions that texts amount to."""
        log_probs = written.log_probs.sum(1)
        if np.isnan(log_probs).any():
            raise CheckpointError(
                f"the outputs of {self.path} are not numbers: its weights are damaged",
                "use an earlier checkpoint of the run",
            )
        parsed, truth = self.format.parse(written.ids), answer(written.problems)
        # a model that babbles may write a number that is too long for an int
        readable = parsed.well_formed & (parsed.answer.lengths <= MAX_DIGITS + 2)
        answers: list[int | None] = [None] * len(written)
        for row, number in zip(np.flatnonzero(readable), parsed.answer[readable].to_ints(), strict=True):
            answers[row] = number
        return [
            Solution(*fields)
            for fields in zip(
                expressions(written.problems),
                answers,
                truth.to_ints(),
                self.right(written, parsed, truth).tolist(),
                self.steps(written, parsed),
                self.format.texts(written.problems, written.ids, written.lengths),
                np.exp(log_probs.astype(np.float64)).tolist(),
                (REASONS[reason] for reason in written.reasons),
                self._unseen_by_row(written.problems, truth),
                strict=True,
            )
        ]

    def _unseen_by_row(self, problems: Problems, truth: Numbers) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [()] * len(problems)
        for what, outside in self.scope.unseen(problems, truth):
            for row in np.flatnonzero(outside).tolist():
                found[row] += (what,)
        return found

    def right(self, written: Written, parsed: Parsed | None = None, truth: Numbers | None = None) -> Bools:
        """Which texts [N] came to their end and give the true result; `parsed` and `truth` are what they say and what
        they should, where that is known."""
        parsed = parsed or self.format.parse(written.ids)
        correct: Bools = parsed.well_formed & (written.reasons == ENDED)
        return correct & parsed.answer.same(answer(written.problems) if truth is None else truth)

    def steps(self, texts: Rendered, parsed: Parsed | None = None) -> list[tuple[str, ...]]:
        """The steps of each text's thought; `parsed` is what the texts say, where that is known."""
        parsed, column = parsed or self.format.parse(texts.ids), np.arange(texts.ids.shape[1])
        inside = (column >= parsed.thought_start[:, None]) & (column < parsed.thought_end[:, None])
        ids, lengths = pack(texts.ids, inside)
        starts = self.format.step_starts(texts.problems, texts.ids)
        spaces = None if starts is None else pack(starts.astype(np.uint8), inside)[0] == 1
        thoughts = decode_rows(ids, lengths, spaces)
        opening, closing = _THINKING
        return [tuple(text.replace(opening, " ").replace(closing, " ").split()) for text in thoughts]

    def evaluate(self, problems: str | Path | Iterable[str], batch_size: int = 1024) -> Report:
        """Exact match on a data file, or on a list of expressions."""
        if isinstance(problems, (str, Path)):
            asked = read_problems(Path(problems), self.readable)
        else:
            asked = parse_expressions(texts_of(problems), self.readable)
        return evaluate_problems(self, asked, batch_size=batch_size)

    def _drawing(
        self, params: SamplingParams | None, generator: torch.Generator | None
    ) -> tuple[SamplingParams, torch.Generator | None]:
        """How to draw tokens, with random numbers of this call alone unless it brings its own."""
        params = params or self.params
        if generator is None and params.temperature:
            seeds = np.random.SeedSequence([self.seed, next(self._asked)]).generate_state(1)
            generator = torch.Generator(self.device).manual_seed(int(seeds[0]))
        return params, generator


def text_of(expression: str) -> str:
    """An expression as it is. Raises UsageError for what is no text."""
    if not isinstance(expression, str):
        raise UsageError(f"an expression is a text, not {expression!r}", 'for example "12+34"')
    return expression


def texts_of(expressions: Iterable[str]) -> list[str]:
    """Expressions as a list. Raises UsageError for what is no list of texts."""
    if isinstance(expressions, (str, bytes)) or not isinstance(expressions, Iterable):
        raise UsageError("expressions are a list of texts", 'for example ["12+34", "5+6"]')
    return [text_of(text) for text in expressions]


def is_unfinished(text: str) -> bool:
    """Is it a problem without its last number, like `7+`?"""
    return fold(text).rstrip().endswith(tuple(OPERATORS))
