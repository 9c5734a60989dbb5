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

SIZE, PROMPT, WRITTEN = "small", 8, 32
BATCHES = (1, 64, 1024)


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    config = build_config({"model": {"size": SIZE, "max_length": 64}}).model
    model = Transformer.from_config(config).to(device).eval()
    found = []
    for batch in BATCHES:
        prompts = np.random.default_rng(0).integers(0, 10, (batch, PROMPT)).astype(np.uint8)
        lengths = np.full(batch, PROMPT)
        work = partial(generate, model, prompts, lengths, WRITTEN, stop=-1)
        times = seconds_of(work, options.repeats, device)
        ids = torch.from_numpy(prompts).to(device).long()
        firsts = seconds_of(partial(first_token, model, ids), options.repeats, device)
        tokens = batch * WRITTEN
        first, each = (1e3 * statistics.median(seconds) for seconds in (firsts, times))
        more = {"ms_to_first_token": first, "ms_per_token": each / WRITTEN}
        found.append(rate(f"{SIZE}, batch {batch:,}, {WRITTEN} tokens", tokens, "tokens/s", times, **more))
    return found


def first_token(model: Transformer, prompts: torch.Tensor) -> None:
    next(decode(model, prompts, WRITTEN, stop=-1))
