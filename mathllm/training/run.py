"""A training run from its settings alone: finds the data, trains, tests the best checkpoint on new problems."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mathllm.checkpoint import load_checkpoint
from mathllm.config import Config, DataConfig, build_config, from_saved
from mathllm.data.files import FILES, METADATA, fingerprint, places_of, read_problems
from mathllm.data.sources import ProblemFile, ProblemStream, Source, held_out, sampling
from mathllm.device import describe, pick_device
from mathllm.errors import CheckpointError, DataError, MathLLMError, UsageError, reason
from mathllm.evaluation.report import evaluate_problems
from mathllm.files import explained, read_json, write_bytes, write_json
from mathllm.finding import WEIGHTS, step_checkpoints
from mathllm.locks import locked
from mathllm.percent import percent
from mathllm.resolve import resolve, run_directory
from mathllm.tasks import Problems, get_tasks, operands_asked, readable_beside, sizes
from mathllm.tasks.base import plural
from mathllm.tasks.splits import TEST, VAL, hash_problems
from mathllm.training.card import model_card
from mathllm.training.distributed import join, leave
from mathllm.training.hooks import standard_hooks
from mathllm.training.state import (
    CARD,
    RESULTS,
    SETTINGS,
    Progress,
    clear_run,
    newest_whole,
    note,
    read_progress,
    refuse_what_is_in_the_way,
    run_files,
    step_of,
)
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
    """Training problems, and the problems that validation and the final test use.

    `epoch` is the training rows in an epoch. Of files, `data` stands for the problems that are trained and validated
    on, and `repeated` says how many problems of the other two are in the training file as well.
    """

    source: Source
    validation: Problems
    test: Problems
    epoch: int
    data: str = ""
    repeated: dict[str, int] = field(default_factory=dict)


def train(
    config: Config, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> TrainResult:
    """Trains as `config` (see `mathllm.config.build_config`) says, tests the best checkpoint, and writes everything
    under the output directory, which is locked meanwhile.

    Raises UsageError where that directory already holds a run and neither `resume` nor `overwrite` is given, and
    MathLLMError where another training is at work there.
    """
    if not isinstance(config, Config):
        raise UsageError(
            "training takes a Config", "mathllm.config.build_config makes one of tables of settings"
        )
    run, named = Path(run_directory(config)), config.data.data_dir
    if resume and named and run_files(run):
        config = with_data_dir(config, find_data(config, run))
    config = resolve(config)
    processes, device = join(pick_device(config.train.device))
    try:
        splits = load_splits(config)
        config = with_data_dir(config, named)  # a run keeps the name: it may be moved together with its data
        with ExitStack() as stack:
            how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "processes": processes.world}
            checkpoint, damaged = processes.agree(lambda: take_directory(stack, config, splits, **how))
            trainer = Trainer(
                config,
                splits.source,
                splits.validation,
                total_steps=count_steps(config, splits.epoch, processes.world),
                device=device,
                processes=processes,
                console=console,
                resume=checkpoint,
                hooks=standard_hooks(config),
            )
            trainer.progress.data = splits.data
            processes.wait()  # nothing is written, or deleted, before every process has found all in order
            if processes.main:
                prepare_directory(run, overwrite)
                write_json(run / SETTINGS, config.to_dict())
                for error in damaged:
                    trainer.say(f"note: going on from {checkpoint}, since {error.message}")
                describe_run(trainer, splits)
            outcome = trainer.run()
            test = None
            if processes.main:
                note(run, f"{outcome.reason} after {outcome.step:,} steps, {outcome.seconds:.0f} s")
                if outcome.reason != "signal":
                    test = test_best(run, config, splits, device)
            processes.wait()
    finally:
        leave()
    return TrainResult(run, outcome, test)


def take_directory(
    stack: ExitStack, config: Config, splits: Splits, *, resume: bool, overwrite: bool, processes: int
) -> tuple[Path | None, list[CheckpointError]]:
    """Locks the run's directory until the stack ends, and looks whether it may be used. Returns what `check_directory`
    does."""
    run = Path(config.train.output_dir)
    with explained(f"write {run}"):
        stack.enter_context(locked(run, "a training"))
    checkpoint, damaged = check_directory(run, resume, overwrite)
    if resume:
        check_same_data(config, splits, checkpoint=checkpoint, processes=processes)
    return checkpoint, damaged


def find_data(config: Config, run: Path) -> Path:
    """The data directory of a run that goes on: the first of its name that holds the problems of the run, or the first
    at all where none does. Raises UsageError where there is none."""
    named = config.data.data_dir
    places = [place for place in places_of(named, run) if (place / METADATA).is_file()]
    if not places:
        raise UsageError(
            f"the data of this run, {named}, lie neither here nor in a directory above {run}",
            "--data-dir DIRECTORY says where they are now; they must be the same",
        )
    known = data_of(run) if len(places) > 1 else ""
    return next((place for place in places if known and data_at(config, place) == known), places[0])


def data_of(run: Path) -> str:
    """What stands for the problems of a run's files, nothing where none of its checkpoints says so."""
    for checkpoint in reversed(step_checkpoints(run)):
        with suppress(CheckpointError):
            return read_progress(checkpoint)[0].data
    return ""


