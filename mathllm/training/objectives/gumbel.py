"""Thoughts that only the answer is scored for: tokens that the model draws itself, with a gradient through the draw.

The prompt and `<think>` are read, then each thought is emitted from the logits before it and goes back in as an
embedding, and after `</think>` the answer is teacher-forced. What the text's own thought says is never looked at,
unless the first ones are supervised to begin with. In the last part of training there is no noise, so that thoughts
are those of greedy decoding.

Sources: the Gumbel-Softmax and its straight-through form (Categorical Reparameterization with Gumbel-Softmax, arXiv
1611.01144). Ours scales the gradient of the relaxation by the temperature squared, as distillation does (arXiv
1503.02531), so that a higher one spreads it over more tokens without making it weaker, and may stop it some thoughts
back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mathllm.data.batches import IGNORED
from mathllm.errors import UsageError, check_at_least, check_choice
from mathllm.flags import listed
from mathllm.formats import FORMATS, Format, Rendered
from mathllm.limits import MAX_STEPS, check_range
from mathllm.model.cache import GrowingCache
from mathllm.model.transformer import Transformer
from mathllm.tasks.numbers import Bools, Ints
from mathllm.tokenizer import END_THINK
from mathllm.training.objectives import Lesson, Moment, Objective, Room

DIGITS = 10  # what thoughts are made of
CALM = 0.8  # of training, after which there is no noise left, and the temperature stays
ESTIMATORS = ("straight-through", "soft", "argmax", "exact")


@dataclass(frozen=True)
class GumbelSettings:
    """`estimator`: `straight-through` (a token forward, the softmax backward), `soft` (mixtures both ways), `argmax`
    (tokens without a gradient), `exact` (the last thought summed over all its values, the ones before it tokens
    without a gradient). The softmax has `temperature`, which goes to `temperature_end` (0: stays), and Gumbel noise
    times `noise`, which goes to 0; both have arrived after 80% of training. The gradient goes through the last
    `gradient_slots` thoughts (0: all). In the first `warmup_steps` the first `supervised` thoughts are
    teacher-forced.
    """

    estimator: str = "straight-through"
    temperature: float = 1.0
    temperature_end: float = 0.0
    noise: float = 1.0
    gradient_slots: int = 0
    supervised: int = 0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, ESTIMATORS)
        for name in ("temperature_end", "noise"):
            check_at_least(f"objective.{name}", getattr(self, name), 0)
        for name in ("gradient_slots", "supervised", "warmup_steps"):
            check_range(f"objective.{name}", getattr(self, name), 0, MAX_STEPS)
        for temperature in (self.temperature, self.temperature_end or self.temperature):
            if not 0.01 <= temperature <= 100:
                raise UsageError(f"a temperature is from 0.01 to 100, not {temperature:g}")
        if bool(self.supervised) != bool(self.warmup_steps):
            raise UsageError(
                "objective.supervised and objective.warmup_steps belong together: how many first thoughts are "
                "supervised, and for how many steps"
            )


@dataclass(frozen=True)
class ThoughtBatch:
    """Rows with prompts of one length and as many thoughts: `prompt` (B, P) with `<think>`, `thoughts` (B, K) as the
    text has them, `rest` (B, A) from `</think>` on, the tokens that follow each of these, `targets` (B, A), and the
    coordinates (B, P + K + A) of all by axis, for a model that uses them."""

    prompt: Tensor
    thoughts: Tensor
    rest: Tensor
    targets: Tensor
    coordinates: Mapping[str, Tensor]


class GumbelThoughts(Objective):
    """The objective of `--use-gumbel`: texts are as they are written, but their thoughts will be the model's own."""

    Settings = GumbelSettings
    own_thoughts = True

    @staticmethod
    def check(format: Format, compiled: bool) -> None:
        """Raises UsageError where a text has no thoughts, or nobody knows how many, and for a compiled model."""
        if not format.counted:
            raise UsageError(
                f"format {format.name!r} leaves no thought of a known length to the model",
                f"use --format {listed(name for name, one in FORMATS.items() if one.counted)}",
            )
        if compiled:
            reason = "thoughts are emitted one by one: there is nothing to compile"
            raise UsageError(reason, "leave out --compile")

    def scored(self, rendered: Rendered) -> Bools:
        """True [N, T] for the answers, `<end>` included."""
        column = np.arange(rendered.ids.shape[1])
        return rendered.loss_mask & (column > _thought_ends(rendered)[:, None])

    def batches(self, lesson: Lesson, rows: Ints, room: Room) -> Iterator[ThoughtBatch]:
        """The given rows by length of prompt and of thought."""
        rendered, max_tokens = lesson.rendered, room.tokens
        if self.settings.estimator == "exact":
            max_tokens //= DIGITS  # the last thought and what follows come in as many versions
        prompts, ends = rendered.prompt_lengths[rows], _thought_ends(rendered)[rows]
        for prompt, end in np.unique(np.stack([prompts, ends], 1), axis=0):
            group = rows[(prompts == prompt) & (ends == end)]
            size = max(1, min(room.rows, max_tokens // int(rendered.lengths[group].max())))
            for start in range(0, len(group), size):
                part = group[start : start + size]
                yield make_thought_batch(lesson, part, prompt=prompt + 1, end=end, device=room.device)

    def loss(self, model: nn.Module, batch: ThoughtBatch, moment: Moment) -> dict[str, Tensor]:
        """The cross entropy of the answers' tokens, at the given share of training."""
        config, fading = self.settings, max(0.0, 1 - moment.progress / CALM)
        supervised = config.supervised if moment.step < config.warmup_steps else 0
        cold = config.temperature_end or config.temperature
        temperature = cold * (config.temperature / cold) ** fading
        weight = cast(Transformer, getattr(model, "module", model)).embedding.weight
        cache = GrowingCache()
        logits, loss = self._read(model, batch.prompt, batch, cache)[:, -1], weight.new_zeros(())
        number = batch.thoughts.shape[1]
        first_with_gradient = number - config.gradient_slots if config.gradient_slots else 0
        for slot in range(number):
            digits = logits[:, :DIGITS]
            if slot < supervised:
                gold = batch.thoughts[:, slot]
                loss = loss + F.cross_entropy(logits, gold, reduction="sum")
                thought = F.one_hot(gold, DIGITS).to(weight.dtype)
            elif config.estimator == "exact" and slot == number - 1:
                return {"loss": loss + self._summed_out(model, batch, cache, digits, weight)}
            else:
                noise = gumbel(digits.shape, moment.generator) * (config.noise * fading)
                thought = emit(digits, noise.to(digits.device), temperature, config.estimator)
                if slot < first_with_gradient:
                    thought = thought.detach()
            logits = self._read(model, embed(thought, weight), batch, cache)[:, -1]
        answers = self._read(model, batch.rest, batch, cache)
        scored = F.cross_entropy(
            answers.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return {"loss": loss + scored}

    @staticmethod
    def _read(model: nn.Module, tokens: Tensor, batch: ThoughtBatch, cache: GrowingCache) -> Tensor:
        """Logits (R, T, V) of ids (R, T) or embeddings (R, T, C) that come next in the rows of a batch."""
        part = slice(cache.length, cache.length + tokens.shape[1])
        times = len(tokens) // len(batch.prompt)
        coordinates = {axis: known[:, part] for axis, known in batch.coordinates.items()}
        if times > 1:
            coordinates = {axis: known.repeat_interleave(times, 0) for axis, known in coordinates.items()}
        logits: Tensor = model(tokens, coordinates, cache)
        return logits

    def _summed_out(
        self, model: nn.Module, batch: ThoughtBatch, cache: GrowingCache, digits: Tensor, weight: Tensor
    ) -> Tensor:
        """- log of the answers' likelihood, summed over all values of the last thought: no draw, and no
        relaxation."""
        cache.repeat(DIGITS)
        rows = len(digits)
        every = torch.eye(DIGITS, device=digits.device).repeat(rows, 1)
        self._read(model, embed(every, weight), batch, cache)
        answers = self._read(model, batch.rest.repeat_interleave(DIGITS, 0), batch, cache)
        targets = batch.targets.repeat_interleave(DIGITS, 0)
        scored = F.cross_entropy(answers.mT, targets, ignore_index=IGNORED, reduction="none").sum(1)
        return -(digits.log_softmax(-1) - scored.view(rows, DIGITS)).logsumexp(-1).sum()


def embed(thought: Tensor, weight: Tensor) -> Tensor:
    """Thoughts (B, D) as embeddings (B, 1, C), by the one way that there is for tokens and mixtures of them."""
    with torch.autocast(thought.device.type, enabled=False):  # tokens are looked up in full precision
        return (thought.to(weight.dtype) @ weight[:DIGITS])[:, None]


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, made on the CPU so that it is the same everywhere."""
    uniform = torch.rand(shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def emit(logits: Tensor, noise: Tensor, temperature: float, estimator: str) -> Tensor:
    """Thoughts (B, D) from logits (B, D): a token each, with the gradient of a relaxation, or the relaxation
    itself."""
    soft = ((logits + noise) / temperature).softmax(-1)
    if estimator == "soft":
        return soft
    hard = F.one_hot(soft.argmax(-1), logits.shape[-1]).to(soft.dtype)
    if estimator == "straight-through":
        return hard + temperature**2 * (soft - soft.detach())
    return hard


def make_thought_batch(
    lesson: Lesson, rows: Ints, *, prompt: int, end: int, device: torch.device
) -> ThoughtBatch:
    """Rows whose thoughts begin at column `prompt` and whose `</think>` is at column `end`."""
    rendered = lesson.rendered
    lengths = rendered.lengths[rows]
    ids = torch.from_numpy(rendered.ids[rows, : int(lengths.max())].astype(np.int64)).to(device)
    behind = np.arange(end + 1, ids.shape[1]) >= lengths[:, None]
    targets = ids[:, end + 1 :].masked_fill(torch.from_numpy(behind).to(device), IGNORED)
    located = {
        axis: torch.from_numpy(known[rows, : ids.shape[1] - 1]).to(device)
        for axis, known in lesson.coordinates.items()
    }
    return ThoughtBatch(ids[:, :prompt], ids[:, prompt:end], ids[:, end:-1], targets, located)


def _thought_ends(rendered: Rendered) -> Ints:
    """The column of each row's `</think>` [N]."""
    ends: Ints = (rendered.ids == END_THINK).argmax(1)
    return ends
