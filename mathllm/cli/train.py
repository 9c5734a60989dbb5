"""`mathllm train`: a run from flags, a recipe and --set, in the order that `mathllm.config` says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathllm.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from mathllm.errors import UsageError
from mathllm.registry import POSITIONS

if TYPE_CHECKING:
    from rich.console import Console

    from mathllm.config import Config
    from mathllm.training.run import TrainResult

MODEL, DATA, THOUGHTS, OPTIMIZATION, OUTPUT, MACHINE, MORE = (
    *("Model", "Data", "Thoughts", "Optimization", "Output", "Machine"),
    "All other settings (a recipe gives way to --set, and both to a flag)",
)


def option(
    help_text: str, panel: str, default: Any = None, flag: str = "", metavar: str | None = None
) -> Any:
    """A flag that is None unless it is given, so that a recipe can decide; `default` is for the help."""
    shown = "" if default is None else f" [dim]\\[default: {default}][/]"
    names = [flag] if flag else []
    return typer.Option(
        *names, help=help_text + shown, rich_help_panel=panel, show_default=False, metavar=metavar
    )


def train(
    model_size: Annotated[
        str | None, option("nano, small, medium or large.", MODEL, ModelConfig.size)
    ] = None,
    position: Annotated[
        str | None, option(f"{', '.join(POSITIONS)}, or two: coupled+rope.", MODEL, ModelConfig.position)
    ] = None,
    max_length: Annotated[
        int | None, option("Tokens of prompt and completion.", MODEL, "what the data need")
    ] = None,
    data_dir: Annotated[
        str | None, option("Directory that mathllm gen-data made.", DATA, "data, if there is one")
    ] = None,
    task: Annotated[
        str | None,
        option(
            "Of a stream: addition, subtraction, multiplication, several with commas, or chain.",
            DATA,
            DataConfig.task,
        ),
    ] = None,
    format: Annotated[
        str | None,
        option(
            "column, pairwise, reversed, hinted, plain, slots; for chains steps and its controls.",
            DATA,
            "the data's, else column",
        ),
    ] = None,
    max_digits: Annotated[
        int | None, option("Of a stream: digits of the longest operand.", DATA, DataConfig.max_digits)
    ] = None,
    use_gumbel: Annotated[
        bool | None,
        option(
            "Score the answer alone: thoughts are the model's own.", THOUGHTS, flag="--use-gumbel/--no-gumbel"
        ),
    ] = None,
    gumbel_temperature: Annotated[
        float | None, option("Of the softmax behind a thought.", THOUGHTS, 1.0)
    ] = None,
    gumbel_temperature_end: Annotated[
        float | None, option("What it goes to over training.", THOUGHTS, "the same")
    ] = None,
    thought_length: Annotated[
        int | None, option("Thoughts in a text (format slots).", THOUGHTS, "digits + 1")
    ] = None,
    estimator: Annotated[
        str | None, option("straight-through, soft, argmax or exact.", THOUGHTS, "straight-through")
    ] = None,
    thought_warmup: Annotated[
        int | None, option("Steps with the first thought supervised (more: --set).", THOUGHTS, 0)
    ] = None,
    batch_size: Annotated[
        int | None, option("Rows of a step and process.", OPTIMIZATION, TrainConfig.batch_size)
    ] = None,
    grad_accumulation: Annotated[
        int | None, option("Batches added up for a step.", OPTIMIZATION, TrainConfig.grad_accumulation)
    ] = None,
    learning_rate: Annotated[
        float | None,
        option("AdamW's peak (Muon's: --set).", OPTIMIZATION, OptimConfig.learning_rate),
    ] = None,
    weight_decay: Annotated[
        float | None, option("Weight decay of matrices.", OPTIMIZATION, OptimConfig.weight_decay)
    ] = None,
    optimizer: Annotated[
        str | None, option("muon (AdamW for the rest) or adamw.", OPTIMIZATION, OptimConfig.optimizer)
    ] = None,
    schedule: Annotated[
        str | None, option("linear, cosine or constant.", OPTIMIZATION, OptimConfig.schedule)
    ] = None,
    warmup_steps: Annotated[
        int | None, option("Steps of linear warm-up.", OPTIMIZATION, OptimConfig.warmup_steps)
    ] = None,
    num_epochs: Annotated[
        int | None, option("Times through the data.", OPTIMIZATION, TrainConfig.num_epochs)
    ] = None,
    max_steps: Annotated[int | None, option("Steps, instead of epochs.", OPTIMIZATION)] = None,
    target_exact_match: Annotated[
        float | None, option("Stop when validation reaches this share.", OPTIMIZATION)
    ] = None,
    patience: Annotated[
        int | None, option("Stop after so many evaluations without a better one.", OPTIMIZATION)
    ] = None,
    output_dir: Annotated[str | None, option("Where the run goes.", OUTPUT, "checkpoints/TASK-SIZE")] = None,
    resume: Annotated[bool, option("Go on with the run there.", OUTPUT, flag="--resume")] = False,
    overwrite: Annotated[bool, option("Delete the run there first.", OUTPUT, flag="--overwrite")] = False,
    eval_steps: Annotated[
        int | None, option("Steps between evaluations.", OUTPUT, TrainConfig.eval_steps)
    ] = None,
    save_steps: Annotated[
        int | None, option("Steps between checkpoints.", OUTPUT, TrainConfig.save_steps)
    ] = None,
    logging_steps: Annotated[
        int | None, option("Steps between log lines.", OUTPUT, TrainConfig.logging_steps)
    ] = None,
    wandb: Annotated[
        bool | None, option("Log to W&B.", OUTPUT, "if logged in", flag="--wandb/--no-wandb")
    ] = None,
    show_loss_mask: Annotated[
        bool, option("Show what a few rows are trained on, and stop.", OUTPUT, flag="--show-loss-mask")
    ] = False,
    device: Annotated[str | None, option("auto, cpu, cuda or cuda:N.", MACHINE, TrainConfig.device)] = None,
    precision: Annotated[
        str | None,
        option("auto, fp32, bf16 (on a CPU: for those with AMX) or fp16.", MACHINE, TrainConfig.precision),
    ] = None,
    fp16: Annotated[bool, option("Short for --precision fp16.", MACHINE, flag="--fp16")] = False,
    compile: Annotated[
        bool | None, option("Use torch.compile.", MACHINE, "no", flag="--compile/--no-compile")
    ] = None,
    eval_batch_size: Annotated[
        int | None, option("Rows of a batch of evaluation.", MACHINE, TrainConfig.eval_batch_size)
    ] = None,
    seed: Annotated[int | None, option("Seed of weights and data.", MACHINE, TrainConfig.seed)] = None,
    recipe: Annotated[str | None, option("A named recipe, or a TOML file.", MORE)] = None,
    set_: Annotated[
        list[str] | None,
        option("Any setting, as in model.layers=3; repeatable.", MORE, flag="--set", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train a model, keep the best checkpoint, and test that on problems never seen.

    Without a flag: the small model on data/, or on an endless stream of new
    problems if mathllm gen-data has made no files. All goes to the output
    directory: checkpoints, metrics.jsonl, logs/training.log, test_results.json.
    Ctrl-C saves first, and --resume goes on exactly.

    \b
    mathllm train
    mathllm train --task addition,subtraction --max-digits 2 --model-size nano
    mathllm train --recipe addsub-3digit --output-dir checkpoints/mine
    torchrun --nproc-per-node 2 -m mathllm train
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
    "data": ("data_dir", "task", "format", "max_digits", "thought_length"),
    "objective": ("estimator",),
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
    """The Config that flags, recipe and --set amount to, on top of a run's own when it is resumed."""
    from mathllm.config import build_config, parse_assignments
    from mathllm.training.run import run_directory, saved_settings

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
    if flags["num_epochs"] is not None and flags["max_steps"] is None:
        tables["train"]["max_steps"] = 0  # those of a recipe, or of the run that goes on
    if flags["wandb"] is not None:
        tables["train"]["wandb"] = "on" if flags["wandb"] else "off"
    recipe, assigned = flags["recipe"], parse_assignments(flags["set_"] or [])
    tables["objective"] |= objective_settings(flags, assigned.get("objective", {}))
    # which objective it is, before its settings are read
    named = {**tables, "objective": {**assigned.get("objective", {}), **tables["objective"]}}
    named["objective"] = {key: value for key, value in named["objective"].items() if key == "name"}
    plain = {section: entries for section, entries in assigned.items() if section != "objective"}
    wanted = build_config(plain, named, recipe=recipe)
    data = data_settings(wanted.data.data_dir, {**assigned.get("data", {}), **tables["data"]}, recipe)
    config = build_config(data, plain, named, recipe=recipe)
    saved: dict[str, dict[str, Any]] = {}
    if flags["resume"]:
        saved = saved_settings(Path(run_directory(config)))
        # a data directory that merely lies about is not what the run was started on
        data = data if wanted.data.data_dir else {}
        config = build_config(saved, data, plain, named, recipe=recipe)
    check_objective(tables["objective"], config.objective)
    return build_config(saved, data, assigned, tables, recipe=recipe)