def data_at(config: Config, place: Path) -> str:
    """What stands for the problems of a data directory, nothing where a run cannot be trained on them."""
    with suppress(MathLLMError):
        return load_splits(resolve(with_data_dir(config, place))).data
    return ""


def with_data_dir(config: Config, data_dir: str | Path) -> Config:
    return replace(config, data=replace(config.data, data_dir=str(data_dir)))


def load_splits(config: Config) -> Splits:
    """The problems of the data directory, or an endless stream and what it never shows."""
    data, train = config.data, config.train
    if data.data_dir:
        problems, validation, test = (read_split(data, name) for name in FILES)
        if len(validation) == 0:
            file = Path(data.data_dir) / FILES[VAL]
            raise UsageError(f"{file} has no problems", "mathllm gen-data with a larger --val-ratio")
        problems = problems[: data.num_examples or None]
        trained, *others = map(hash_problems, (problems, validation, test))
        seen = {
            name: int(np.isin(hashes, trained).sum()) for name, hashes in zip(FILES[1:], others, strict=True)
        }
        return Splits(
            ProblemFile(problems, train.seed),
            validation[: train.eval_examples],
            test,
            epoch=len(problems),
            data=fingerprint(trained, others[0]),
            repeated={name: count for name, count in seen.items() if count},
        )
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
    bounds = sampling(data)
    if digits > bounds.widest or operands > bounds.most:
        raise DataError(
            f"{path} has a problem with {operands} operands or {digits} digits, but its metadata.json says "
            f"at most {bounds.most} and {bounds.widest}",
            f"mathllm gen-data --from {path} --output-dir DIR makes a dataset of any such file",
        )
    return problems


