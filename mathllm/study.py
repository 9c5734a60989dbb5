"""A study: one recipe in several variants and seeds, trained and measured alike, so that they can be compared.

    study = load_study("positions")
    for run in study.runs(seeds=3): measure(study, run, Path("studies/positions"))

Every run has a directory of its own, with its result beside its checkpoints: a study that was stopped goes on where it
was, and several processes may work on different seeds of one study.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mathllm.config import Config, build_config
from mathllm.device import pick_device
from mathllm.errors import DataError, UsageError, unknown_choice
from mathllm.evaluation.lengths import evaluate_lengths
from mathllm.files import write_json
from mathllm.model.checkpoint import load_checkpoint
from mathllm.tasks import TASK_NAMES, get_tasks
from mathllm.training.run import train
from mathllm.training.state import run_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESULT = "study_result.json"


@dataclass(frozen=True)
class Run:
    """One variant with one seed: `assignments` are section.key=value over the study's recipe."""

    variant: str
    seed: int
    assignments: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The name of its directory."""
        name = "".join(c if c.isalnum() else "-" for c in self.variant)
        return f"{name}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """What is compared. `digits` are the lengths to test at, with `examples` random problems and as many with carry
    stress (see evaluation.lengths); the held-out problems of the recipe's own kind are always tested."""

    name: str
    recipe: str
    variants: dict[str, list[str]]
    seeds: int = 3
    digits: tuple[int, ...] = ()
    examples: int = 100
    settings: tuple[str, ...] = ()

    def runs(self, seeds: Sequence[int], only: Sequence[str] = (), more: Sequence[str] = ()) -> list[Run]:
        """All runs, seed by seed, so that a first comparison is there early. `more` changes every one of them.

        Raises UsageError for an unknown variant in `only`.
        """
        for name in only:
            if name not in self.variants:
                raise unknown_choice("variant", name, tuple(self.variants))
        chosen = {name: added for name, added in self.variants.items() if not only or name in only}
        return [
            Run(name, seed, (*self.settings, *added, *more))
            for seed in seeds
            for name, added in chosen.items()
        ]

    def config(self, run: Run, root: Path) -> Config:
        """The settings of a run whose directory lies in `root`."""
        own = {"train": {"seed": run.seed, "output_dir": str(root / run.folder), "wandb": "off"}}
        return build_config(own, assignments=run.assignments, recipe=self.recipe)


def study_names() -> list[str]:
    """The studies in the package."""
    folder = resources.files("mathllm") / "studies"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(name: str) -> Study:
    """A study of the package, or of a TOML file anywhere. Raises UsageError for what is none."""
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"there is no study {name}", f"the package has: {', '.join(study_names())}")
        text = Path(name).read_text(encoding="utf-8")
    elif name in study_names():
        text = (resources.files("mathllm") / "studies" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise unknown_choice("study", name, study_names())
    try:
        entries = tomllib.loads(text)
        for key in ("digits", "settings"):
            entries[key] = tuple(entries.get(key, ()))
        return Study(name=Path(name).stem, **entries)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise UsageError(f"{name} is no study: {error}", "see mathllm/studies for some") from error


def measure(study: Study, run: Run, root: Path, console: Console) -> dict[str, Any]:
    """Trains one run and measures it, unless that is done already; an unfinished one goes on where it was.

    Raises DataError where the directory holds a result of other settings.
    """
    directory = root / run.folder
    path, said = (
        directory / RESULT,
        {"variant": run.variant, "seed": run.seed, "assignments": list(run.assignments)},
    )
    if path.is_file():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {name: result.get(name) for name in said} != said:
            raise DataError(f"{path} is of other settings", "choose another --output-dir")
        return result
    config = study.config(run, root)
    trained = train(config, resume=bool(run_files(directory)), console=console)
    if trained.test is None:
        raise KeyboardInterrupt
    started = time.perf_counter()
    loaded = load_checkpoint(directory, pick_device(config.train.device))
    lengths = []
    for code in get_tasks(loaded.data.task):
        results = evaluate_lengths(
            loaded.model, loaded.notation, code, study.digits, study.examples, loaded.data.max_operands
        )
        for one in results:
            count, errors = one.report.answers, one.report.errors
            lengths.append(
                {
                    "task": TASK_NAMES[code],
                    "digits": one.digits,
                    "kind": one.kind,
                    "correct": count.correct,
                    "num_examples": count.num_examples,
                    "errors": errors.to_dict(),
                }
            )
    result = {
        **said,
        "parameters": loaded.model.num_parameters,
        "train_seconds": round(trained.outcome.seconds, 1),
        "eval_seconds": round(time.perf_counter() - started, 1),
        "steps": trained.outcome.step,
        "correct": trained.test["correct"],
        "num_examples": trained.test["num_examples"],
        "lengths": lengths,
    }
    write_json(path, result)
    return result


def finished_results(study: Study, root: Path) -> list[dict[str, Any]]:
    """Results of all runs that are done, in the order of the study's variants, then by seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob(f"*/{RESULT}")]
    order = list(study.variants)
    known = [result for result in found if result["variant"] in order]
    return sorted(known, key=lambda result: (order.index(result["variant"]), result["seed"]))


def shares(results: Sequence[dict[str, Any]], kind: str) -> dict[tuple[str, str], list[float]]:
    """Exact match of each seed by variant and column: `held out`, or digits for one kind of problem."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        found.setdefault((result["variant"], "held out"), []).append(
            result["correct"] / result["num_examples"]
        )
        by_digits: dict[int, list[float]] = {}
        for row in result["lengths"]:
            if row["kind"] == kind:
                by_digits.setdefault(row["digits"], []).append(row["correct"] / row["num_examples"])
        for digits, values in by_digits.items():
            found.setdefault((result["variant"], str(digits)), []).append(float(np.mean(values)))
    return found
