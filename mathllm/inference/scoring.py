"""Scoring texts that are there already, in parallel: the gold ones of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.data.batches import BATCH_COST, batches_by_length
from mathllm.device import workers
from mathllm.formats import ALLOWED, Format, Rendered, Walk
from mathllm.inference.engine import as_tensors, read
from mathllm.model.transformer import Transformer
from mathllm.tasks.numbers import Bools, Ints

# a gold token that leads by less is decoded for real: cached and parallel sums differ in the last bits
TIE = 1e-3

# tokens scored at once: on a CPU, activations that stay in its cache are worth a factor of two
SCORED_TOKENS = {"cpu": 4096, "cuda": 1 << 18}


def score_gold(
    model: Transformer, format: Format, gold: Rendered, batch_size: int
) -> Iterator[tuple[Ints, Ints, Bools]]:
    """Batches of rows, at most `batch_size` each: how many of their gold tokens are the model's first choice [R], and
    whether all surely are [R], so that greedy decoding writes them."""
    for rows, lead, counted in gold_leads(model, format, gold, batch_size):
        surely = (lead > TIE) | ~counted
        yield rows, ((lead > 0) & counted).sum(1), np.all(surely, axis=1)


def gold_leads(
    model: Transformer, format: Format, gold: Rendered, batch_size: int
) -> Iterator[tuple[Ints, NDArray[np.float32], Bools]]:
    """Batches of rows, at most `batch_size` each: how far each gold token's logit is ahead of all others that may stand
    there [R, T], and which tokens count [R, T]: those of completions. T is up to the longest row's end."""
    device = model.embedding.weight.device.type
    told, choices = _followed(model, format, gold)
    batches = _batches(gold.lengths, told, batch_size, device)

    def score(rows: Ints) -> tuple[NDArray[np.float32], Bools]:
        return _score_rows(model, gold, rows, told, choices)

    threads = torch.get_num_threads() if device == "cpu" else 1
    scores = map(score, batches) if threads == 1 else workers(threads).map(score, batches)
    yield from ((rows, *found) for rows, found in zip(batches, scores, strict=True))


@dataclass(frozen=True)
class Draft:
    """Gold texts as drafts of what a model writes greedily (speculative decoding, arXiv 2211.17192, with the truth in
    place of a smaller model): how many tokens of each completion it surely writes (`accepted` [N]), and the logits
    [N, C, V] that they are picked from, -inf for what may not stand there."""

    accepted: Ints
    logits: NDArray[np.float32]


def draft(model: Transformer, format: Format, gold: Rendered) -> Draft:
    """Reads gold texts in parallel, as far as the model would write them itself."""
    told, choices = _followed(model, format, gold)
    completion = gold.lengths - gold.prompt_lengths
    width, device = int(completion.max(initial=0)), model.embedding.weight.device
    logits = np.zeros((len(gold), width, model.vocab_size), np.float32)
    sure = np.zeros((len(gold), width), np.bool_)
    for rows in _batches(gold.lengths, told, len(gold), device.type):
        found, ids, first = _logits(model, gold, rows, told, choices)
        lead = gold_lead(found, ids).cpu().numpy()
        scores = found.cpu().numpy()
        column = np.arange(int(completion[rows].max()))
        at = np.minimum(gold.prompt_lengths[rows, None] - 1 - first + column, scores.shape[1] - 1)
        row = np.arange(len(rows))[:, None]
        logits[rows, : len(column)], sure[rows, : len(column)] = scores[row, at], lead[row, at] > TIE
    beyond = np.arange(width) >= completion[:, None]
    unsure = np.pad(~sure & ~beyond, ((0, 0), (0, 1)), constant_values=True)
    return Draft(np.minimum(unsure.argmax(1), completion), logits)


