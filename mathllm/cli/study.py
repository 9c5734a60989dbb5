"""`mathllm study`: the same training in several variants and seeds, as a table."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mathllm.cli import options
from mathllm.cli.output import Output, tell
from mathllm.errors import UsageError, visible
from mathllm.files import toml_names, write_json
from mathllm.limits import MAX_SEEDS, check_range
from mathllm.percent import percent_down

if TYPE_CHECKING:
    from mathllm.study import Study

RESULTS = "results.json"


def study(
    name: Annotated[
        str,
        typer.Argument(help=f"{', '.join(toml_names('studies'))}, or a TOML file."),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(help="Which seeds: 0,1,2 (default: as many as the study says).", metavar="N,N..."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this variant; may be given several times.", metavar="VARIANT"),
    ] = None,
    settings: options.Set = None,
    output_dir: Annotated[Path | None, options.option_of("output_dir", default="studies/NAME")] = None,
    plot: options.Plot = None,
    as_json: options.Json = False,
    table_only: Annotated[
        bool, typer.Option("--table", help="Train nothing: show all that is finished.")
    ] = False,
) -> None:
    """Compare variants of a training run, over several seeds.

    Prints a table of what is finished, and writes studies/NAME/results.json. Stopped, it goes on where it was when it
    is started again; several may work side by side on different --seeds.

    \b
    mathllm study positions                     # every position scheme, tested at up to 100 digits
    mathllm study positions --seeds 0 --only rope --only coupled-bias
    mathllm study coupled-bias                  # what makes length-100x work, taken away one by one
    mathllm study sample-efficiency             # how many examples plain, reversed and column take
    mathllm study thoughts                      # reasoning learned from the answer alone, and controls
    mathllm study mine.toml --set train.max_steps=200
    """
    from mathllm.study import load_study, measure

    output = Output(as_json, plot=plot)
    if table_only and (seeds or only):
        raise UsageError("--table shows all that is finished", "leave out --seeds and --only")
    chosen = load_study(name)
    root = output_dir or Path("studies") / chosen.name
    check_results(root / RESULTS)
    runs = chosen.runs(root, parse_seeds(seeds, chosen.seeds), only or (), settings or ())
    talk = Console(stderr=True, highlight=False)
    for number, run in enumerate([] if table_only else runs, 1):
        tell(talk, f"{number} of {len(runs)}: {run.variant}, seed {run.seed}")
        found = measure(chosen, run, talk)
        right = f"{found['correct']:,} of {found['num_examples']:,} held out"
        talk.print(f"  {right}, {found['train_seconds']:.0f} s", style="dim")
    report(chosen, root, settings or [], output)


def check_results(path: Path) -> None:
    """Raises UsageError for a file that no study has written: it would be deleted."""
    ours = b'{\n  "study"'
    if path.exists() and not (path.is_file() and path.open("rb").read(len(ours)) == ours):
        hint = "move it elsewhere, or choose another --output-dir"
        raise UsageError(f"{path} is not the result of a study: it would be deleted", hint)


def parse_seeds(text: str | None, count: int) -> list[int]:
    """Seeds from `0,1,2`, or the first `count`. Raises UsageError for anything else."""
    if text is None:
        return list(range(count))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise UsageError(f"--seeds takes whole numbers, not {text!r}", "for example --seeds 0,1,2")
    seeds = sorted({int(part) for part in parts})
    check_range("the number of seeds", len(seeds), 1, MAX_SEEDS)
    return seeds


def report(chosen: Study, root: Path, settings: list[str], output: Output) -> None:
    """Prints the tables of what is finished, writes results.json, and draws a picture where there should be one."""
    from mathllm.evaluation.lengths import RANDOM
    from mathllm.study import finished_results, lines, unit_of

    results, others = finished_results(chosen, root, settings)
    if not results:
        raise UsageError(f"no run of {chosen.name} is finished in {root}", f"mathllm study {chosen.name}")
    document = {"study": chosen.name, "results": results}
    write_json(root / RESULTS, document)
    if output.plot is not None:
        from mathllm.evaluation.plots import plot_lengths

        if not chosen.digits:
            raise UsageError(f"{chosen.name} tests no lengths: there is nothing to draw", "leave out --plot")
        plot_lengths(lines(chosen, results, RANDOM), output.plot, f"{unit_of(results)[0]}s")
    output.give(document, lambda console: show(console, chosen, results=results, others=others, root=root))


def show(console: Console, chosen: Study, *, results: list[dict[str, Any]], others: int, root: Path) -> None:
    """A table for each kind of problem, and what the figures mean; `others` results were left out."""
    from mathllm.evaluation.lengths import RANDOM, STRESS
    from mathllm.study import shares, unit_of
    from mathllm.tasks import get_tasks
    from mathllm.tasks.base import plural

    unit, less = unit_of(results)
    names = {"held out": "held out"} | {
        str(one): f"{one} {unit}s" if one.second else plural(one.digits - less, unit)
        for one in chosen.lengths
    }
    tasks = sorted({row["task"] for result in results for row in result["lengths"]})
    stress = " or ".join(dict.fromkeys(get_tasks(task)[0].stress for task in tasks))
    titles = {RANDOM: RANDOM, STRESS: stress} if chosen.digits else {RANDOM: "held out"}
    for kind, title in titles.items():
        columns = {key: name for key, name in names.items() if kind == RANDOM or key != "held out"}
        console.print(table(chosen, shares(results, kind), columns, title))
        console.print()
    held_out = " or ".join(f"{n:,}" for n in sorted({result["num_examples"] for result in results}))
    lines = [
        "exact match in percent: the median of the seeds (the lowest to the highest)",
        f"held out: {held_out} problems a seed, of the variant's own kind",
        *([f"other columns: {chosen.examples:,} problems a seed"] if chosen.digits else []),
        *([f"{others} results of other settings were left out"] if others else []),
        str(root / RESULTS),
    ]
    for line in lines:
        tell(console, line, "dim")


def table(
    chosen: Study, found: dict[tuple[str, str], list[float]], columns: dict[str, str], title: str
) -> Table:
    """A line for each variant; `columns` are the titles of what is found, by its name there."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    result.add_column(title)
    for column in (*columns.values(), "seeds"):
        result.add_column(column, justify="right")
    for variant in chosen.variants:
        cells = [found.get((variant, column), []) for column in columns]
        if any(cells):
            result.add_row(Text(visible(variant)), *map(cell, cells), str(max(map(len, cells))))
    return result


def cell(values: list[float]) -> str:
    """`98.5 (12-100)`: the median of seeds, lowest and highest; percentages rounded down, so that 100 means all."""
    if not values:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    text = percent_down(middle)
    return text if low == high else f"{text} ({percent_down(low)}-{percent_down(high)})"
