"""The model card: README.md beside a checkpoint's weights."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from typing import Any

from mathllm import __version__
from mathllm.config import Config, ModelConfig, ObjectiveConfig, build_config
from mathllm.data.sources import STREAM_SETTINGS, format_of, sampling
from mathllm.percent import percent
from mathllm.resolve import suits
from mathllm.tasks import extent
from mathllm.training.state import Progress


def model_card(
    config: Config, parameters: int, progress: Progress, test: dict[str, Any] | None = None
) -> str:
    """What the model is, what it was trained on, how well it does with counts, and its limits. Markdown."""
    data, model = config.data, config.model
    first = f"the first {data.num_examples:,} rows of " if data.num_examples else ""
    if data.data_dir:
        source = f"{first}`{data.data_dir}/train.jsonl`"
    else:
        source = f"{first}an endless stream{'' if first else ', new problems at every step'}"
    lines = [
        f"# {data.task} {extent(data.task, sampling(data))}",
        "",
        f"A {model.size} decoder of {parameters:,} parameters ({model.layers} layers, width {model.hidden}, "
        f"position `{model.position}`), trained with mathllm {__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| task | {data.task} {extent(data.task, sampling(data))}"
        f"{f', up to {data.max_operands} of them' if data.max_operands > 2 else ''}"
        f"{', numbers below zero too' if data.signed else ''} |",
        f"| format | `{data.format}`{', zero-padded' if data.zero_pad else ''} |",
        f"| training data | {source}; sampling `{data.sampling}` |",
        f"| training | {progress.step:,} steps, {progress.rows:,} rows, {config.optim.optimizer}, "
        f"seed {config.train.seed}, {progress.seconds:.0f} s |",
    ]
    if progress.best_step:
        right = f"{progress.best_correct:,} of {progress.validation_examples:,}"
        best = f"exact match {percent(progress.best_exact_match)} ({right}) at step {progress.best_step:,}"
        lines.append(f"| validation | {best} |")
    if test is not None:
        low, high = test["exact_match_ci95"]
        counts = f"{test['correct']:,} of {test['num_examples']:,} problems"
        seen = test.get("in_training", 0)
        counts += f", of which {seen:,} were trained on" if seen else " never trained on"
        interval = f"95% interval {percent(low, 4)} to {percent(high, 4)}"
        lines.append(f"| test | exact match {percent(test['exact_match'], 4)}: {counts}, {interval} |")
    lines += [
        "",
        f"Made by: `{command(config)}`",
        "",
        "All settings are in `training_config.json`. To ask it: `mathllm chat --checkpoint` this directory.",
        "",
        "Limits: nothing is known about larger problems or about other operations; what the figures above were not "
        "counted on may be wrong.",
        "",
    ]
    return "\n".join(lines)


def command(config: Config) -> str:
    """The command that trains such a model: all settings that are not the defaults."""
    chosen = {"size": config.model.size, "position": config.model.position}
    plain = build_config({"model": chosen, "objective": {"name": config.objective.name}}).to_dict()
    plain["model"] |= {"size": "", "position": ModelConfig.position}
    plain["objective"]["name"] = ObjectiveConfig.name
    suited = partial(suits, config.objective.name)
    # of one machine, and without influence (on more than the last bits)
    here = {"train.output_dir", "train.device", "train.wandb", "train.threads"}
    if config.data.data_dir:  # whose own format may be another one
        here |= {f"data.{name}" for name in STREAM_SETTINGS}
    elif format_of(config.data).name == format_of(replace(config.data, format=""), suited).name:
        here.add("data.format")  # it follows
    settings = [
        f"{section}.{key}={value}"
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if value != plain[section][key] and f"{section}.{key}" not in here
    ]
    return shlex.join(["mathllm", "train", *(word for setting in settings for word in ("--set", setting))])