def _followed(
    model: Transformer, format: Format, gold: Rendered
) -> tuple[dict[str, Ints], NDArray[np.uint8] | None]:
    """Where tokens of texts stand, by axis [N, T], and what may follow each [N, T], as indexes into formats.ALLOWED;
    None where anything may."""
    walk = Walk(format, gold.problems, model.axes)
    told = walk.read(gold.ids[:, :-1]) if walk.axes or walk.restricts else {}
    return told, walk.choices if walk.restricts else None


def _batches(lengths: Ints, told: Mapping[str, Ints], batch_size: int, device: str) -> list[Ints]:
    """All rows [N] in batches: where many stand alike, by themselves, as what a model makes of coordinates it then
    makes once for all of them; the others by length."""
    most, found, rest = SCORED_TOKENS[device], [], np.arange(len(lengths))
    if told:
        # numbers that stand for all coordinates of a row; were two rows to share one by chance, they would only come
        # together as rows of one length do
        draw = np.random.default_rng(0)
        keys = sum(known @ draw.integers(1 << 62, size=known.shape[1]) for known in told.values())
        _, kind, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for one in np.flatnonzero(2 * counts * lengths.max(initial=0) >= most):
            rows = np.flatnonzero(kind == one)
            each = max(1, min(batch_size, most // int(lengths[rows].max())))
            found += np.array_split(rows, -(-len(rows) // each))
            counts[one] = 0
        rest = np.flatnonzero(counts[kind])
    return found + [
        rest[part] for part in batches_by_length(lengths[rest], batch_size, most, BATCH_COST[device])
    ]


def alike(told: Mapping[str, Ints]) -> Mapping[str, Ints]:
    """Coordinates [N, T] as those of one row, if all rows stand alike."""
    same = all((known == known[:1]).all() for known in told.values())
    return {axis: known[:1] for axis, known in told.items()} if same else told


def _score_rows(
    model: Transformer,
    gold: Rendered,
    rows: Ints,
    told: Mapping[str, Ints],
    choices: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.float32], Bools]:
    logits, ids, first = _logits(model, gold, rows, told, choices)
    column = np.arange(int(gold.lengths[rows].max()))
    counted = (column >= gold.prompt_lengths[rows, None]) & (column < gold.lengths[rows, None])
    lead = np.zeros(counted.shape, np.float32)
    lead[:, first + 1 :] = gold_lead(logits, ids).cpu().numpy()
    return lead, counted


@torch.inference_mode()
def _logits(
    model: Transformer,
    gold: Rendered,
    rows: Ints,
    told: Mapping[str, Ints],
    choices: NDArray[np.uint8] | None,
) -> tuple[Tensor, Tensor, int]:
    """Logits (R, T, V) of some rows behind token `first` and on, the gold tokens (R, T) that come there, and `first`.
    `choices` [N, T] say what may follow each token, as indexes into formats.ALLOWED."""
    width = int(gold.lengths[rows].max())
    # what stands before the last token of the shortest prompt predicts nothing that counts
    first = int(gold.prompt_lengths[rows].min()) - 1
    device = model.embedding.weight.device
    ids = torch.from_numpy(gold.ids[rows, :width]).to(device).long()
    stand = alike({axis: known[rows, : width - 1] for axis, known in told.items()})
    coordinates = as_tensors(stand, device)
    logits = torch.cat(list(read(model, ids[:, :-1], coordinates)), dim=1)[:, first:]
    if choices is not None:
        may = torch.from_numpy(ALLOWED[choices[rows, first : width - 1]]).to(device)
        logits = logits.masked_fill(~may, -torch.inf)
    return logits, ids[:, first + 1 :], first


def gold_lead(logits: Tensor, gold: Tensor) -> Tensor:
    """How far gold's logit is ahead of the best other one: logits (B, T, V), gold (B, T) -> (B, T)."""
    own = logits.gather(-1, gold[..., None])
    others = logits.scatter(-1, gold[..., None], -torch.inf)
    return own[..., 0] - others.amax(-1)
