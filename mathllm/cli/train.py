"""`mathllm train`: a run from flags, a recipe and --set, in the order that `mathllm.config` says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathllm.cli import options
from mathllm.cli.options import option
from mathllm.config import recipe_names
from mathllm.errors import UsageError, remark, visible
from mathllm.flags import OUTPUT, parse_assignments
from mathllm.registry import OBJECTIVES

if TYPE_CHECKING:
    from mathllm.config import Config
    from mathllm.training.run import TrainResult

Tables = dict[str, dict[str, Any]]


@options.not_needed(num_workers="problems are drawn far faster than they are learned")
@options.with_flags(options.SETTINGS, optional=True)
def train(
    *,
    resume: Annotated[bool, option("Go on with the run there.", OUTPUT, "--resume")] = False,
    overwrite: options.Overwrite = False,
    show_loss_mask: Annotated[
        bool, option("Show what a few rows are trained on, and stop.", OUTPUT, "--show-loss-mask")
    ] = False,
    as_json: options.Json = False,
    recipe: Annotated[
        str | None, option(f"{', '.join(recipe_names())}, or a TOML file.", options.MORE)
    ] = None,
    assignments: options.Set = None,
    **settings: Any,
) -> None:
    """Train a model, keep the best checkpoint, and test that on problems never seen.

    Without a flag: the small model on data/, or on an endless stream of new
    problems if mathllm gen-data has made no files. All goes to the output
    directory: checkpoints, metrics.jsonl, logs/training.log, test_results.json.
    Ctrl-C saves first, and --resume goes on exactly. Of several processes, the
    first tells what is wrong; torchrun's own lines about it follow.

    \b
    mathllm train
    mathllm train --task addition,subtraction --max-digits 2 --model-size nano
    mathllm train --recipe addsub-3digit --output-dir checkpoints/mine
    torchrun --nproc-per-node 2 -m mathllm train
    """
    from mathllm.training.distributed import is_main
    from mathllm.training.run import train as run_training

    config = config_from_flags(settings, recipe=recipe, assignments=assignments or (), resume=resume)
    if show_loss_mask:
        print_loss_mask(config)
        return
    result = run_training(config, resume, overwrite)
    if is_main():
        report(result, as_json)
    if result.outcome.reason == "signal":
        raise typer.Exit(128 + result.outcome.signal)


def report(result: TrainResult, as_json: bool) -> None:
    """How the run ended, and what to type next."""
    from mathllm.evaluation.breakdown import Count
    from mathllm.evaluation.show import headline
    from mathllm.tasks.base import plural

    outcome, directory = result.outcome, visible(shlex.quote(str(result.run)))
    stopped, say = outcome.reason == "signal", partial(typer.echo, err=True)
    if as_json:
        best = None if stopped else str(result.run / "best")
        document = {"run": str(result.run), "best": best, **asdict(outcome), "test": result.test}
        typer.echo(json.dumps(document, indent=2))
    if stopped:
        say(f"stopped and saved at step {outcome.step:,}")
        say(f"to go on: mathllm train --resume --output-dir {directory}")
        return
    endings = {"target": "reached the target", "patience": "stopped, since nothing better came"}
    endings["proved"] = "proved right"
    ending = endings.get(outcome.reason, outcome.reason)
    say(f"{ending} after {plural(outcome.step, 'step')}, {outcome.seconds:.0f} s")
    if not as_json:
        if result.test is not None:
            typer.echo(f"test {headline(Count(result.test['correct'], result.test['num_examples']))}")
            if seen := result.test.get("in_training", 0):
                remark(f"{seen:,} of these problems were trained on, too")
        typer.echo(visible(f"best checkpoint {result.run / 'best'}"))
    say(f"next: mathllm chat --checkpoint {directory}")


# what names a run that is given no directory
RUN_NAME = {"model": ("size",), "data": ("task",), "train": ("output_dir",)}


def config_from_flags(
    given: dict[str, Any], *, recipe: str | None, assignments: Sequence[str], resume: bool
) -> Config:
    """The Config that flags, recipe and --set amount to, on top of a run's own when it is resumed."""
    from mathllm.config import ObjectiveConfig, build_config, load_recipe, merged
    from mathllm.training.run import saved_settings

    flags, implied = options.tables_of(given)
    if flags.get("train", {}).get("max_steps") == 0:
        raise UsageError(
            "--max-steps must be at least 1, not 0", "--num-epochs N goes N times through the data"
        )
    if "num_epochs" in flags.get("train", {}):
        flags["train"].setdefault("max_steps", 0)  # not those of a recipe, or of the run that goes on
    own, assigned = load_recipe(recipe) if recipe else {}, parse_assignments(assignments)
    data_dir = merged(own, assigned, flags)["data"].get("data_dir", "")
    facts = data_facts(data_dir, own.get("data", {}), assigned.get("data", {}) | flags.get("data", {}))
    before, pinned = [own, facts], {}
    if resume:
        # a data directory that merely lies about may not be what the run was started on
        runs = [run_named(own, facts, assigned, flags), run_named(own, assigned, flags)]
        run = next((one for one in runs if saved_settings(one)), runs[0])
        before = [own, saved_settings(run), facts if data_dir else {}]
        pinned = {"train": {"output_dir": str(run)}}
    for section, values in implied.items():  # what is switched on already stays as it is
        known = {key: value for layer in before for key, value in layer.get(section, {}).items()}
        implied[section] = {key: on for key, on in values.items() if not (on and known.get(key))}
    layers = [*before, implied, assigned, flags, pinned]
    objective = merged(*layers)["objective"].get("name", ObjectiveConfig.name)
    check_objective(given, objective)
    drop_unsuited_format(facts, objective)
    return build_config(*layers)


