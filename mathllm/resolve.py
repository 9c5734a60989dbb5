"""The one judge of settings: which of them go together, and what those are that were left open.

Whoever makes data, trains or compares asks it first: what it lets through can be rendered, trained and decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mathllm.config import Config, DataConfig, ModelConfig, TrainConfig, merged
from mathllm.data.files import read_metadata
from mathllm.data.sources import STREAM_SETTINGS, format_of, longest_text, ratios, sampling
from mathllm.errors import UsageError
from mathllm.flags import listed
from mathllm.formats import Format
from mathllm.limits import MAX_EVALUATED, MAX_HELD, MAX_STEP_TOKENS, check_cells
from mathllm.registry import objective_class
from mathllm.tasks import TASKS, get_tasks


def resolve(config: Config) -> Config:
    """The same settings with nothing left open: facts of the data, the longest text, the output directory, threads.

    Raises UsageError, with the reason, for what does not go together.
    """
    # what needs torch, which making data does without
    from mathllm.device import sensible_threads
    from mathllm.model.positions import axes_of

    data, train = resolve_data(config.data, partial(suits, config.objective.name)), config.train
    model = replace(config.model, max_length=room(config.model, data))
    format = format_of(data)
    axes = axes_of(model.position, model.position_settings)
    format.check_axes(axes, get_tasks(data.task), data.max_operands)
    objective_class(config.objective.name).check(format, train.compile)
    check_sizes(train, data)
    check_hunting(train, data, format, own_thoughts=objective_class(config.objective.name).own_thoughts)
    # part of the settings: with another number, a resumed run would round its sums differently
    threads = train.threads or sensible_threads(train.batch_size * train.grad_accumulation)
    train = replace(train, output_dir=run_directory(config), threads=threads)
    return replace(config, model=model, data=data, train=train)


def check_sizes(train: TrainConfig, data: DataConfig) -> None:
    """Raises UsageError for a step, a validation or a fixed set of more texts than memory has room for."""
    longest = longest_text(data)
    for what, rows, tokens, option in (
        ("a step", train.batch_size * train.grad_accumulation, MAX_STEP_TOKENS, "--batch-size"),
        ("a validation", train.eval_examples, MAX_EVALUATED, "--set train.eval_examples="),
    ):
        most = max(1, tokens // longest)
        if rows > most:
            reason = f"{what} of {rows:,} texts of up to {longest:,} tokens is too large to hold at once"
            raise UsageError(reason, f"{option} {most}, or smaller numbers".replace("= ", "="))
    if not data.data_dir:  # of a file, it takes no more than there are
        check_cells("data.num_examples", data.num_examples, data.max_operands, data.max_digits, MAX_HELD)


def check_hunting(train: TrainConfig, data: DataConfig, format: Format, *, own_thoughts: bool) -> None:
    """Raises UsageError for a search for hard problems where that makes no sense."""
    if not train.hunt_steps:
        if train.until_proved:
            raise UsageError("train.until_proved proves after every hunt", "give train.hunt_steps, too")
        return
    if own_thoughts or format.own_thoughts:
        reason = (
            f"how sure a model is of the thoughts of format {format.name!r} says nothing: they are its own"
        )
        raise UsageError(f"train.hunt_steps needs texts that are the truth: {reason}", "leave it out")
    if data.num_examples:
        raise UsageError(
            f"train.hunt_steps draws problems beside the {data.num_examples:,} of data.num_examples",
            "leave out one of them",
        )


def suits(objective: str, format: Format) -> bool:
    """Does an objective make sense for texts of a format?"""
    try:
        objective_class(objective).check(format, compiled=False)
    except UsageError:
        return False
    return True


def resolve_data(data: DataConfig, suits: Callable[[Format], bool] = lambda format: True) -> DataConfig:
    """The same settings with the facts of their data directory, if there is one, and with a format: where they name
    none, the first that goes with the tasks, and that `suits`. Needs no torch.

    Raises UsageError, with the reason, where task, format, padding and sampling do not go together.
    """
    if data.data_dir:
        said = merged({"data": read_metadata(Path(data.data_dir))["data"]})["data"]
        data = replace(data, **{name: said[name] for name in STREAM_SETTINGS if name in said})
    else:
        check_sampling(data)
    format = format_of(data, suits)
    for task in get_tasks(data.task):
        format.check_task(task)
    return replace(data, format=format.name)


def check_sampling(data: DataConfig) -> None:
    """Raises UsageError where problems cannot be drawn like this, or a setting would change nothing."""
    tasks = get_tasks(data.task)
    ratios(data)
    for method in sampling(data).methods:
        if not all(method in task.samplings for task in tasks):
            hint = f"use --sampling {' or '.join(tasks[0].samplings)}"
            raise UsageError(f"there is no {method} sampling of task {data.task!r}", hint)
    if data.signed and not any(task.signed for task in tasks):
        names = listed(task.name for task in TASKS if task.signed)
        raise UsageError(f"only {names} has signed numbers", "leave out --signed, or add the task")
    for name in sampling(data).weights:
        if len(tasks) == 1 or name not in [task.name for task in tasks]:
            reason = (
                "there is only one"
                if len(tasks) == 1
                else f"they are {listed((task.name for task in tasks), 'and')}"
            )
            raise UsageError(
                f"--task-weights names {name}, which is none of several tasks: {reason}", "leave it out"
            )
    if data.second_digits and not any(task.second for task in tasks):
        names = listed(task.name for task in TASKS if task.second)
        raise UsageError(f"only {names} has a second number to bound", "leave out --second-digits")
    if data.second_digits > data.max_digits:
        reason = f"second_digits {data.second_digits:,} is more than max_digits {data.max_digits:,}"
        raise UsageError(reason, "leave it out, or give a larger --max-digits")
    if (data.expression_digits or data.expression_numbers) and not any(task.general for task in tasks):
        names = listed(task.name for task in TASKS if task.general)
        raise UsageError(
            f"only {names} has whole expressions to bound",
            "leave out --expression-digits and --expression-numbers",
        )
    general = max((task.max_operands for task in tasks if task.general), default=data.expression_numbers)
    if data.expression_numbers > general:
        raise UsageError(
            f"whole expressions have at most {general} numbers, not {data.expression_numbers}",
            "give a smaller one",
        )
    if data.max_operands > max(2, *(task.max_operands for task in tasks)):
        most, names = (
            max(task.max_operands for task in tasks),
            listed(task.name for task in TASKS if task.max_operands > 2),
        )
        if most > 2:
            raise UsageError(
                f"{data.task} has at most {most} operands, not {data.max_operands}", "give a smaller one"
            )
        raise UsageError(f"only {names} takes more than two operands", "leave out --max-operands")


def room(model: ModelConfig, data: DataConfig) -> int:
    """Tokens of prompt and completion that the model has room for: as many as it says, or as the data need.

    Raises UsageError where that is too little.
    """
    from mathllm.model.positions import room_for

    needed = longest_text(data)
    # tables of places are as long as texts may be, and a place may be that high
    highest, why = room_for(model.position, model.position_settings, data.max_digits)
    length = model.max_length or max(64, -(-max(needed, highest) // 8) * 8)
    if highest > length:
        raise UsageError(
            f"{why} leads to places up to {highest}, but max_length is {length}",
            f"--max-length {highest}, or leave it out",
        )
    if needed > length:
        raise UsageError(
            f"texts of this data take up to {needed} tokens, but max_length is {length}",
            f"--max-length {needed}, or leave it out",
        )
    return length


def run_directory(config: Config) -> str:
    """Where a run goes: as the settings say, or by the names of its task and size."""
    name = f"{config.data.task.replace(',', '-')}-{config.model.size}"
    return config.train.output_dir or str(Path("checkpoints") / name)
