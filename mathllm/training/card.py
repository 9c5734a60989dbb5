"""The model card: README.md beside a checkpoint's weights."""

from __future__ import annotations

from typing import Any

from mathllm import __version__
from mathllm.config import Config
from mathllm.training.state import Progress


def model_card(
    config: Config, parameters: int, progress: Progress, test: dict[str, Any] | None = None
) -> str:
    """What the model is, what it was trained on, how well it does with counts, and its limits. Markdown."""
    data, model, train = config.data, config.model, config.train
    first = f"the first {data.num_examples:,} rows of " if data.num_examples else ""
    if data.data_dir:
        source = f"{first}`{data.data_dir}/train.jsonl`"
    else:
        source = f"{first}an endless stream{'' if first else ', new problems at every step'}"
    lines = [
        f"# {data.task}, up to {data.max_digits} digits",
        "",
        f"A {model.size} decoder of {parameters:,} parameters ({model.layers} layers of width {model.hidden}, position "
        f"`{model.position}`), trained with mathllm {__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| task | {data.task}, operands of up to {data.max_digits} digits, up to {data.max_operands} of them |",
        f"| format | `{data.format}`{', zero-padded' if data.zero_pad else ''} |",
        f"| training data | {source}; sampling `{data.sampling}` |",
        f"| training | {progress.step:,} steps, {progress.rows:,} rows, {config.optim.optimizer}, "
        f"seed {train.seed}, {progress.seconds:.0f} s |",
    ]
    if progress.best_step:
        lines.append(f"| validation | exact match {progress.best_exact_match:.2%} at step {progress.best_step:,} |")
    if test is not None:
        low, high = test["exact_match_ci95"]
        lines.append(
            f"| test | exact match {test['exact_match']:.4%}: {test['correct']:,} of {test['num_examples']:,} "
            f"problems never trained on, 95% interval {low:.4%} to {high:.4%} |"
        )
    lines += [
        "",
        "All settings are in `training_config.json`. To ask it something: `mathllm chat --checkpoint` this directory.",
        "",
        f"Limits: nothing is known about numbers of more than {data.max_digits} digits or about other operations; "
        "what the figures above were not counted on may be wrong.",
        "",
    ]
    return "\n".join(lines)