def run_named(*layers: Tables) -> Path:
    """The directory of the run that settings name."""
    from mathllm.config import build_config, merged
    from mathllm.resolve import run_directory

    known = merged(*layers)
    name = {
        section: {key: known[section][key] for key in keys if key in known[section]}
        for section, keys in RUN_NAME.items()
    }
    return Path(run_directory(build_config(name)))


def check_objective(given: dict[str, Any], name: str) -> None:
    """Raises UsageError for an option of an objective that is not chosen."""
    for other, entry in OBJECTIVES.items():
        own = [one.option for one in entry.settings if given[one.parameter] is not None]
        if own and other != name:
            switch = entry.switch.split("/")[0] or f"--objective {other}"
            raise UsageError(f"{own[0]} does nothing without {switch}", "give it, or a recipe that does")


def data_facts(data_dir: str, own: dict[str, Any], asked: dict[str, Any]) -> Tables:
    """What the data directory says of its problems: the one named, or data/ if nothing asks for a stream, be it a
    recipe's `own` table of data or what is `asked` for."""
    from mathllm.data.files import read_metadata
    from mathllm.data.sources import STREAM_SETTINGS

    stream = [name for name in STREAM_SETTINGS if name in asked]
    if data_dir and stream:
        raise UsageError(
            f"{stream[0]} describes a stream of new problems, but {data_dir} has its own",
            "leave out the one or the other, or make other files: mathllm gen-data",
        )
    if not data_dir:
        if stream or own or "curriculum_steps" in asked or not Path("data/metadata.json").is_file():
            return {}
        data_dir = "data"
    # any format can be trained on any file of problems, and a recipe's counts more than the file's
    said = read_metadata(Path(data_dir))["data"].items()
    kept = {name: value for name, value in said if name in STREAM_SETTINGS or name not in own}
    return {"data": {**kept, "data_dir": data_dir}}


def drop_unsuited_format(facts: Tables, objective: str) -> None:
    """Leaves the format open where the one in which data are written is none for the objective: their problems can be
    written in any."""
    from mathllm.formats import get_format
    from mathllm.resolve import suits

    written = facts.get("data", {}).get("format")
    if written and not suits(objective, get_format(written)):
        del facts["data"]["format"]


def print_loss_mask(config: Config) -> None:
    """Three training rows; the tokens that count in the loss are underlined."""
    from mathllm.data.sources import format_of
    from mathllm.resolve import resolve
    from mathllm.tokenizer import TOKENS
    from mathllm.training.objectives import make_objective
    from mathllm.training.run import load_splits

    config = resolve(config)
    format = format_of(config.data)
    rendered = format.render(load_splits(config).source.problems(0, 3))
    scored = make_objective(config.objective).scored(rendered)
    texts = format.texts(rendered.problems, rendered.ids, rendered.lengths)
    for text, ids, mask, length in zip(texts, rendered.ids, scored, rendered.lengths, strict=True):
        counted = [(TOKENS[i], bool(on)) for i, on in zip(ids[:length], mask[:length], strict=True)]
        typer.echo(f"{text}\n{carets(text, counted)}")


def carets(text: str, tokens: list[tuple[str, bool]]) -> str:
    """A caret under each character of the tokens that count, none under the spaces between."""
    marks = ""
    for token, counted in tokens:
        spaces = len(text[len(marks) :]) - len(text[len(marks) :].lstrip(" "))
        marks += " " * spaces + ("^" if counted else " ") * len(token)
    return marks
