"""Texts that a model has written, and what evaluation asks of a model with its format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mathllm.formats import Format, Rendered
from mathllm.inference.engine import CUT, Generation
from mathllm.tasks.numbers import Bools, Digits, Ints
from mathllm.tokenizer import END, Ids, unflatten

# a completion of more than twice the gold one's tokens, and this, is taken not to end: it could go on to the model's
# last token, which may be thousands
SLACK = 32


def most_tokens(gold: Rendered) -> Ints:
    """How many tokens [N] a completion may have before it counts as one without end: of each row by itself, so that
    its verdict does not depend on what it was decoded with."""
    most: Ints = 2 * (gold.lengths - gold.prompt_lengths) + SLACK
    return most


@dataclass(frozen=True)
class Written(Rendered):
    """Texts of a model, prompts and completions (the stop token included): why each ended, as an index [N] into
    inference.engine.REASONS, and the log-probabilities [N, C] of its completion's tokens, 0 behind them."""

    reasons: Digits
    log_probs: NDArray[np.float32]

    def __getitem__(self, rows: Any) -> Written:
        texts = super().__getitem__(rows)
        parts = texts.problems, texts.ids, texts.lengths, texts.prompt_lengths
        return Written(*parts, self.reasons[rows], self.log_probs[rows])


class Reasoner(Protocol):
    """A model with its format: see math_model.MathModel."""

    format: Format

    @property
    def max_length(self) -> int: ...

    def score(self, gold: Rendered, *, batch_size: int = 1024) -> Iterator[tuple[Ints, Ints, Bools]]: ...

    def complete(self, texts: Rendered, *, batch_size: int = 1024, limits: Ints | None = None) -> Written: ...


def join(texts: Rendered, written: Generation, limits: Ints | None = None) -> Written:
    """The prompts of texts with completions behind them, each cut to at most `limits` [N] tokens."""
    lengths, reasons, prompts = written.lengths, written.reasons, texts.prompt_lengths
    if limits is not None:
        reasons = np.where(lengths > limits, np.uint8(CUT), reasons)
        lengths = np.minimum(lengths, limits)
    column, width = np.arange(int(prompts.max(initial=0))), written.ids.shape[1]
    inside = [column < prompts[:, None], np.arange(width) < lengths[:, None]]
    ids = np.concatenate([texts.ids[:, : len(column)], written.ids], axis=1)
    packed, total = pack(ids, np.concatenate(inside, axis=1))
    log_probs = written.log_probs * inside[1]
    return Written(texts.problems, packed, total, prompts, reasons, log_probs)


def pack(ids: Ids, inside: Bools) -> tuple[Ids, Ints]:
    """Those ids [N, T] that are inside [N, T], moved to the left and padded; and how many there are [N]."""
    lengths = inside.sum(1)
    return unflatten(ids[inside], lengths), lengths


def pad_ids(ids: Ids, width: int) -> Ids:
    """Ids [N, T] with `<end>` behind them up to `width`; wider ones stay as they are."""
    missing = width - ids.shape[1]
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=END) if missing > 0 else ids
