"""A training run from its settings alone: finds the data, trains, tests the best checkpoint on new problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mathllm.checkpoint import load_checkpoint
from mathllm.config import Config, DataConfig, from_saved
from mathllm.data.files import FILES, read_problems
from mathllm.data.sources import ProblemFile, ProblemStream, Source, held_out
from mathllm.device import describe, pick_device
from mathllm.errors import DataError, UsageError, reason
from mathllm.evaluation.report import evaluate_problems
from mathllm.files import explained, read_json, write_bytes, write_json
from mathllm.percent import percent
from mathllm.resolve import resolve
from mathllm.tasks import Problems, get_tasks, operands_asked, readable_beside, sizes
from mathllm.tasks.splits import TEST, VAL
from mathllm.training.card import model_card
from mathllm.training.distributed import join, leave
from mathllm.training.hooks import standard_hooks
from mathllm.training.state import CARD, RESULTS, SETTINGS, clear_run, newest, note, read_progress, run_files
from mathllm.training.trainer import Outcome, Trainer

STREAM_EPOCH = 100_000  # rows that count as an epoch where there is no end of them
TEST_EXAMPLES = 5_000  # of a stream


@dataclass(frozen=True)
class TrainResult:
    """Where the run lies, how training ended, and the report on the test split (None after a signal)."""

    run: Path
    outcome: Outcome
    test: dict[str, Any] | None


@dataclass(frozen=True)
class Splits:
    """Training problems, and the problems that validation and the final test use."""

    source: Source
    validation: Problems
    test: Problems
    epoch: int  # training rows in an epoch


def train(
    config: Config, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> TrainResult:
    """Trains as `config` (see `mathllm.config.build_config`) says, tests the best checkpoint, and writes everything
    under the output directory.

    Raises UsageError where that directory already holds a run and neither `resume` nor `overwrite` is given.
    """
    if not isinstance(config, Config):
        raise UsageError(
            "training takes a Config", "mathllm.config.build_config makes one of tables of settings"
        )
    config = resolve(config)
    run = Path(config.train.output_dir)
    processes, device = join(pick_device(config.train.device))
    try:
        splits = load_splits(config)
        total_steps = count_steps(config, splits.epoch, processes.world)
        checkpoint = check_directory(run, resume, overwrite)
        if checkpoint:
            check_same_data(run, config)
        trainer = Trainer(
            config,
            splits.source,
            splits.validation,
            total_steps=total_steps,
            device=device,
            processes=processes,
            console=console,
            resume=checkpoint,
            hooks=standard_hooks(config),
        )
        processes.wait()  # nothing is written, or deleted, before every process has found all in order
        if processes.main:
            with explained(f"write {run}"):
                if overwrite:
                    clear_run(run)
                run.mkdir(parents=True, exist_ok=True)
                (run / RESULTS).unlink(
                    missing_ok=True
                )  # of a run that goes on: its best may be another one soon
            write_json(run / SETTINGS, config.to_dict())
            describe_run(trainer, splits)
        outcome = trainer.run()
        test = None
        if processes.main:
            note(run, f"{outcome.reason} after {outcome.step:,} steps, {outcome.seconds:.0f} s")
            if outcome.reason != "signal":
                test = test_best(run, config, splits.test, device)
        processes.wait()
    finally:
        leave()
    return TrainResult(run, outcome, test)


def load_splits(config: Config) -> Splits:
    """The problems of the data directory, or an endless stream and what it never shows."""
    data, train = config.data, config.train
    if data.data_dir:
        problems, validation, test = (read_split(data, name) for name in FILES)
        if len(validation) == 0:
            file = Path(data.data_dir) / FILES[VAL]
            raise UsageError(f"{file} has no problems", "mathllm gen-data with a larger --val-ratio")
        source = ProblemFile(problems[: data.num_examples or None], train.seed)
        return Splits(source, validation[: train.eval_examples], test, len(source))
    validation = held_out(data, VAL, train.eval_examples)
    test = held_out(data, TEST, TEST_EXAMPLES)
    stream = ProblemStream(data, train.seed)
    if data.num_examples:
        fixed = ProblemFile(stream.problems(0, data.num_examples), train.seed)
        return Splits(fixed, validation, test, len(fixed))
    return Splits(stream, validation, test, STREAM_EPOCH)


def read_split(data: DataConfig, name: str) -> Problems:
    """The problems of one file of the data directory, none larger than the metadata says."""
    path = Path(data.data_dir) / name
    problems = read_problems(path, readable_beside(get_tasks(data.task)))
    digits, operands = int(sizes(problems).max(initial=0)), int(operands_asked(problems).max(initial=0))
    if digits > data.max_digits or operands > data.max_operands:
        raise DataError(
            f"{path} has a problem with {operands} operands or {digits} digits, but its metadata.json says "
            f"at most {data.max_operands} and {data.max_digits}",
            f"mathllm gen-data --from {path} --output-dir DIR makes a dataset of any such file",
        )
    return problems


def count_steps(config: Config, epoch: int, processes: int = 1) -> int:
    """Optimizer steps: `max_steps`, or as many as `num_epochs` take."""
    train = config.train
    rows = train.batch_size * train.grad_accumulation * processes
    return train.max_steps or max(1, -(-train.num_epochs * epoch // rows))


def check_directory(run: Path, resume: bool, overwrite: bool) -> Path | None:
    """Is the run's directory free, or meant to be used? Returns the checkpoint to resume from, if any."""
    if resume and overwrite:
        raise UsageError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is not a directory", "choose another --output-dir")
    there = run_files(run)
    if there and not resume and not overwrite:
        hint = "--resume goes on with it, --overwrite starts anew, --output-dir writes elsewhere"
        raise UsageError(f"{run} already holds a run", hint)
    if resume and not there:
        hint = "leave out --resume, or give the run's --output-dir"
        raise UsageError(f"{run} holds no run to resume", hint)
    return newest(run) if resume else None


