"""Exact match, at the speed of one parallel forward pass.

The truth is known, so it is used as a draft: score the gold completion of every problem at once. Where every gold
token is the model's first choice, greedy decoding would have written exactly it; only the other rows are decoded
token by token. The verdicts are those of plain greedy decoding, to the last row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.formats import Format, Parsed, Rendered
from mathllm.inference.engine import ENDED, generate
from mathllm.model import Transformer
from mathllm.tasks import Problems, answer
from mathllm.tokenizer import END, Ids

# a gold token that leads by less is decoded for real: cached and parallel sums round differently in the last bits
TIE = 1e-3


@dataclass(frozen=True)
class Verdicts:
    """What greedy decoding wrote for N problems, and whether it is right.

    `ids` uint8 [N, T] are prompt and completion padded with `<end>`, `lengths` [N] their tokens, `reasons` [N] why
    each ended (see inference.engine.REASONS). `answer_correct` [N]: the text ended and its answer is the true
    integer. `completion_correct` [N]: every token is the gold one. `token_hits` and `token_counts` [N]: gold tokens
    predicted with the gold prefix given (teacher forcing). `decoded` [N]: which rows were decoded token by token.
    """

    problems: Problems
    gold: Rendered
    ids: Ids
    lengths: NDArray[np.int64]
    reasons: NDArray[np.uint8]
    parsed: Parsed
    answer_correct: NDArray[np.bool_]
    completion_correct: NDArray[np.bool_]
    token_hits: NDArray[np.int64]
    token_counts: NDArray[np.int64]
    decoded: NDArray[np.bool_]

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
    """Verdicts on problems. Without `draft` every row is decoded token by token (slow; the result is the same).

    `progress` is called with the number of problems done and in all.
    """
    training = model.training
    model.eval()
    gold = notation.render(problems)
    n = len(problems)
    hits = np.zeros(n, np.int64)
    certain = np.zeros(n, np.bool_)
    # rows of like length together, so that little is padding
    order = np.argsort(gold.lengths, kind="stable")
    for start in range(0, n, batch_size):
        rows = order[start : start + batch_size]
        hits[rows], certain[rows] = score_gold(model, gold, rows)
        if progress is not None:
            progress(min(start + batch_size, n), n)
    decoded = ~certain if draft else np.ones(n, np.bool_)
    ids, lengths, reasons = _complete(model, gold, decoded, batch_size)
    parsed = notation.parse(ids)
    answer_correct = parsed.well_formed & (reasons == ENDED) & parsed.answer.same(answer(problems))
    width = max(ids.shape[1], gold.ids.shape[1])
    same = (_pad(ids, width) == _pad(gold.ids, width)).all(1) & (lengths == gold.lengths)
    model.train(training)
    counts = gold.lengths - gold.prompt_lengths
    return Verdicts(
        problems, gold, ids, lengths, reasons, parsed, answer_correct, same, hits, counts, decoded
    )


@torch.inference_mode()
def score_gold(
    model: Transformer, gold: Rendered, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of the given rows: how many gold tokens are the model's first choice, and whether all surely are."""
    width = int(gold.lengths[rows].max())
    # a prompt of one token less than the shortest needs no prediction
    first = int(gold.prompt_lengths[rows].min()) - 1
    device = model.embedding.weight.device
    ids = torch.from_numpy(gold.ids[rows, :width]).to(device).long()
    column = np.arange(first + 1, width)
    inside = (column >= gold.prompt_lengths[rows, None]) & (column < gold.lengths[rows, None])
    mask = torch.from_numpy(inside).to(device)
    logits = model(ids[:, :-1])[:, first:]
    lead = gold_lead(logits, ids[:, first + 1 :])
    hits = ((lead > 0) & mask).sum(1)
    certain = ((lead > TIE) | ~mask).all(1)
    return hits.cpu().numpy(), certain.cpu().numpy()


def gold_lead(logits: Tensor, gold: Tensor) -> Tensor:
    """By how much the gold token's logit leads the best other one: logits (B, T, V), gold (B, T) -> (B, T)."""
    own = logits.gather(-1, gold[..., None])
    others = logits.scatter(-1, gold[..., None], -torch.inf)
    return own[..., 0] - others.amax(-1)


def _complete(
    model: Transformer, gold: Rendered, decoded: NDArray[np.bool_], batch_size: int
) -> tuple[Ids, NDArray[np.int64], NDArray[np.uint8]]:
    """Greedy texts of all rows: the gold ones, except for the rows that must be decoded."""
    ids, lengths = gold.ids.copy(), gold.lengths.copy()
    reasons = np.full(len(ids), ENDED, np.uint8)
    rows = np.flatnonzero(decoded)
    if len(rows) == 0:
        return ids, lengths, reasons
    prompts, prompt_lengths = gold.ids[rows], gold.prompt_lengths[rows]
    written = generate(model, prompts, prompt_lengths, model.max_length, batch_size=batch_size)
    width = max(ids.shape[1], int((prompt_lengths + written.lengths).max()))
    ids = _pad(ids, width)
    column = np.arange(width)
    source = column - prompt_lengths[:, None]
    inside = (source >= 0) & (source < written.lengths[:, None])
    completion = np.take_along_axis(written.ids, np.clip(source, 0, written.ids.shape[1] - 1), 1)
    prompt = column < prompt_lengths[:, None]
    ids[rows] = np.where(prompt, ids[rows], np.where(inside, completion, END))
    lengths[rows] = prompt_lengths + written.lengths
    reasons[rows] = written.reasons
    return ids, lengths, reasons


def _pad(ids: Ids, width: int) -> Ids:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=END)
