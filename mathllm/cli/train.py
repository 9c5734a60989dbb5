"""`mathllm train`: a run from flags, a recipe and --set, in the order that `mathllm.config` says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mathllm.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mathllm.config import Config
    from mathllm.training.run import TrainResult

MODEL, DATA, OPTIMIZATION, RUN = "Model", "Data", "Optimization", "Run"

EPILOG = """Examples: [cyan]mathllm train[/] (on data/ if mathllm gen-data wrote it, else on an endless stream);
[cyan]mathllm train --task addition --max-digits 3 --model-size nano[/];
[cyan]mathllm train --recipe addsub-3digit[/]; [cyan]torchrun --nproc-per-node 2 -m mathllm train[/].
Everything else: [cyan]--set section.key=value[/], for example --set model.layers=3. Precedence: size < recipe <
--set < flag."""


def option(help_text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False, **more)


def train(
    model_size: Annotated[Optional[str], option("nano, small, medium or large [default: small]", MODEL)] = None,
    position: Annotated[Optional[str], option("learned, sinusoidal, rope or nope [default: rope]", MODEL)] = None,
    max_length: Annotated[
        Optional[int], option("Tokens of prompt and completion [default: what the data needs]", MODEL)
    ] = None,
    data_dir: Annotated[Optional[str], option("Directory that mathllm gen-data wrote", DATA)] = None,
    task: Annotated[Optional[str], option("addition, subtraction or both, comma-separated: a stream", DATA)] = None,
    format: Annotated[Optional[str], option("column, pairwise, reversed or plain [default: column]", DATA)] = None,
    max_digits: Annotated[Optional[int], option("Digits of the longest operand of a stream", DATA)] = None,
    batch_size: Annotated[Optional[int], option("Rows per step (and process)", OPTIMIZATION)] = None,
    grad_accumulation: Annotated[Optional[int], option("Batches added up for one step", OPTIMIZATION)] = None,
    learning_rate: Annotated[Optional[float], option("Peak learning rate of AdamW", OPTIMIZATION)] = None,
    weight_decay: Annotated[Optional[float], option("Weight decay of matrices", OPTIMIZATION)] = None,
    optimizer: Annotated[Optional[str], option("muon (with AdamW for the rest) or adamw", OPTIMIZATION)] = None,
    schedule: Annotated[Optional[str], option("linear, cosine or constant", OPTIMIZATION)] = None,
    warmup_steps: Annotated[Optional[int], option("Steps of linear warm-up", OPTIMIZATION)] = None,
    num_epochs: Annotated[Optional[int], option("Times through the data", OPTIMIZATION)] = None,
    max_steps: Annotated[Optional[int], option("Steps, instead of epochs", OPTIMIZATION)] = None,
    target_exact_match: Annotated[
        Optional[float], option("Stop when validation reaches this share", OPTIMIZATION)
    ] = None,
    patience: Annotated[Optional[int], option("Stop after so many evaluations without a better one", OPTIMIZATION)] = None,
    recipe: Annotated[Optional[str], option("A named recipe, or a TOML file", RUN)] = None,
    set_: Annotated[Optional[list[str]], option("Any setting: section.key=value (repeatable)", RUN, "--set")] = None,
    output_dir: Annotated[Optional[str], option("Where the run goes [default: checkpoints/TASK-SIZE]", RUN)] = None,
    resume: Annotated[bool, option("Go on with the run in the output directory", RUN, "--resume")] = False,
    overwrite: Annotated[bool, option("Delete the run in the output directory first", RUN, "--overwrite")] = False,
    seed: Annotated[Optional[int], option("Seed of weights and data", RUN)] = None,
    device: Annotated[Optional[str], option("auto, cpu, cuda or cuda:N", RUN)] = None,
    precision: Annotated[Optional[str], option("auto, fp32, bf16 or fp16", RUN)] = None,
    fp16: Annotated[bool, option("Short for --precision fp16", RUN, "--fp16")] = False,
    compile: Annotated[Optional[bool], option("Compile the model with torch.compile", RUN, "--compile/--no-compile")] = None,
    eval_batch_size: Annotated[Optional[int], option("Rows per batch of evaluation", RUN)] = None,
    eval_steps: Annotated[Optional[int], option("Steps between evaluations", RUN)] = None,
    save_steps: Annotated[Optional[int], option("Steps between checkpoints", RUN)] = None,
    logging_steps: Annotated[Optional[int], option("Steps between log lines", RUN)] = None,
    wandb: Annotated[
        Optional[bool], option("Log to Weights & Biases [default: if logged in]", RUN, "--wandb/--no-wandb")
    ] = None,
    show_loss_mask: Annotated[
        bool, option("Show which tokens of a few rows are trained on, and stop", RUN, "--show-loss-mask")
    ] = False,
) -> None:
    """Train a model and keep the best checkpoint.

    Without a flag: the small model on data/, or on an endless stream if there is none. Writes checkpoints, metrics.jsonl,
    logs/training.log and test_results.json under the output directory. Ctrl-C saves first; --resume goes on exactly.
    """
    flags = locals()
    from rich.console import Console

    from mathllm.training.distributed import is_main
    from mathllm.training.run import train as run_training

    config = config_from_flags(flags)
    if show_loss_mask:
        print_loss_mask(config)
        return
    console = Console(stderr=True)
    result = run_training(config, resume, overwrite, console)
    outcome = result.outcome
    if is_main():
        report(result, console)
    if outcome.reason == "signal":
        raise typer.Exit(128 + outcome.signal)


def report(result: TrainResult, console: Console) -> None:
    """How the run ended, and what to type next."""
    outcome, directory = result.outcome, shlex.quote(str(result.run))
    if outcome.reason == "signal":
        say(console, f"stopped and saved at step {outcome.step:,}")
        say(console, f"to go on: mathllm train --resume --output-dir {directory}")
        return
    endings = {
        "finished": "finished",
        "target": "reached the target",
        "patience": "stopped, since nothing better came",
    }
    say(console, f"{endings[outcome.reason]} after {outcome.step:,} steps, {outcome.seconds:.0f} s")
    if result.test is not None:
        test = result.test
        low, high = test["exact_match_ci95"]
        typer.echo(
            f"test exact match {test['exact_match']:.2%} ({test['correct']:,} of {test['num_examples']:,}; "
            f"95% interval {low:.2%} to {high:.2%})"
        )
    typer.echo(f"best checkpoint {result.run / 'best'}")
    say(console, f"next: mathllm chat --checkpoint {directory}")


def say(console: Console, text: str) -> None:
    """A line of talk on stderr, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# which setting each flag is
