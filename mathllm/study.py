"""A study: one recipe in several variants and seeds, trained and measured alike, so that they can be compared.

Every run has a directory of its own, with its result beside its checkpoints: a study that was stopped goes on where
it was, and several processes may work on different seeds of one study."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mathllm.checkpoint import load_checkpoint
from mathllm.config import Config, DataConfig, build_config, from_saved
from mathllm.data.sources import format_of
from mathllm.device import pick_device
from mathllm.errors import DataError, MathLLMError, UsageError, check_choice, reason
from mathllm.evaluation.lengths import Length, check_length, evaluate_lengths, of_task
from mathllm.files import load_toml, read_json, write_json
from mathllm.limits import MAX_CELLS, MAX_SEEDS, check_cells, check_range
from mathllm.resolve import resolve
from mathllm.tasks import get_tasks
from mathllm.training.run import saved_settings, train
from mathllm.training.state import RESULTS, newest, read_progress, run_files

RESULT = "study_result.json"
# where and how fast a run is done, but not what it learns: a study sets these itself, or leaves them to the machine
PLACE: dict[str, Any] = {"output_dir": "", "device": "auto", "wandb": "off", "threads": 0}


@dataclass(frozen=True)
class Run:
    """One variant with one seed, and everything that it is trained with."""

    variant: str
    seed: int
    config: Config

    @property
    def directory(self) -> Path:
        return Path(self.config.train.output_dir)


@dataclass(frozen=True)
class Study:
    """What is compared. `digits` are the lengths to test at (20, or "20x10" with second operands of 10 digits), with
    `examples` random problems and as many with carry stress (see evaluation.lengths); the held-out problems of a
    variant's own kind are always tested.

    `settings`, and those of each of the `variants`, are section.key=value over the recipe. Raises UsageError for
    values of other kinds, and for variants whose directories would have one name.
    """

    name: str
    recipe: str
    variants: dict[str, list[str]]
    seeds: int = 3
    digits: tuple[int | str, ...] = ()
    examples: int = 100
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def texts(values: Any) -> bool:
            return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)

        def count(value: Any) -> bool:
            return type(value) is int and 0 < value <= MAX_CELLS

        for name, right, wanted in (
            ("recipe", isinstance(self.recipe, str), "the name of a recipe"),
            ("seeds", count(self.seeds), "how many seeds"),
            (
                "digits",
                all(count(one) or (isinstance(one, str) and "x" in one) for one in self.digits),
                "a list of numbers of digits",
            ),
            ("examples", count(self.examples), "how many problems"),
            ("settings", texts(self.settings), 'a list like ["train.max_steps=500"]'),
            (
                "variants",
                bool(self.variants) and all(map(texts, self.variants.values())),
                "lists of settings",
            ),
        ):
            if not right:
                raise UsageError(f"study {self.name}: {name} should be {wanted}")
        _ = self.lengths
        check_range(f"study {self.name}: seeds", self.seeds, 1, MAX_SEEDS)
        if len({folder(variant) for variant in self.variants}) < len(self.variants):
            raise UsageError(f"study {self.name}: two variants have names that differ in punctuation alone")

    @property
    def lengths(self) -> list[Length]:
        """The lengths to test at."""
        return [Length.read(str(digits)) for digits in self.digits]

    def runs(
        self, root: Path, seeds: Sequence[int], only: Sequence[str] = (), more: Sequence[str] = ()
    ) -> list[Run]:
        """All runs under `root`, seed by seed, so that a first comparison is there early. `more` changes every one.

        Raises UsageError, before anything is trained, for an unknown variant in `only`, for settings that a study
        makes itself, for those that do not fit together, and for lengths that a variant cannot write."""
        for name in only:
            check_choice("variant", name, self.variants)
        chosen = {name: added for name, added in self.variants.items() if not only or name in only}
        for setting in itertools.chain(self.settings, more, *chosen.values()):
            name = setting.partition("=")[0]
            if name.strip() in ("train.seed", "train.output_dir", "train.wandb"):
                raise UsageError(f"a study makes {name} itself", "see --seeds and --output-dir")
        return [
            self._run(root, variant, seed, (*self.settings, *added, *more))
            for seed in seeds
            for variant, added in chosen.items()
        ]

    def _run(self, root: Path, variant: str, seed: int, assignments: Sequence[str]) -> Run:
        own = {"seed": seed, "output_dir": str(root / f"{folder(variant)}-seed{seed}"), "wandb": "off"}
        try:
            config = resolve(build_config({"train": own}, assignments=assignments, recipe=self.recipe))
            data, room = config.data, config.model.max_length
            format = format_of(data)
            for task in get_tasks(data.task):
                for length in of_task(task, self.lengths):
                    how = _size(data, length.second)
                    check_length(format, room, task, length.digits, **how)
                    check_cells("examples", self.examples, data.max_operands, length.digits)
        except MathLLMError as error:
            raise UsageError(
                f"study {self.name}, variant {variant!r}: {error.message}", error.hint
            ) from error
        return Run(variant, seed, config)

    def signature(self, run: Run) -> dict[str, Any]:
        """What a result depends on, as a JSON document."""
        test = {"digits": list(self.digits), "examples": self.examples}
        config = without_place(run.config).to_dict()
        return {"variant": run.variant, "seed": run.seed, "test": test, "config": config}


def _size(data: DataConfig, second: int = 0) -> dict[str, Any]:
    return {"operands": data.max_operands, "second_digits": second or data.second_digits}


def folder(variant: str) -> str:
    """The name of a variant as that of a directory."""
    return "".join(c if c.isalnum() else "-" for c in variant)


def load_study(name: str) -> Study:
    """A study of the package, or of a TOML file anywhere. Raises UsageError for what is none."""
    entries = load_toml("study", "studies", name)
    lists = {key: tuple(value) for key, value in entries.items() if isinstance(value, list)}
    try:
        return Study(name=Path(name).stem, **{**entries, **lists})
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} is no study: {reason(error)}", "see mathllm/studies for some") from error


def measure(study: Study, run: Run, console: Console) -> dict[str, Any]:
    """Trains one run and measures it, unless that is done already; an unfinished one goes on where it was.

    Raises DataError where the directory holds a run of other settings, KeyboardInterrupt where training was stopped.
    """
    signature, path = study.signature(run), run.directory / RESULT
    if path.is_file():
        result = read_result(path)
        if not is_of(result, signature):
            raise DataError(f"{path} is of other settings", "choose another --output-dir")
        return result
    if not has_ended(run):
        trained = train(resumed(run), resume=bool(run_files(run.directory)), console=console)
        if trained.outcome.reason == "signal":
            raise KeyboardInterrupt
        if trained.test is None:
            raise UsageError(f"{run.variant!r} has no problems to test on", "data.train_ratio leaves too few")
    started = time.perf_counter()
    loaded = load_checkpoint(run.directory, pick_device(run.config.train.device))
    lengths, kept = [], ("digits", "second_digits", "kind", "correct", "num_examples", "errors")
    for task in loaded.tasks:
        found = evaluate_lengths(loaded, task, study.lengths, study.examples, **_size(loaded.data)).to_dict()
        lengths += [{"task": task.name, **{name: row[name] for name in kept if name in row}} for row in found]
    last = newest(run.directory)
    assert last is not None
    progress, test = read_progress(last)[0], read_result(run.directory / RESULTS)
    result = {
        **signature,
        "parameters": loaded.model.num_parameters,
        "train_seconds": round(progress.seconds, 1),
        "eval_seconds": round(time.perf_counter() - started, 1),
        "steps": progress.step,
        "correct": test["correct"],
        "num_examples": test["num_examples"],
        "lengths": lengths,
    }
    write_json(path, result)
    return result


def has_ended(run: Run) -> bool:
    """Was the run trained to its end, its target or the end of patience, and tested?

    Raises DataError where the directory holds a run of other settings.
    """
    saved = saved_settings(run.directory)
    if saved and without_place(build_config(saved)) != without_place(run.config):
        raise DataError(f"{run.directory} is a run of other settings", "choose another --output-dir")
    return bool(saved) and (run.directory / RESULTS).is_file()


def resumed(run: Run) -> Config:
    """The settings of a run that may have been started on another machine, with another number of threads."""
    threads = saved_settings(run.directory).get("train", {}).get("threads", run.config.train.threads)
    return replace(run.config, train=replace(run.config.train, threads=threads))


def without_place(config: Config) -> Config:
    """Settings with nothing in them but what a run learns from."""
    return replace(config, train=replace(config.train, **PLACE))


def read_result(path: Path) -> dict[str, Any]:
    """A JSON document. Raises DataError where it is none."""
    try:
        result: dict[str, Any] = read_json(path)
        if isinstance(result, dict):
            return result
        raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "delete it, and it will be measured again"
        ) from error


def is_of(result: dict[str, Any], signature: dict[str, Any]) -> bool:
    """Is a result one of these settings? Those that it did not know yet had their defaults."""
    try:
        config = build_config(from_saved(result["config"])).to_dict()
    except (MathLLMError, KeyError, TypeError, AttributeError):
        return False
    return {**{name: result.get(name) for name in signature}, "config": config} == signature


def finished_results(study: Study, root: Path, more: Sequence[str] = ()) -> tuple[list[dict[str, Any]], int]:
    """Results under `root` of all runs that are done, by variant and seed; and how many are of other settings."""
    order, found, others = list(study.variants), [], 0
    for path in root.glob(f"*/{RESULT}"):
        result = read_result(path)
        variant, seed = str(result.get("variant")), result.get("seed")
        try:
            runs = study.runs(root, [seed], [variant], more) if variant in order and type(seed) is int else []
        except UsageError:  # `more` does not go together with every variant
            runs = []
        if runs and runs[0].directory == path.parent and is_of(result, study.signature(runs[0])):
            found.append(result)
        else:
            others += 1
    return sorted(found, key=lambda result: (order.index(result["variant"]), result["seed"])), others


def shares(results: Sequence[dict[str, Any]], kind: str) -> dict[tuple[str, str], list[float]]:
    """Exact match of each seed by variant and column: `held out`, or digits for one kind of problem."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        columns = {"held out": [result["correct"] / result["num_examples"]]}
        for row in result["lengths"]:
            if row["kind"] == kind:
                column = str(Length(row["digits"], row.get("second_digits", 0)))
                columns.setdefault(column, []).append(row["correct"] / row["num_examples"])
        for column, values in columns.items():
            found.setdefault((result["variant"], column), []).append(float(np.mean(values)))
    return found


def unit_of(results: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """What the lengths in results are numbers of, and how much fewer of them there are than `--digits` says: a chain
    has a step less than numbers."""
    tasks = {row["task"] for result in results for row in result["lengths"]}
    return ("step", 1) if any(get_tasks(task)[0].one_digit for task in tasks) else ("digit", 0)


def lines(study: Study, results: Sequence[dict[str, Any]], kind: str) -> dict[str, dict[int, list[float]]]:
    """Exact match of each seed by variant and length, in the unit of the results; of variants that are measured."""
    found, less = shares(results, kind), unit_of(results)[1]
    by_length = {
        variant: {
            length.digits - less: found[variant, str(length)]
            for length in study.lengths
            if (variant, str(length)) in found
        }
        for variant in study.variants
    }
    return {variant: line for variant, line in by_length.items() if line}
