"""Decoding with the key/value cache: tokens a second by batch, and how soon the first one comes."""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
import torch

from mathllm.bench import Measurement, Options, rate, seconds_of
from mathllm.config import build_config
from mathllm.device import pick_device
from mathllm.inference.engine import decode, generate
from mathllm.model.transformer import Transformer

SIZES = ("small",)  # where none is asked for
PROMPT, WRITTEN = 8, 32
BATCHES = (1, 64, 1024)


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    return [
        decoded(size, batch, options.repeats, device) for size in options.sizes or SIZES for batch in BATCHES
    ]


def decoded(size: str, batch: int, repeats: int, device: torch.device) -> Measurement:
    """Texts decoded together by a model of that size."""
    config = build_config({"model": {"size": size, "max_length": 64}}).model
    model = Transformer.from_config(config).to(device).eval()
    prompts = np.random.default_rng(0).integers(0, 10, (batch, PROMPT)).astype(np.uint8)
    work = partial(generate, model, prompts, np.full(batch, PROMPT), WRITTEN, stop=-1)
    times = seconds_of(work, repeats, device)
    ids = torch.from_numpy(prompts).to(device).long()
    firsts = seconds_of(partial(first_token, model, ids), repeats, device)
    first, each = (1e3 * statistics.median(seconds) for seconds in (firsts, times))
    more = {"ms_to_first_token": first, "ms_per_token": each / WRITTEN}
    what = f"{size}, batch {batch:,}, {WRITTEN} tokens"
    return rate(what, batch * WRITTEN, "tokens/s", times, **more)


def first_token(model: Transformer, prompts: torch.Tensor) -> None:
    next(decode(model, prompts, WRITTEN, stop=-1))
