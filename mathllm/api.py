"""The Python API: what the command line does, as functions on plain values.

import mathllm
from mathllm.config import build_config

mathllm.generate_data("data", task="addition", num_examples=10_000)
run = mathllm.train(build_config({"data": {"data_dir": "data"}, "train": {"output_dir": "checkpoints/mine"}}))
model = mathllm.load(run.run)
model.solve("658+189").answer
mathllm.evaluate(model, "data/test.jsonl").exact_match
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mathllm.checkpoint import load_checkpoint
from mathllm.config import build_config
from mathllm.data.files import generate_dataset
from mathllm.device import pick_device
from mathllm.errors import UsageError, check_at_least, check_whole
from mathllm.evaluation.report import Report
from mathllm.inference.sampling import SamplingParams
from mathllm.math_model import MathModel
from mathllm.resolve import resolve_data
from mathllm.training.run import train

__all__ = ["evaluate", "generate_data", "load", "train"]


def load(
    path: str | Path | None = None, device: str = "auto", temperature: float = 0.0, seed: int = 0
) -> MathModel:
    """The checkpoint at a directory or file, or the newest one; temperature 0 decodes greedily.

    Raises CheckpointError where there is none or it is damaged.
    """
    if not isinstance(device, str):
        raise UsageError(f"a device is a name like 'cpu', not {device!r}")
    check_at_least("temperature", temperature, 0)
    path = None if path is None else _path("a checkpoint", path)
    return load_checkpoint(path, pick_device(device), params=SamplingParams(temperature), seed=seed)


def evaluate(model: MathModel, problems: str | Path | Iterable[str], batch_size: int = 1024) -> Report:
    """Exact match of a model on a data file, or on a list of expressions."""
    if not isinstance(model, MathModel):
        raise UsageError(f"a model is what mathllm.load returns, not {model!r}")
    return model.evaluate(problems, batch_size)


def generate_data(
    output_dir: str | Path,
    num_examples: int = 100_000,
    seed: int = 0,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Writes a dataset directory; `settings` are fields of `DataConfig` (task, format, max_digits ...).

    Returns what metadata.json says. Raises UsageError for settings that do not go together, or are none.
    """
    check_whole("the seed", seed, 0)
    place = _path("output_dir", output_dir)
    data = resolve_data(build_config({"data": settings}).data)
    return generate_dataset(data, num_examples, seed, place, overwrite)


def _path(what: str, value: str | Path) -> Path:
    """A place as a path: to `Path`, an empty text is the current directory. Raises UsageError for what is none."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UsageError(f"{what} is a path, not {value!r}")
    return Path(value)