def objective_settings(flags: dict[str, Any], assigned: dict[str, Any]) -> dict[str, Any]:
    """What the flags about thoughts set, where their name is not that of the setting."""
    found: dict[str, Any] = {}
    if flags["use_gumbel"] is not None:
        found["name"] = "gumbel" if flags["use_gumbel"] else "teacher-forcing"
    for flag, setting in (
        ("gumbel_temperature", "temperature"),
        ("gumbel_temperature_end", "temperature_end"),
        ("thought_warmup", "warmup_steps"),
    ):
        if flags[flag] is not None:
            found[setting] = flags[flag]
    if flags["thought_warmup"] is not None and "supervised" not in assigned:
        found["supervised"] = int(flags["thought_warmup"] > 0)
    return found


def check_objective(given: dict[str, Any], objective: ObjectiveConfig) -> None:
    """Raises UsageError for flags about thoughts that nobody has."""
    if given.keys() - {"name"} and objective.name != "gumbel":
        raise UsageError(
            "a flag about thoughts does nothing without --use-gumbel", "give it, or a recipe that does"
        )


def data_settings(data_dir: str, asked: dict[str, Any], recipe: str | None) -> dict[str, dict[str, Any]]:
    """What the data directory says of its problems: the one named, or data/ if nothing asks for a stream."""
    from mathllm.config import load_recipe
    from mathllm.data.files import read_metadata
    from mathllm.data.sources import STREAM_SETTINGS

    stream = [name for name in (*STREAM_SETTINGS, "curriculum_steps") if name in asked]
    if data_dir and stream:
        raise UsageError(
            f"{stream[0]} describes a stream of new problems, but {data_dir} has its own",
            "leave out the one or the other, or make other files: mathllm gen-data",
        )
    own = load_recipe(recipe).get("data", {}) if recipe else {}
    if not data_dir:
        if stream or own or not Path("data/metadata.json").is_file():
            return {}
        data_dir = "data"
    # any format can be trained on any file of problems, and a recipe's counts more than the file's
    said = {
        name: value
        for name, value in read_metadata(Path(data_dir))["data"].items()
        if name in STREAM_SETTINGS or name not in own
    }
    return {"data": {**said, "data_dir": data_dir}}


def print_loss_mask(config: Config) -> None:
    """Three training rows; the tokens that count in the loss are underlined."""
    from mathllm.formats import get_format
    from mathllm.tokenizer import TOKENS, decode_rows
    from mathllm.training.objectives import make_objective
    from mathllm.training.run import complete, load_splits

    config = complete(config)
    notation = get_format(config.data.format, config.data.zero_pad, config.data.thought_length)
    rendered = notation.render(load_splits(config).source.problems(0, 3))
    scored = make_objective(config.objective).scored(rendered)
    texts = decode_rows(rendered.ids, rendered.lengths)
    for text, ids, mask, length in zip(texts, rendered.ids, scored, rendered.lengths, strict=True):
        typer.echo(text)
        typer.echo(
            carets(text, [(TOKENS[i], bool(on)) for i, on in zip(ids[:length], mask[:length], strict=True)])
        )


def carets(text: str, tokens: list[tuple[str, bool]]) -> str:
    """A caret under each character of the tokens that count, none under the spaces between."""
    marks = ""
    for token, counted in tokens:
        spaces = len(text[len(marks) :]) - len(text[len(marks) :].lstrip(" "))
        marks += " " * spaces + ("^" if counted else " ") * len(token)
    return marks
