"""Exact match, at the speed of one parallel forward pass.

The truth is known, so it is used as a draft: score the gold completion of every problem at once. Where every
gold token is the model's first choice, greedy decoding would have written exactly it; only the other rows are
decoded token by token. The verdicts are those of plain greedy decoding, to the last row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mathllm.data.batches import BATCH_COST, batches_by_length
from mathllm.device import workers
from mathllm.errors import UsageError
from mathllm.formats import Format, Parsed, Rendered
from mathllm.inference.engine import CUT, ENDED, Allowed, Places, allowed_by, generate, places_for, read
from mathllm.model import Transformer
from mathllm.tasks import Problems, answer
from mathllm.tasks.expressions import expressions
from mathllm.tasks.numbers import Bools, Digits, Ints
from mathllm.tokenizer import END, Ids

# a gold token that leads by less is decoded for real: cached and parallel sums differ in the last bits
TIE = 1e-3

# a completion of more than twice the gold one's tokens, and this, is taken not to end: it could go on to the
# model's last token, which may be thousands
SLACK = 32

# tokens scored at once: on a CPU, activations that stay in its cache are worth a factor of two
SCORED_TOKENS = {"cpu": 2048, "cuda": 1 << 18}


class ProblemSet(Protocol):
    """Problems, or what makes them when a slice is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Problems: ...


@dataclass(frozen=True)
class Written:
    """Texts of a model: ids uint8 [N, T] of prompt and completion, the stop token included and `<end>` behind
    it, lengths [N], and why each ended, as an index [N] into inference.engine.REASONS."""

    ids: Ids
    lengths: Ints
    reasons: Digits


@dataclass(frozen=True)
class Verdicts:
    """What greedy decoding wrote for N problems, and whether it is right.

    `answer_correct` [N]: the text ended and its answer is the true integer. `completion_correct` [N]: every
    token is the gold one. `token_hits` and `token_counts` [N]: gold tokens predicted with the gold prefix
    given (teacher forcing), and gold tokens in all. `decoded` [N]: which rows were decoded token by token.
    """

    problems: Problems
    gold: Rendered
    written: Written
    parsed: Parsed
    answer_correct: Bools
    completion_correct: Bools
    token_hits: Ints
    token_counts: Ints
    decoded: Bools
    true_thoughts: bool = True  # are the thoughts of `gold` the truth?

    def __len__(self) -> int:
        return len(self.problems)


