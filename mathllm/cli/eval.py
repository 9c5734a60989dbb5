"""`mathllm eval`: is the model exactly right, where is it not, and what does it do wrong?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mathllm.cli.by_length import by_digits, grids, parse_lengths
from mathllm.cli.progress import progress_bar
from mathllm.errors import DataError, UsageError
from mathllm.files import explained, write_json

if TYPE_CHECKING:
    from mathllm.checkpoint import Checkpoint
    from mathllm.evaluation.exact_match import ProblemSet
    from mathllm.evaluation.report import Report
    from mathllm.tasks import Problems

BELOW_THRESHOLD = 3
SAMPLED = 5000  # problems, for a model without a data file
PER_LENGTH = 100  # problems of each length and kind
# options that mean something only with --grid, with --digits, or with neither ("")
ONLY_WITH = {
    "grid": ("grid",),
    "grid_step": ("grid",),
    "per_cell": ("grid",),
    "plot": ("grid",),
    "operands": ("digits",),
    "max_examples": ("digits", ""),
    **dict.fromkeys(("data_path", "data_dir", "exhaustive", "samples", "mistakes"), ("",)),
}
WHAT, HOW, OUTPUT = "What to evaluate", "How", "Output"


def option(help_text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, option("A checkpoint, its model.safetensors, or a run (default: the newest)", WHAT)
    ] = None,
    data_path: Annotated[
        Path | None, option("A file of problems: JSONL, CSV, or one 12+34=46 a line.", WHAT)
    ] = None,
    data_dir: Annotated[
        Path | None,
        option("A dataset: its test.jsonl (default: the one trained on, else data, else a sample)", WHAT),
    ] = None,
    exhaustive: Annotated[
        int | None, option("All pairs of operands from 0 to N.", WHAT, metavar="N", min=0)
    ] = None,
    grid: Annotated[
        int | None,
        option("Operands of every pair of lengths up to N digits.", WHAT, metavar="N", min=1),
    ] = None,
    grid_step: Annotated[int, option("Of the grid, every so many digits.", WHAT, metavar="N", min=1)] = 1,
    per_cell: Annotated[int, option("Problems of each pair of lengths.", WHAT, metavar="N", min=1)] = 10,
    digits: Annotated[
        str | None,
        option(
            "Operands of exactly so many digits, random ones and ones whose carries run far: 10,100 does both "
            "lengths, with 100 problems of each kind (or --max-examples).",
            WHAT,
            metavar="N,N...",
        ),
    ] = None,
    operands: Annotated[int, option("Of sums drawn by --digits.", WHAT, min=2)] = 2,
    max_examples: Annotated[int | None, option("The first N problems.", WHAT, metavar="N", min=1)] = None,
    batch_size: Annotated[int, option("Problems at once, at most.", HOW, min=1)] = 1024,
    draft: Annotated[
        bool,
        option(
            "Check the true answer in one pass and decode only where it is not sure, or decode everything token by "
            "token: slower, with the same verdicts.",
            HOW,
            "--draft/--no-draft",
        ),
    ] = True,
    device: Annotated[str, option("auto, cpu, cuda or cuda:N.", HOW)] = "auto",
    fail_under: Annotated[
        float | None,
        option(
            "Exit with code 3 if less than this share is right: 0.999, or 1 for all.",
            HOW,
            metavar="SHARE",
            min=0,
            max=1,
        ),
    ] = None,
    mistakes: Annotated[int, option("Show the first N mistakes.", OUTPUT, metavar="N", min=0)] = 5,
    as_json: Annotated[bool, option("Print one JSON document.", OUTPUT, "--json")] = False,
    output_file: Annotated[Path | None, option("Write that document to a file.", OUTPUT)] = None,
    plot: Annotated[
        Path | None, option("Draw the --grid into a .png, .svg or .pdf (needs the extra plots).", OUTPUT)
    ] = None,
    samples: Annotated[Path | None, option("Write one line of JSON per problem to a file.", OUTPUT)] = None,
) -> None:
    """Count exact answers, and sort the mistakes.

    A problem is solved if the number that the model writes is the true one. Any file of problems will do.

    \b
    mathllm eval
    mathllm eval --exhaustive 999 --fail-under 1
    mathllm eval --checkpoint checkpoints/length-100x --grid 100 --grid-step 10
    mathllm eval --checkpoint checkpoints/length-100x --digits 10,100,1000 --no-draft
    mathllm eval --checkpoint checkpoints/mine --data-path sums.csv --samples samples.jsonl
    """
    check_options(context, "digits" if digits is not None else "grid" if grid is not None else "")
    check_outputs(output_file, samples, plot)
    if plot is not None:
        from mathllm.evaluation.plots import check_plot

        check_plot(plot)
    lengths = parse_lengths(digits) if digits is not None else None

    from mathllm.checkpoint import load_checkpoint
    from mathllm.device import pick_device
    from mathllm.evaluation.report import evaluate_problems

    loaded = load_checkpoint(checkpoint, pick_device(device))
    if loaded.data.task == "chain" and (grid is not None or exhaustive is not None):
        raise UsageError("a chain has no two operands", "mathllm eval --digits 5,9 counts its numbers")
    if grid is not None:
        share = grids(loaded, (grid, grid_step, per_cell), draft, batch_size, as_json, output_file, plot)
    elif lengths is not None:
        n = max_examples or PER_LENGTH
        share = by_digits(loaded, lengths, n, operands, draft, batch_size, as_json, output_file)
    else:
        problems, source = choose_problems(loaded, data_path, data_dir, exhaustive, max_examples)
        complete = exhaustive is not None and max_examples is None
        with _samples_file(samples) as file, progress_bar("evaluating") as progress:
            model, notation = loaded.model, loaded.notation
            report = evaluate_problems(model, notation, problems, batch_size, mistakes, file, progress, draft)
        about = {"checkpoint": str(loaded.path), "data": source, "format": loaded.notation.name}
        _print(report, about, complete, as_json, output_file)
        share = report.exact_match
    check_threshold(share, fail_under)


def check_options(context: typer.Context, mode: str) -> None:
    """Raises UsageError for options that would do nothing beside --grid, beside --digits, or without either."""
    for name, modes in ONLY_WITH.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and mode not in modes:
            option_name = "--" + name.replace("_", "-")
            if mode:
                raise UsageError(f"{option_name} does nothing beside --{mode}", "leave out one of them")
            raise UsageError(f"{option_name} needs --{modes[0]}", "see mathllm eval --help")


def check_threshold(exact_match: float, fail_under: float | None) -> None:
    if fail_under is not None and exact_match < fail_under:
        print(f"exact match {exact_match:.6g} is below {fail_under:g}", file=sys.stderr)
        raise typer.Exit(BELOW_THRESHOLD)


def check_outputs(*files: Path | None) -> None:
    """Raises UsageError for files that could not be written: better now than after all the work."""
    for path in filter(None, files):
        if not path.absolute().parent.is_dir():
            raise UsageError(
                f"there is no directory {path.parent} to write {path.name} into", "make it first"
            )
        if path.is_dir():
            raise UsageError(f"{path} is a directory", "give the name of a file")
        if not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(
                f"nothing can be written into {path.absolute().parent}", "choose another directory"
            )
    named = [path.absolute() for path in files if path is not None]
    if len(set(named)) < len(named):
        raise UsageError("two outputs have the same file", "give them two names")


def choose_problems(
    checkpoint: Checkpoint,
    data_path: Path | None = None,
    data_dir: Path | None = None,
    exhaustive: int | None = None,
    max_examples: int | None = None,
) -> tuple[ProblemSet, str]:
    """The problems that the options ask for, and a line that says which these are.

    Without an option: the test file of the dataset that the checkpoint was trained on, else of `data/`, else
    fresh problems of its test split. Raises UsageError for options that exclude each other, DataError for a
    bad file.
    """
    from mathllm.data.importing import read_problems
    from mathllm.evaluation.exhaustive import AllPairs
    from mathllm.tasks import TASKS, get_tasks

    if sum(option is not None for option in (data_path, data_dir, exhaustive)) > 1:
        raise UsageError("--data-path, --data-dir and --exhaustive exclude each other", "give one of them")
    problems: ProblemSet
    if exhaustive is not None:
        problems = AllPairs(get_tasks(checkpoint.data.task), exhaustive, checkpoint.data.signed)
        codes = get_tasks(checkpoint.data.task)
        factors = " (the second of products one digit)" * any(TASKS[code].factor_digits for code in codes)
        source = f"all problems of {checkpoint.data.task} with two operands from 0 to {exhaustive:,}{factors}"
    else:
        path = _test_file(data_dir) if data_dir is not None else data_path or _default_file(checkpoint)
        if path is None:
            return _fresh_problems(checkpoint, max_examples or SAMPLED)
        found = read_problems(path, chain=checkpoint.data.task == "chain")
        if len(found) == 0:
            raise DataError(f"there is no problem in {path}", "make more: mathllm gen-data")
        _remark(checkpoint, found)
        problems, source = found, str(path)
        if data_path is None and data_dir is None:
            print(f"no data was named: taking {source}", file=sys.stderr)
    if max_examples is not None and max_examples < len(problems):
        return problems[:max_examples], f"the first {max_examples:,} of {source}"
    return problems, source


def _test_file(data_dir: Path) -> Path:
    path = data_dir / "test.jsonl"
    if not path.is_file():
        raise UsageError(f"{data_dir} holds no test.jsonl", "make a dataset: mathllm gen-data")
    return path


def _default_file(checkpoint: Checkpoint) -> Path | None:
    trained_on = [Path(checkpoint.data.data_dir)] if checkpoint.data.data_dir else []
    files = [directory / "test.jsonl" for directory in (*trained_on, Path("data"))]
    return next((file for file in files if file.is_file()), None)


def _fresh_problems(checkpoint: Checkpoint, most: int) -> tuple[ProblemSet, str]:
    from mathllm.data.sources import held_out
    from mathllm.tasks.splits import TEST

    problems = held_out(checkpoint.data, TEST, most)
    source = f"{len(problems):,} problems of the test split, as the checkpoint's settings draw them"
    print(f"no data was named and there is no test file: taking {source}", file=sys.stderr)
    return problems, source


def _remark(checkpoint: Checkpoint, problems: Problems) -> None:
    """Says on stderr what makes a result of these problems mean something else than it seems to."""
    import numpy as np

    from mathllm.data.sources import ratios
    from mathllm.tasks import TASK_NAMES, get_tasks
    from mathllm.tasks.splits import TRAIN, split_of

    present = {int(code) for code in np.unique(problems.task)}
    foreign = present - set(get_tasks(checkpoint.data.task))
    if foreign:
        names = ", ".join(TASK_NAMES[code] for code in sorted(foreign))
        print(f"note: this checkpoint was not trained on {names}", file=sys.stderr)
    if not checkpoint.data.data_dir:
        # a stream shows every problem of its train split sooner or later
        seen = int((split_of(problems, ratios(checkpoint.data)) == TRAIN).sum())
        if seen:
            total = f"{seen:,} of {len(problems):,} problems"
            print(f"note: {total} are of the split that this checkpoint was trained on", file=sys.stderr)


@contextmanager
def _samples_file(path: Path | None) -> Iterator[TextIO | None]:
    """A file to write into, which gets its name only when it is whole; None without a path."""
    if path is None:
        yield None
        return
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explained(f"write {path}"):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _print(
    report: Report, about: dict[str, str], complete: bool, as_json: bool, output_file: Path | None
) -> None:
    from rich.console import Console

    from mathllm.evaluation.show import show_report

    document = {**about, **report.to_dict()}
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        console = Console(highlight=False)
        for name, value in about.items():
            console.print(f"{name:<12}{value}", markup=False, soft_wrap=True)
        console.print()
        show_report(console, report, complete)
    if output_file is not None:
        write_json(output_file, document)
