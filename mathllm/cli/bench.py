"""`mathllm bench`: how fast is this machine, and how close to its limits is mathllm?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mathllm.cli import options
from mathllm.cli.output import Output
from mathllm.config import SIZES, recipe_names
from mathllm.errors import UsageError, check_choice

if TYPE_CHECKING:
    from mathllm.bench import Measurement, SectionResult


def bench(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="machine, data, training, decoding, evaluation or target (minutes: trains recipes until they are "
            "right); may be given several times. Default: all but target.",
            metavar="SECTION",
        ),
    ] = None,
    model_size: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Sizes to multiply, train and decode with: {', '.join(SIZES)} (default: all, and to decode with, "
            "small).",
            metavar="SIZE",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Recipes whose time to target is measured: {', '.join(recipe_names())} (default: demo).",
            metavar="RECIPE",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each piece of work.", min=1)] = 5,
    device: options.Device = "auto",
    as_json: options.Json = False,
    output_file: options.OutputFile = None,
) -> None:
    """Measure data, training, decoding and evaluation, beside what the machine can do.

    Every figure is the median of several runs, with the lowest and the highest; each section runs in a process of its
    own, whose peak memory is told. Nothing is downloaded, and nothing is left behind.

    \b
    mathllm bench
    mathllm bench --only training --model-size nano --model-size small
    mathllm bench --only target --recipe demo --recipe addsub-40k
    mathllm bench --json --output-file bench.json
    """
    from mathllm.bench import ALWAYS, OF_RECIPES, OF_SIZES, SECTIONS, Options, about, run_section

    sections = check(only, SECTIONS, "section") or ALWAYS
    sizes, recipes = check(model_size, tuple(SIZES), "size"), check(recipe, recipe_names(), "recipe")
    for option, names, users in (("--model-size", sizes, OF_SIZES), ("--recipe", recipes, OF_RECIPES)):
        if names and not set(users) & set(sections):
            raise UsageError(f"{option} does nothing here", f"it is for --only {' or '.join(users)}")
    how = Options(device, sizes, recipes or Options.recipes, repeats)
    output = Output(as_json, output_file)
    talk, console = Console(stderr=True, highlight=False), Console(highlight=False, quiet=as_json)
    machine = about(how)
    console.print("\n".join(f"{name:<10}{value}" for name, value in machine.items()), markup=False)
    found = {}
    for section in sections:
        with talk.status(f"measuring {section}"):
            result = run_section(section, how)
        show(console, result)  # every section as soon as it is measured
        found[result.section] = asdict(result)
    output.give({**machine, "sections": found}, lambda console: None)


def check(names: list[str] | None, known: Any, kind: str) -> tuple[str, ...]:
    """The names as they are. Raises UsageError for one that is not known."""
    for name in names or ():
        check_choice(kind, name, known)
    return tuple(dict.fromkeys(names or ()))


def show(console: Console, result: SectionResult) -> None:
    """A section as a table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    table.add_column(result.section)
    for title in ("median", "", "lowest to highest", ""):
        table.add_column(title, justify="right" if title == "median" else "left")
    for one in result.measurements:
        spread = f"{number(one.low)} to {number(one.high)}" if one.repeats > 1 else ""
        table.add_row(one.what, number(one.value), one.unit, spread, remarks(one))
    console.print()
    console.print(table)
    console.print(f"{result.seconds:.0f} s, at most {result.peak_bytes / 2**20:,.0f} MiB", style="dim")


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def remarks(one: Measurement) -> str:
    """What else is to be said, like `share of peak 53%`."""
    parts = []
    for name, value in one.more.items():
        figure = (
            value if isinstance(value, str) else f"{value:.0%}" if name.startswith("share") else number(value)
        )
        parts.append(figure if isinstance(value, str) else f"{name.replace('_', ' ')} {figure}")
    return ", ".join(parts)
