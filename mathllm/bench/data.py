"""Problems drawn, rendered and written, on one core."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mathllm.bench import Measurement, Options, rate, seconds_of
from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset
from mathllm.formats import formats_for, get_format
from mathllm.tasks import Sampling, get_tasks, sample

ROWS = 100_000


def measure(options: Options) -> list[Measurement]:
    cpu, rng = torch.device("cpu"), np.random.default_rng(0)
    (multiplication,) = get_tasks("multiplication")
    sums = sample(rng, ROWS, get_tasks("addition"), Sampling(3))
    products = multiplication.of_length(rng, ROWS, Sampling(3), stress=False)
    kinds = [(name, "up to 3 digits", sums) for name in formats_for("addition")]
    kinds += [(name, "products, 3 x 3 digits", products) for name in ("column", "scratchpad")]
    found = []
    for name, what, problems in kinds:
        times = seconds_of(partial(get_format(name).render, problems), options.repeats, cpu)
        found.append(rate(f"rendered, {name}, {what}", ROWS, "rows/s", times))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "data"
        times = seconds_of(
            lambda: generate_dataset(DataConfig(), ROWS, 0, out, overwrite=True), options.repeats, cpu
        )
    return [*found, rate("drawn, rendered and written, column", ROWS, "rows/s", times)]