def check_same_data(run: Path, config: Config) -> None:
    """Raises UsageError where a run would go on with rows of another kind, or in another order, than it began."""
    was, now, defaults = saved_settings(run), config.to_dict(), Config().to_dict()
    if not was:
        return
    fixed = [("data", key) for key in now["data"]]
    fixed += [("train", key) for key in ("seed", "batch_size", "grad_accumulation")]
    for section, key in fixed:
        # a setting that the run did not know yet was at its default
        before = was.get(section, {}).get(key, defaults[section][key])
        if before != now[section][key]:
            raise UsageError(
                f"this run was started with {section}.{key} {before!r}, not {now[section][key]!r}: "
                "it cannot go on with other data",
                "leave that out, or start anew in another --output-dir",
            )


def saved_settings(run: Path) -> dict[str, dict[str, Any]]:
    """The settings of an earlier run, as tables; empty where there is none."""
    path = run / SETTINGS
    if not path.is_file():
        return {}
    try:
        tables: dict[str, dict[str, Any]] = read_json(path)
        return from_saved(tables)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}", "--overwrite starts anew") from error


def describe_run(trainer: Trainer, splits: Splits) -> None:
    """What is about to happen, in three lines."""
    config = trainer.config
    model, data = config.model, config.data
    rows = f"{splits.epoch:,} rows of " if data.data_dir or data.num_examples else ""
    source = rows + (data.data_dir or "an endless stream")
    start = f", from step {trainer.progress.step:,}" if trainer.progress.step else ""
    parameters = trainer.model.num_parameters
    on = describe(trainer.device) + (f", {trainer.processes.world} processes" * (trainer.processes.world > 1))
    for line in (
        f"model {model.size}: {parameters:,} parameters, position {model.position}, on {on}",
        f"data {data.task}, up to {data.max_digits} digits, format {data.format}: {source}",
        f"{trainer.total_steps:,} steps of {trainer.rows_in_all:,} rows{start} -> {config.train.output_dir}",
    ):
        trainer.say(line)


def test_best(run: Path, config: Config, problems: Problems, device: torch.device) -> dict[str, Any] | None:
    """Evaluates the best checkpoint on the test split; writes test_results.json and its model card anew."""
    if len(problems) == 0:
        return None
    model = load_checkpoint(run, device)
    report = evaluate_problems(model, problems, batch_size=config.train.eval_batch_size).to_dict()
    results = {**report, "checkpoint": model.path.resolve().name}
    write_json(run / RESULTS, results)
    right = f"{results['correct']:,} of {len(problems):,}"
    note(run, f"test exact match {percent(results['exact_match'])} ({right})")
    progress, _ = read_progress(model.path)
    card = model_card(config, model.model.num_parameters, progress, report)
    write_bytes(model.path / CARD, card.encode())
    return results
