"""`mathllm inspect`: what a model does inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import mathllm
from mathllm.cli import options
from mathllm.cli.options import number, option
from mathllm.cli.output import Output, progress_bar, tell
from mathllm.errors import MathLLMError, UsageError, remark
from mathllm.files import new_directory, read_json
from mathllm.flags import PROBLEMS

if TYPE_CHECKING:
    from mathllm.inspection.report import Report
    from mathllm.inspection.single import Inspected

SHOWN = 0.05  # of a head's weight
MEASURED = (
    "exactness, attention, ablation, probes, interchange, lens, neurons, thoughts, health; circuit (minutes)"
)


def inspect(
    context: typer.Context,
    problem: Annotated[
        str | None, typer.Argument(help="One problem to look into, like 658+189.", show_default=False)
    ] = None,
    *,
    checkpoint: options.Checkpoint = None,
    what: Annotated[
        str | None,
        option(f"Only these: {MEASURED}.", PROBLEMS, default="all but circuit", metavar="NAME,NAME"),
    ] = None,
    examples: Annotated[
        int, number("Problems; each measurement takes as many of them as it has time for.", PROBLEMS, 100)
    ] = 2000,
    only: Annotated[
        str,
        option("Only problems of this task.", PROBLEMS, default="all that it has learned", metavar="TASK"),
    ] = "",
    exhaustive: Annotated[int | None, options.ALL_PAIRS] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output_dir: Annotated[
        Path | None, options.option_of("output_dir", default="inspect/NAME of the checkpoint")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """See what a model does inside: what it reads, what is needed, where carries are, what neurons do.

    Writes a report: report.json with every figure, arrays.npz, pictures (with the extra plots), and index.html, a page
    with the model in it on which heads can be switched off. What is claimed is printed, the strongest first: proved,
    exhaustive (all tried), sufficient (right with this alone), necessary (wrong without it), read (seen, no more).
    With a problem it shows that one, token by token, and writes nothing.

    \b
    mathllm inspect 658+189 --checkpoint addsub-3digit
    mathllm inspect --checkpoint add-any-length
    mathllm inspect --what interchange --examples 20000
    mathllm inspect --checkpoint addsub-3digit --only addition --what circuit --exhaustive 999
    """
    output = Output(as_json)
    if problem is not None:
        for name in ("what", "examples", "only", "exhaustive", "seed", "output_dir", "overwrite"):
            if options.given(context, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} does nothing beside a problem", "leave one of them out"
                )

        from mathllm.inspection.single import inspect_one

        inspected = inspect_one(mathllm.load(checkpoint, device), problem)
        output.give(inspected.to_dict(), lambda console: show_one(console, inspected))
        return

    from mathllm.evaluation.plots import check_plot
    from mathllm.inspection.report import inspect as measure
    from mathllm.inspection.writing import write

    loaded = mathllm.load(checkpoint, device)
    place = output_dir or Path("inspect") / run_of(loaded.path.resolve())
    check_place(place, overwrite)
    try:
        check_plot(place / "picture.png")
        pictures = True
    except UsageError as error:
        remark(f"no pictures: {error.message} ({error.hint})")
        pictures = False
    names = [name.strip() for name in what.split(",")] if what else []
    with progress_bar("measurements") as progress:
        report = measure(
            loaded,
            what=names,
            examples=examples,
            task=only,
            exhaustive=exhaustive,
            seed=seed,
            progress=progress,
            say=remark,
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with new_directory(place) as temporary:
        write(report, temporary, pictures=pictures)
    output.give(report.to_dict(), lambda console: show(console, report, place))


def run_of(path: Path) -> str:
    """The name of a checkpoint, with that of its run where it is one of several."""
    return f"{path.parent.name}-{path.name}" if path.name.startswith("checkpoint-") else path.name


def check_place(place: Path, overwrite: bool) -> None:
    """Raises UsageError for a directory that must not be written: one that is there, or is no report and nothing
    else."""
    from mathllm.inspection.writing import FILES, REPORT, SCHEMA

    if not place.exists():
        return
    if not overwrite:
        raise UsageError(f"{place} is there already", "choose another --output-dir, or give --overwrite")
    try:
        written = place.is_dir() and read_json(place / REPORT)
        ours = isinstance(written, dict) and written.get("schema") == SCHEMA
    except (OSError, ValueError, MathLLMError):
        ours = False
    if not ours or {path.name for path in place.iterdir()} - FILES:
        raise UsageError(
            f"{place} holds more than a report, and is not replaced", "choose another --output-dir"
        )


def show(console: Console, report: Report, place: Path) -> None:
    """The claims, the strongest first, and where the rest is."""
    used = report.used.values()
    about = f"{min(used):,} to {max(used):,} problems a measurement, like those of training"
    left = f" ({report.texts.left_out:,} longer ones left out)" * (report.texts.left_out > 0)
    tell(console, f"{report.texts.model.path}: {about}{left}, {sum(report.seconds.values()):.0f} s\n")
    if not report.claims:
        console.print(
            "[bold yellow]nothing is claimed[/]: none of these measurements allows it, of this model"
        )
    for claim in report.claims:
        console.print(f"[bold]{claim.strength}[/]", end=": ", highlight=False)
        tell(console, claim.text)
        tell(console, f"    {claim.evidence}", "dim")
    for name, found in report.found.items():
        if why := found.to_dict().get("skipped"):
            tell(console, f"no {name}: {why}", "dim")
    tell(console, f"\n{place}/index.html is the page, {place}/report.json has every figure")


def show_one(console: Console, inspected: Inspected) -> None:
    """A line for each token: what the lens says on the way; below it what heads look at and parts write."""
    from mathllm.interp.sites import short

    tell(console, f"{inspected.text}  {'right' if inspected.right else 'the model would write another text'}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    for title in ("token", "what it is", "lead", *map(short, inspected.sites)):
        table.add_column(title, justify="right" if title == "lead" else "left")
    for token in inspected.tokens:
        lens = (said if said == token.token else f"[dim]{_escaped(said)}[/]" for said in token.lens)
        lead = "only" if token.lead is None else f"{token.lead:.1f}"
        table.add_row(_escaped(token.token), _escaped(token.role), lead, *lens)
    console.print("\nwhat would come next, if the model ended there\n", style="bold")
    console.print(table)
    console.print("\nwhere heads look, and what parts write for the right token\n", style="bold")
    for token in inspected.tokens:
        if token.lead is None:
            continue
        tell(console, f"{token.token}  {token.role}", "bold")
        for head, looks in token.looks_at.items():
            seen = ", ".join(f"{role} {weight:.2f}" for role, weight in looks if weight >= SHOWN)
            tell(console, f"  {head}  {token.written[head]:+5.1f}  {seen}")
        rest = ", ".join(
            f"{name} {lead:+.1f}" for name, lead in token.written.items() if name not in token.looks_at
        )
        tell(console, f"  {rest}")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