def count_steps(config: Config, epoch: int, processes: int = 1) -> int:
    """Optimizer steps: `max_steps`, or as many as `num_epochs` take."""
    train = config.train
    rows = train.batch_size * train.grad_accumulation * processes
    return train.max_steps or max(1, -(-train.num_epochs * epoch // rows))


def check_directory(run: Path, resume: bool, overwrite: bool) -> tuple[Path | None, list[CheckpointError]]:
    """Is the run's directory free, or meant to be used? Returns the checkpoint to resume from, if any, and what is
    wrong with newer ones."""
    if resume and overwrite:
        raise UsageError("--resume goes on with a run and --overwrite deletes it: give one of them")
    elsewhere = "choose another --output-dir"
    if (run / WEIGHTS).is_file():
        raise UsageError(f"{run} is a checkpoint, not the directory of a run", elsewhere)
    there = run_files(run)
    if there and not resume and not overwrite:
        hint = "--resume goes on with it, --overwrite starts anew, --output-dir writes elsewhere"
        raise UsageError(f"{run} already holds a run", hint)
    if resume and not there:
        hint = "leave out --resume, or give the run's --output-dir"
        raise UsageError(f"{run} holds no run to resume", hint)
    if not there and any((run / name).is_file() for name in (*FILES, METADATA)):
        raise UsageError(f"{run} holds a dataset: a run would write its own files among those", elsewhere)
    loose = [str(path.relative_to(run)) for path in there if path.is_file()]
    if overwrite and loose and not (run / SETTINGS).is_file() and not step_checkpoints(run):
        raise UsageError(
            f"{run} holds {', '.join(loose)}, but no {SETTINGS}: no run has written that", elsewhere
        )
    averaged = bool(saved_settings(run).get("optim", {}).get("ema_decay")) if resume else False
    checkpoint, damaged = newest_whole(run, averaged) if resume else (None, [])
    refuse_what_is_in_the_way(run, step_of(checkpoint) if checkpoint else -1)
    return checkpoint, damaged


def prepare_directory(run: Path, overwrite: bool) -> None:
    """Makes the directory ready for a run that begins, or goes on."""
    with explained(f"write {run}"):
        if overwrite:
            clear_run(run)
        # of a run that goes on: its best may be another one soon
        (run / RESULTS).unlink(missing_ok=True)


def check_same_data(config: Config, splits: Splits, *, checkpoint: Path | None, processes: int) -> None:
    """Raises UsageError where a run would go on with rows of another kind, or in another order, than it began."""
    progress = read_progress(checkpoint)[0] if checkpoint else Progress()
    anew = "start anew in another --output-dir"
    was, now, defaults = saved_settings(Path(config.train.output_dir)), config.to_dict(), Config().to_dict()
    for section, key in [*(("data", key) for key in now["data"]), ("train", "seed")]:
        if not was or (key == "data_dir" and progress.data and splits.data):
            continue  # data that lie elsewhere now are judged by what they are
        # a setting that the run did not know yet was at its default
        before = was.get(section, {}).get(key, defaults[section][key])
        if before != now[section][key]:
            raise UsageError(
                f"this run was started with {section}.{key} {before!r}, not {now[section][key]!r}: "
                "it cannot go on with other data",
                f"leave that out, or {anew}",
            )
    # the version that did not know second_digits drew no factors below zero
    old = was and "second_digits" not in read_json(Path(config.train.output_dir) / SETTINGS)["data"]
    if old and config.data.signed and "multiplication" in config.data.task and not config.data.data_dir:
        raise UsageError("products have had no signs in this run: it cannot go on with signed ones", anew)
    if progress.data and progress.data != splits.data:
        raise UsageError(
            f"{config.data.data_dir} holds other problems than this run was started on: it cannot go on with them",
            f"put the old files back, name their directory with --data-dir, or {anew}",
        )
    saved = build_config({"train": was.get("train", {})}).train
    each = saved.batch_size * saved.grad_accumulation if was else 1
    check_same_rows(config, progress, processes=processes, each=each)


def check_same_rows(config: Config, progress: Progress, *, processes: int, each: int) -> None:
    """Raises UsageError where a step would have another number of rows than those before, which were made by some
    number of processes with `each` so many."""
    train, (before, rest) = config.train, divmod(progress.rows, max(1, progress.step))
    own = train.batch_size * train.grad_accumulation
    # an earlier version let them change: an average of several numbers says nothing
    if rest or before % each or before in (0, own * processes):
        return
    if before % (train.grad_accumulation * processes) == 0:
        hint = f"--batch-size {before // (train.grad_accumulation * processes)}"
    elif before % processes == 0:
        hint = f"--batch-size {before // processes} --grad-accumulation 1"
    else:
        fitting = [str(count) for count in range(1, 65) if before % count == 0]
        hint = f"as many processes as divide {before:,}: {', '.join(fitting)}"
    who = f"{processes} processes of {own:,} rows make" if processes > 1 else "these settings make"
    raise UsageError(f"{who} steps of {own * processes:,}, and this run's have {before:,}", hint)


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
    """What is about to happen, in three lines, and what there is to say about it."""
    config = trainer.config
    model, data = config.model, config.data
    rows = f"{splits.epoch:,} rows of " if data.data_dir or data.num_examples else ""
    source = rows + (data.data_dir or "an endless stream")
    start = f", from step {trainer.progress.step:,}" if trainer.progress.step else ""
    parameters = trainer.model.num_parameters
    on = describe(trainer.device) + (f", {trainer.processes.world} processes" * (trainer.processes.world > 1))
    steps, warmup, in_all = trainer.total_steps, config.optim.warmup_steps, trainer.rows_in_all
    unit = get_tasks(data.task)[0].unit
    notes = [
        f"{count:,} problems of {name} are in {FILES[0]} too: those tell nothing of new ones"
        for name, count in splits.repeated.items()
    ]
    if rows and in_all > splits.epoch:
        notes.append(f"a step of {in_all:,} rows takes the {splits.epoch:,} there are more than once")
    if warmup >= steps:
        notes.append(
            f"{warmup:,} steps of warm-up (--warmup-steps): in {steps:,} the learning rate never gets to its peak"
        )
    for line in (
        f"model {model.size}: {parameters:,} parameters, position {model.position}, on {on}",
        f"data {data.task}, up to {plural(data.max_digits, unit)}, format {data.format}: {source}",
        f"{plural(steps, 'step')} of {in_all:,} rows{start} -> {config.train.output_dir}",
        *(f"note: {each}" for each in notes),
    ):
        trainer.say(line)


def test_best(run: Path, config: Config, splits: Splits, device: torch.device) -> dict[str, Any] | None:
    """Evaluates the best checkpoint on the test split; writes test_results.json and its model card anew."""
    problems = splits.test
    if len(problems) == 0:
        return None
    model = load_checkpoint(run, device)
    report = evaluate_problems(model, problems, batch_size=config.train.eval_batch_size).to_dict()
    trained_on = splits.repeated.get(FILES[TEST], 0)
    about = {"in_training": trained_on, "problems": fingerprint(hash_problems(problems))}
    results = {**report, **about, "checkpoint": model.path.resolve().name}
    write_json(run / RESULTS, results)
    right = f"{results['correct']:,} of {len(problems):,}"
    note(run, f"test exact match {percent(results['exact_match'])} ({right})")
    progress, _ = read_progress(model.path)
    card = model_card(config, model.model.num_parameters, progress, results)
    write_bytes(model.path / CARD, card.encode(errors="backslashreplace"))
    return results