SETTINGS = {
    "model": ("model_size", "position", "max_length"),
    "data": ("data_dir", "task", "format", "max_digits"),
    "optim": ("learning_rate", "weight_decay", "optimizer", "schedule", "warmup_steps"),
    "train": (
        "batch_size",
        "grad_accumulation",
        "num_epochs",
        "max_steps",
        "target_exact_match",
        "patience",
        "output_dir",
        "seed",
        "device",
        "precision",
        "compile",
        "eval_batch_size",
        "eval_steps",
        "save_steps",
        "logging_steps",
    ),
}


def config_from_flags(flags: dict[str, Any]) -> Config:
    """The Config that flags, recipe and --set amount to, on top of the run's own settings when it is resumed."""
    from mathllm.config import build_config, parse_assignments
    from mathllm.training.run import complete, saved_settings

    tables: dict[str, dict[str, Any]] = {
        section: {name: flags[name] for name in names if flags[name] is not None}
        for section, names in SETTINGS.items()
    }
    if "model_size" in tables["model"]:
        tables["model"]["size"] = tables["model"].pop("model_size")
    if flags["fp16"]:
        if flags["precision"] not in (None, "fp16"):
            raise UsageError(f"--fp16 and --precision {flags['precision']} exclude each other")
        tables["train"]["precision"] = "fp16"
    if flags["wandb"] is not None:
        tables["train"]["wandb"] = "on" if flags["wandb"] else "off"
    recipe, assigned = flags["recipe"], parse_assignments(flags["set_"] or [])
    wanted = build_config(assigned, tables, recipe=recipe)
    data = data_settings(wanted.data.data_dir, {**assigned.get("data", {}), **tables["data"]}, recipe)
    config = build_config(data, assigned, tables, recipe=recipe)
    if flags["resume"]:
        saved = saved_settings(Path(complete(config).train.output_dir))
        # a data directory that merely lies about is not what the run was started on
        named = data if wanted.data.data_dir else {}
        config = build_config(saved, named, assigned, tables, recipe=recipe)
    return config


def data_settings(data_dir: str, asked: dict[str, Any], recipe: str | None) -> dict[str, dict[str, Any]]:
    """What the data directory says about its problems: the one named, or data/ where nothing asks for a stream."""
    from mathllm.config import load_recipe
    from mathllm.data.files import read_metadata
    from mathllm.training.run import FACTS

    if data_dir:
        facts = [name for name in FACTS if name in asked]
        if facts:
            raise UsageError(
                f"{facts[0]} is what a stream of problems is asked for, but {data_dir} has its own problems",
                "leave out the one or the other",
            )
    elif any(name != "format" for name in asked) or (recipe and load_recipe(recipe).get("data")):
        return {}
    elif not Path("data/metadata.json").is_file():
        return {}
    data_dir = data_dir or "data"
    return {"data": {**read_metadata(Path(data_dir))["data"], "data_dir": data_dir}}


def print_loss_mask(config: Config) -> None:
    """Three training rows; the tokens that count in the loss are underlined."""
    from mathllm.formats import get_format
    from mathllm.tokenizer import TOKENS
    from mathllm.training.run import complete, load_splits

    config = complete(config)
    notation = get_format(config.data.format, config.data.zero_pad)
    rendered = notation.render(load_splits(config).source.problems(0, 3))
    for ids, mask, length in zip(rendered.ids, rendered.loss_mask, rendered.lengths, strict=True):
        tokens = [(TOKENS[i], counted) for i, counted in zip(ids[:length], mask[:length], strict=True)]
        typer.echo("".join(token for token, _ in tokens))
        typer.echo("".join(("^" if counted else " ") * len(token) for token, counted in tokens))
