"""How long a recipe trains until validation, looked at every 50 steps and counted in, is 99%, 99.9% and 100%
right."""

from __future__ import annotations

import json
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console

from mathllm.bench import Measurement, Options
from mathllm.config import build_config
from mathllm.training.run import train
from mathllm.training.state import METRICS

TARGETS = (0.99, 0.999, 1.0)
EVERY = 50  # steps


def measure(options: Options) -> list[Measurement]:
    found = []
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            own = {"output_dir": str(run), "eval_steps": EVERY, "device": options.device, "wandb": "off"}
            config = build_config({"train": {**own, "target_exact_match": 1.0}}, recipe=recipe)
            train(config, console=Console(file=StringIO()))
            lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
        reached = [row for row in map(json.loads, lines) if "val/exact_match" in row]
        rows = config.train.batch_size * config.train.grad_accumulation
        for target in TARGETS:
            hit = next((row for row in reached if row["val/exact_match"] >= target), None)
            last = hit or reached[-1]
            seconds, more = last["perf/seconds"], {"examples": last["step"] * rows}
            note = {} if hit else {"note": "not reached"}
            found.append(
                Measurement(f"{recipe}, {target:.1%}", seconds, "s", seconds, seconds, 1, more | note)
            )
    return found
