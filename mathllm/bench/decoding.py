"""Decoding with the key/value cache: tokens a second by batch, and how soon the first one comes."""

from __future__ import annotations

import statistics
import time

import torch

from mathllm.bench.measure import Measurement, Options, rate, wait_for
from mathllm.config import build_config
from mathllm.device import pick_device
from mathllm.inference.engine import decode
from mathllm.model import Transformer

SIZE, PROMPT, WRITTEN = "small", 8, 32
BATCHES = (1, 64, 1024)


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    config = build_config({"model": {"size": SIZE, "max_length": 64}}).model
    model = Transformer.from_config(config).to(device).eval()
    found = []
    for batch in BATCHES:
        prompts = torch.randint(10, (batch, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
        times, firsts = [], []
        for run in range(options.repeats + 1):
            first, whole = decode_once(model, prompts, device)
            if run:
                times.append(whole)
                firsts.append(first)
        tokens = batch * WRITTEN
        more: dict[str, float | str] = {
            "ms_to_first_token": 1e3 * statistics.median(firsts),
            "ms_per_token": 1e3 * statistics.median(times) / WRITTEN,
        }
        found.append(rate(f"{SIZE}, batch {batch:,}, {WRITTEN} tokens", tokens, "tokens/s", times, **more))
    return found


def decode_once(model: Transformer, prompts: torch.Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds to the first token, and to the last; nothing ends a row."""
    wait_for(device)
    started, first = time.perf_counter(), 0.0
    for _ in decode(model, prompts, WRITTEN, stop=-1):
        if not first:
            wait_for(device)
            first = time.perf_counter() - started
    wait_for(device)
    return first, time.perf_counter() - started
