"""`mathllm eval`: is the model exactly right, where is it not, and what does it do wrong?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import mathllm
from mathllm.cli import options
from mathllm.cli.options import number, option
from mathllm.cli.output import Output, progress_bar, tell
from mathllm.errors import CheckpointError, DataError, UsageError, check_choice, remark, visible
from mathllm.files import new_file, read_json
from mathllm.flags import MACHINE, OUTPUT, PROBLEMS, listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mathllm.evaluation.exact_match import ProblemSet
    from mathllm.evaluation.lengths import Length
    from mathllm.math_model import MathModel
    from mathllm.tasks import Problems, Task

BELOW_THRESHOLD = 3
SAMPLED = 5000  # problems, for a model without a data file
PER_LENGTH = 100  # problems of each length and kind
# of problems of one length, as evaluation.lengths names them
KINDS_OF = {"random": "random", "stress": "carry stress", "debruijn": "debruijn"}
# options that mean something only with --grid, with --digits, or with neither ("")
ONLY_WITH = {
    "grid": ("grid",),
    "grid_step": ("grid",),
    "per_cell": ("grid",),
    "plot": ("grid",),
    "operands": ("digits",),
    "kind": ("digits",),
    "max_examples": ("digits", ""),
    **dict.fromkeys(("data_path", "reversed_digits", "data_dir", "exhaustive", "samples", "mistakes"), ("",)),
}


@options.not_needed(model_size="the checkpoint knows it", max_length="the checkpoint knows it")
def evaluate(
    context: typer.Context,
    *,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    data_path: options.DataPath = None,
    reversed_digits: options.ReversedDigits = False,
    data_dir: options.DataDir = None,
    exhaustive: Annotated[int | None, options.ALL_PAIRS] = None,
    grid: Annotated[
        str | None,
        option(
            "Operands of every pair of lengths up to N digits, or of second ones up to M.",
            PROBLEMS,
            metavar="N or NxM",
        ),
    ] = None,
    grid_step: Annotated[int, number("Of the grid, every N digits.", PROBLEMS)] = 1,
    per_cell: Annotated[int, number("Problems of each pair of lengths.", PROBLEMS)] = 10,
    digits: Annotated[
        str | None,
        option(
            "Operands of exactly N digits, random problems and hard ones (carries that run far, near multiples of a "
            "divisor): 10,100 does both lengths, with 100 problems of each kind (or --max-examples); 20x10 gives "
            "second factors, or divisors, 10 digits.",
            PROBLEMS,
            metavar="N,NxM...",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        option(
            "Of problems drawn by --digits: random, stress, or debruijn, as many sums as hold every three columns in a "
            "row.",
            PROBLEMS,
            default="random and stress",
            metavar="KIND",
        ),
    ] = None,
    operands: Annotated[
        int, number("Numbers of a problem that --digits draws, as many as its task takes.", PROBLEMS, 2)
    ] = 2,
    max_examples: Annotated[
        int | None, number("The first N problems; beside --digits, N of each length and kind.", PROBLEMS)
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 1024,
    draft: Annotated[
        bool,
        option(
            "Check the true answer in one pass and decode only where it is not sure, or decode everything token by "
            "token: slower, with the same verdicts.",
            MACHINE,
            "--draft/--no-draft",
        ),
    ] = True,
    as_json: options.Json = False,
    output_file: options.OutputFile = None,
    plot: options.Plot = None,
    mistakes: Annotated[int, number("Show the first N mistakes.", OUTPUT, 0)] = 5,
    samples: Annotated[Path | None, option("Write one line of JSON per problem to a file.", OUTPUT)] = None,
    fail_under: Annotated[
        float | None,
        option(
            "Exit with code 3 if less than this share is right: 0.999, or 1 for all.",
            OUTPUT,
            metavar="SHARE",
            min=0,
            max=1,
        ),
    ] = None,
) -> None:
    """Count exact answers, and sort the mistakes.

    A problem is solved if the number that the model writes is the true one. Any file of problems will do.
    Another --seed draws other problems: of --digits, of --grid, or new ones of the test split.

    \b
    mathllm eval
    mathllm eval --exhaustive 999 --fail-under 1
    mathllm eval --checkpoint add-any-length --grid 100 --grid-step 10
    mathllm eval --checkpoint add-any-length --digits 10,100 --no-draft
    mathllm eval --checkpoint add-any-length --digits 1000 --kind debruijn
    mathllm eval --checkpoint addsub-3digit --data-path sums.csv --samples samples.jsonl
    """
    check_options(context, "digits" if digits is not None else "grid" if grid is not None else "")
    output = Output(as_json, output_file, plot, (samples,))

    from mathllm.evaluation.grid import evaluate_grid
    from mathllm.evaluation.lengths import Length, evaluate_lengths
    from mathllm.evaluation.report import evaluate_problems
    from mathllm.evaluation.show import show_grid, show_lengths, show_report

    loaded = mathllm.load(checkpoint, device)
    how: dict[str, Any] = {"seed": seed, "draft": draft, "batch_size": batch_size}
    if grid is not None:
        limit, second = Length.read(grid)
        if second > limit:
            raise UsageError(
                f"--grid {grid} has shorter numbers first: a grid's rows are those of the longer ones",
                f"--grid {second}x{limit}, or --grid {second} for all",
            )
        how["second_digits"] = second or loaded.data.second_digits
        how |= {"limit": limit, "step": grid_step, "per_cell": per_cell, "signed": loaded.data.signed}
        share = by_length(loaded, output, measure=evaluate_grid, show=show_grid, **how)
    elif digits is not None:
        lengths = parse_lengths(digits, loaded.tasks)
        how["second_digits"] = loaded.data.second_digits
        if operands > (most := max(task.max_operands for task in loaded.tasks)):
            raise UsageError(f"{loaded.data.task} has at most {most} operands, not {operands}")
        how |= {"lengths": lengths, "n": max_examples or PER_LENGTH, "operands": operands}
        if kind is not None:
            check_choice("kind", kind, KINDS_OF)
            how["kinds"] = [KINDS_OF[kind]]
        if kind == "debruijn":
            check_triples(context, loaded.tasks)
        share = by_length(loaded, output, measure=evaluate_lengths, show=show_lengths, **how)
    else:
        typed = seed if options.given(context, "seed") else None
        problems, source = choose_problems(
            loaded,
            data_path=data_path,
            data_dir=data_dir,
            reversed_digits=reversed_digits,
            exhaustive=exhaustive,
            max_examples=max_examples,
            seed=typed,
        )
        how = {"draft": draft, "batch_size": batch_size, "mistakes": mistakes}
        with ExitStack() as stack:
            if samples is not None:  # the file gets its name only when it is whole
                path = stack.enter_context(new_file(samples))
                how["samples"] = stack.enter_context(path.open("w", encoding="utf-8"))
            how["progress"] = stack.enter_context(progress_bar("evaluating"))
            report = evaluate_problems(loaded, problems, **how)
        about = {"checkpoint": str(loaded.path), "data": source, "format": loaded.format.name}

        def show(console: Console) -> None:
            for name, value in about.items():
                tell(console, f"{name:<12}{value}")
            console.print()
            show_report(console, report, exhaustive is not None and max_examples is None)

        output.give({**about, **report.to_dict()}, show)
        share = report.exact_match
    if fail_under is not None and share < fail_under:
        print(f"exact match {share:.6g} is below {fail_under:g}", file=sys.stderr)
        raise typer.Exit(BELOW_THRESHOLD)


def check_triples(context: typer.Context, tasks: Sequence[Task]) -> None:
    """Raises UsageError where sums that hold every three columns are not to be had, or an option would do nothing."""
    for name in ("max_examples", "operands"):
        if options.given(context, name):
            what = f"--{name.replace('_', '-')} does nothing beside --kind debruijn"
            raise UsageError(what, "leave out one of them")
    for task in tasks:  # before any of them is measured
        task.all_triples(4)


def check_options(context: typer.Context, mode: str) -> None:
    """Raises UsageError for options that would do nothing beside --grid, beside --digits, or without either."""
    for name, modes in ONLY_WITH.items():
        if options.given(context, name) and mode not in modes:
            option_name = "--" + name.replace("_", "-")
            if mode:
                raise UsageError(f"{option_name} does nothing beside --{mode}", "leave out one of them")
            raise UsageError(f"{option_name} needs --{modes[0]}", "see mathllm eval --help")


def parse_lengths(text: str, tasks: Sequence[Task]) -> list[Length]:
    """Numbers of digits from `10,20x10`. Raises UsageError for anything else, and for those that no task has."""
    from mathllm.evaluation.lengths import Length, of_task

    lengths = sorted(set(map(Length.read, text.split(","))))
    for length in lengths:
        if not any(of_task(task, [length]) for task in tasks):
            names = listed(task.name for task in tasks)
            raise UsageError(
                f"--digits {length} has a second length, and {names} has not", f"--digits {length.digits}"
            )
    return lengths


def by_length(
    loaded: MathModel,
    output: Output,
    *,
    measure: Callable[..., Any],
    show: Callable[[Console, Any, Length], None],
    **how: Any,
) -> float:
    """Exact match of each task by the number of digits, as tables or as JSON; `how` is for `measure`, whose results
    `show` prints. Returns the share that is right in all."""
    from mathllm.evaluation.exhaustive import of_pairs
    from mathllm.evaluation.lengths import Length, of_task

    found = {}
    lengths = how.get("lengths")
    tasks = [task for task in loaded.tasks if of_task(task, lengths)] if lengths else of_pairs(loaded.tasks)
    if left_out := [task.name for task in loaded.tasks if task not in tasks]:
        why = "have no second length" if lengths else "are no pairs of operands"
        remark(f"left out, since they {why}: {listed(left_out, 'and')}")
    for task in tasks:
        with progress_bar(f"{task.name} by length") as progress:
            found[task.name] = measure(loaded, task, progress=progress, **how)
    trained = {
        task.name: Length(task.digits_of(0, loaded.scope.size), task.digits_of(1, loaded.scope.size))
        for task in loaded.tasks
    }
    if output.plot is not None:
        from mathllm.evaluation.plots import plot_grids

        plot_grids(found, trained, output.plot)

    def show_all(console: Console) -> None:
        for task, result in found.items():
            tell(console, f"{task}: {loaded.path}, {result.seconds:.1f} s")
            show(console, result, trained[task])

    results = {task: result.to_dict() for task, result in found.items()}
    output.give(
        {"checkpoint": str(loaded.path), "trained_up_to_digits": loaded.data.max_digits, "tasks": results},
        show_all,
    )
    counts = [result.answers for result in found.values()]
    return float(sum(count.correct for count in counts) / sum(count.num_examples for count in counts))


def choose_problems(
    model: MathModel,
    *,
    data_path: Path | None,
    data_dir: Path | None,
    reversed_digits: bool,
    exhaustive: int | None,
    max_examples: int | None,
    seed: int | None,
) -> tuple[ProblemSet, str]:
    """The problems that the options ask for, and a line that says which these are.

    Without an option: the test file of the dataset that the checkpoint was trained on, else of `data/`, else
    fresh problems of its test split; with a `seed` these. Raises UsageError for options that exclude each other,
    DataError for a bad file.
    """
    from mathllm.data.files import places_of, read_problems
    from mathllm.evaluation.exhaustive import AllPairs

    named = [one for one in (data_path, data_dir, exhaustive) if one is not None]
    if len(named) > 1:
        raise UsageError("--data-path, --data-dir and --exhaustive exclude each other", "give one of them")
    if reversed_digits and data_path is None:
        raise UsageError("--reversed-digits is about the file of --data-path", "leave it out")
    if seed is not None and named:
        raise UsageError("--seed does nothing where no problem is drawn", "leave it out")
    problems: ProblemSet
    if exhaustive is not None:
        pairs = AllPairs(model.tasks, exhaustive, model.data.signed, model.data.second_digits)
        problems, source = pairs, pairs.about
    else:
        own = places_of(model.data.data_dir, model.path) if model.data.data_dir else []
        homes = [data_dir] if data_dir is not None else [*own, Path("data")]
        files = [home / "test.jsonl" for home in homes if seed is None]
        path = data_path or next((file for file in files if file.is_file()), None)
        if path is None and data_dir is not None:
            raise UsageError(f"{data_dir} holds no test.jsonl", "make a dataset: mathllm gen-data")
        if path is None:
            return _fresh_problems(model, max_examples or SAMPLED, seed)
        found = read_problems(path, model.readable, reversed_digits)
        if len(found) == 0:
            raise DataError(f"there is no problem in {path}", "make more: mathllm gen-data")
        _remark(model, found, max_examples)
        problems, source = found, visible(str(path))
        if not named:
            print(f"no data was named: taking {source}", file=sys.stderr)
    if max_examples is not None and max_examples < len(problems):
        return problems[:max_examples], f"the first {max_examples:,} of {source}"
    return problems, source


def _fresh_problems(model: MathModel, most: int, seed: int | None) -> tuple[ProblemSet, str]:
    from mathllm.data.sources import held_out
    from mathllm.tasks.splits import TEST

    problems = held_out(model.data, TEST, most, seed or 0)
    source = f"{len(problems):,} problems of the test split, as the checkpoint's settings draw them"
    if seed is None:
        print(f"no data was named and there is no test file: taking {source}", file=sys.stderr)
    return problems, source


def _remark(model: MathModel, found: Problems, max_examples: int | None) -> None:
    """Says on stderr what makes a result of the first problems of a file mean something else than it seems to."""
    import numpy as np

    from mathllm.data.sources import ratios
    from mathllm.tasks import by_task
    from mathllm.tasks.splits import TRAIN, hash_problems, split_of

    problems = found[:max_examples]
    foreign = [task.name for task, _ in by_task(problems) if task not in model.tasks]
    if foreign:
        remark(f"this checkpoint was not trained on {', '.join(foreign)}")
    if model.data.data_dir:
        hashes = hash_problems(found)
        trained, where = (None, "") if _known_as_new(model, hashes) else _trained_on(model)
        seen = 0 if trained is None else int(np.isin(hashes[: len(problems)], trained).sum())
    else:
        # a stream shows every problem of its train split sooner or later
        where = "of the split that this checkpoint was trained on"
        trained_on = split_of(problems, ratios(model.data)) == TRAIN
        for _, rows in model.scope.unseen(problems):
            trained_on &= ~rows
        seen = int(trained_on.sum())
    if seen:
        remark(f"{seen:,} of {len(problems):,} problems are {where}")


def _known_as_new(model: MathModel, hashes: NDArray[np.uint64]) -> bool:
    """Has training found none of these problems, those of the file that it tested the model on, in what it learned?"""
    from mathllm.data.files import fingerprint
    from mathllm.training.state import RESULTS

    with suppress(OSError, ValueError, AttributeError):  # it may be missing, or of an earlier version
        results = read_json(model.path.absolute().parent / RESULTS)
        return (results.get("in_training"), results.get("problems")) == (0, fingerprint(hashes))
    return False


def _trained_on(model: MathModel) -> tuple[NDArray[np.uint64] | None, str]:
    """Hashes of the training problems of a model's data directory, and where these are. None of a directory that
    cannot be found or read, or holds other problems than the model was trained on."""
    from mathllm.data.files import FILES, fingerprint, places_of, read_problems
    from mathllm.tasks.splits import hash_problems
    from mathllm.training.state import read_progress

    known = ""  # of a checkpoint alone, or of an earlier version
    with suppress(CheckpointError):
        known = read_progress(model.path)[0].data
    for place in places_of(model.data.data_dir, model.path):
        with suppress(ValueError):  # a DataError, or a name that no file can have
            trained = hash_problems(read_problems(place / FILES[0], model.readable))
            trained = trained[: model.data.num_examples or None]
            if not known:
                return trained, f"in {place / FILES[0]}"
            if known == fingerprint(trained, hash_problems(read_problems(place / FILES[1], model.readable))):
                return trained, "in the file that this checkpoint was trained on"
    return None, ""