def judge(
    model: Transformer,
    notation: Format,
    problems: Problems,
    batch_size: int = 1024,
    draft: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Verdicts on problems. Without `draft` every row is decoded token by token: slow, with the same result.

    A completion that is more than twice as long as the gold one (see SLACK) is cut, and counts as one without end.
    At most `batch_size` rows go through the model at once. `progress` is called with the number of problems
    done and in all. Raises UsageError where the text of a problem is longer than the model can write.
    """
    gold = notation.render(problems)
    check_lengths(model.max_length, problems, [gold.lengths])
    n, done = len(problems), 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None and rows:
            progress(done, n)

    hits, certain = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    with _evaluating(model):
        for rows, row_hits, surely_gold in _score_all(model, notation, gold, batch_size):
            hits[rows], certain[rows] = row_hits, surely_gold & draft
            advance(int(certain[rows].sum()))
        written = _complete(model, notation, gold, np.flatnonzero(~certain), batch_size, advance)
    return read_verdicts(notation, problems, gold, written, hits, ~certain)


def read_verdicts(
    notation: Format, problems: Problems, gold: Rendered, written: Written, token_hits: Ints, decoded: Bools
) -> Verdicts:
    """Verdicts on texts that are there already: no model is needed."""
    parsed = notation.parse(written.ids)
    # the padding lets `parsed.ended` be true of rows that were cut: the reason alone tells
    ended = written.reasons == ENDED
    answer_correct = ended & parsed.well_formed & parsed.answer.same(answer(problems))
    width = max(written.ids.shape[1], gold.ids.shape[1])
    same = (pad_ids(written.ids, width) == pad_ids(gold.ids, width)).all(1)
    completion_correct = same & (written.lengths == gold.lengths)
    counts = gold.lengths - gold.prompt_lengths
    return Verdicts(
        problems,
        gold,
        written,
        parsed,
        answer_correct,
        completion_correct,
        token_hits,
        counts,
        decoded,
        notation.true_thoughts,
    )


def check_lengths(max_length: int, problems: ProblemSet, lengths: Iterable[Ints]) -> int:
    """Tokens of the longest text. Raises UsageError where some of the problems' whole texts are too long.

    `lengths` are the tokens of each text, in arrays one after the other that cover the problems.
    """
    too_long = start = longest = most = 0
    for part in lengths:
        too_long += int((part > max_length).sum())
        if part.max(initial=0) > most:
            longest, most = start + int(part.argmax()), int(part.max())
        start += len(part)
    if too_long == 0:
        return most
    expression = expressions(problems[longest : longest + 1])[0]
    if len(expression) > 60:
        expression = f"{expression[:40]}... ({len(expression)} characters)"
    raise UsageError(
        f"{too_long:,} of {start:,} problems are too long for this model: with its answer, "
        f"{expression} takes {most:,} tokens, and the model writes at most {max_length:,}",
        "use smaller numbers, or train with a larger --max-length",
    )


def _score_all(
    model: Transformer, notation: Format, gold: Rendered, batch_size: int
) -> Iterator[tuple[Ints, Ints, Bools]]:
    """Batches of rows with what `score_gold` says of them."""
    device = model.embedding.weight.device.type
    batches = list(batches_by_length(gold.lengths, batch_size, SCORED_TOKENS[device], BATCH_COST[device]))
    places, allowed = places_for(model, notation), allowed_by(notation)
    score = partial(score_gold, model, gold, places=places, allowed=allowed)
    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads == 1:
        yield from ((rows, *score(rows)) for rows in batches)
        return
    with workers(threads) as pool:
        yield from ((rows, *scores) for rows, scores in zip(batches, pool.map(score, batches), strict=True))


@torch.inference_mode()
def score_gold(
    model: Transformer,
    gold: Rendered,
    rows: Ints,
    places: Places | None = None,
    allowed: Allowed | None = None,
) -> tuple[Ints, Bools]:
    """Of the given rows: how many gold tokens are the model's first choice, and whether all surely are."""
    width = int(gold.lengths[rows].max())
    # what stands before the last token of the shortest prompt predicts nothing that counts
    first = int(gold.prompt_lengths[rows].min()) - 1
    device = model.embedding.weight.device
    ids = torch.from_numpy(gold.ids[rows, :width]).to(device).long()
    column = np.arange(first + 1, width)
    inside = (column >= gold.prompt_lengths[rows, None]) & (column < gold.lengths[rows, None])
    mask = torch.from_numpy(inside).to(device)
    located = None
    if places is not None:
        told = places(gold.ids[rows, : width - 1])
        located = {axis: torch.from_numpy(known).to(device) for axis, known in told.items()}
    logits = torch.cat(list(read(model, ids[:, :-1], located)), dim=1)[:, first:]
    if allowed is not None:
        may = allowed(gold.ids[rows, : width - 1])[:, first:]
        logits = logits.masked_fill(~torch.from_numpy(may).to(device), -torch.inf)
    lead = gold_lead(logits, ids[:, first + 1 :])
    hits = ((lead > 0) & mask).sum(1)
    certain = ((lead > TIE) | ~mask).all(1)
    return hits.cpu().numpy(), certain.cpu().numpy()


def gold_lead(logits: Tensor, gold: Tensor) -> Tensor:
    """How far gold's logit is ahead of the best other one: logits (B, T, V), gold (B, T) -> (B, T)."""
    own = logits.gather(-1, gold[..., None])
    others = logits.scatter(-1, gold[..., None], -torch.inf)
    return own[..., 0] - others.amax(-1)


def _complete(
    model: Transformer,
    notation: Format,
    gold: Rendered,
    rows: Ints,
    batch_size: int,
    advance: Callable[[int], None],
) -> Written:
    """Greedy texts of all problems: the gold ones, except for the given rows, which are decoded."""
    ids, lengths = gold.ids.copy(), gold.lengths.copy()
    reasons = np.full(len(ids), ENDED, np.uint8)
    rows = rows[np.argsort(gold.prompt_lengths[rows], kind="stable")]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        prompt_lengths = gold.prompt_lengths[part]
        most = 2 * (gold.lengths[part] - prompt_lengths) + SLACK
        limit = int(most.max())
        written = generate(
            model,
            gold.ids[part],
            prompt_lengths,
            limit,
            batch_size=batch_size,
            places=places_for(model, notation),
            allowed=allowed_by(notation),
        )
        # each row has a limit of its own, so that its verdict does not depend on what it was decoded with
        kept = np.minimum(written.lengths, most)
        lengths[part] = prompt_lengths + kept
        reasons[part] = np.where(written.lengths > most, CUT, written.reasons)
        ids = pad_ids(ids, int(lengths[part].max()))
        source = np.arange(ids.shape[1]) - prompt_lengths[:, None]
        inside = source < kept[:, None]
        completion = np.take_along_axis(written.ids, np.clip(source, 0, written.ids.shape[1] - 1), 1)
        ids[part] = np.where(source < 0, ids[part], np.where(inside, completion, END))
        advance(len(part))
    return Written(ids, lengths, reasons)


def pad_ids(ids: Ids, width: int) -> Ids:
    """Ids [N, T] with `<end>` behind them up to `width`; wider ones stay as they are."""
    missing = width - ids.shape[1]
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=END) if missing > 0 else ids


@contextmanager
def _evaluating(model: Transformer) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards, whatever happens."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
