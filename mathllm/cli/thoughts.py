"""`mathllm thoughts`: what a model that fills its thoughts itself means by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathllm.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from mathllm.evaluation.thoughts import ThoughtReport


def thoughts(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint, or the run that holds it (default: the newest under checkpoints/).",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the chains.", min=1)] = 4,
    examples: Annotated[int, typer.Option(help="Chains to look at.", min=100)] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    output_file: Annotated[
        Path | None, typer.Option(help="Write that document to a file.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw thoughts against true states into a .png, .svg or .pdf (needs the extra plots).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """See what the thoughts of a chain model mean.

    For each thought: how often it is the true state at that step, as it is and after the best renaming of the
    digits; mutual information with it; and the donor swap: put another problem's thought there, and see whether
    the answer follows.

    \b
    mathllm train --recipe chain-thoughts
    mathllm thoughts --checkpoint checkpoints/chain-thoughts --steps 8 --plot thoughts.png
    """
    from mathllm.cli.eval import check_outputs
    from mathllm.cli.progress import progress_bar

    check_outputs(output_file, plot)
    if plot is not None:
        from mathllm.evaluation.plots import check_plot

        check_plot(plot)

    from rich.console import Console

    from mathllm.checkpoint import load_checkpoint
    from mathllm.device import pick_device
    from mathllm.evaluation.thoughts import examine

    loaded = load_checkpoint(checkpoint, pick_device(device))
    with progress_bar("decoding") as progress:
        report = examine(loaded.model, loaded.notation, steps, examples, progress=progress)
    document = {"checkpoint": str(loaded.path), **report.to_dict()}
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show(Console(highlight=False), str(loaded.path), report)
    if output_file is not None:
        write_json(output_file, document)
    if plot is not None:
        from mathllm.evaluation.plots import plot_thoughts

        plot_thoughts(report, plot)


def show(console: Console, path: str, report: ThoughtReport) -> None:
    """A line for each thought, and what the answers are with other problems' thoughts."""
    from rich.table import Table

    from mathllm.percent import percent_down

    console.print(f"{path}: chains of {report.steps} steps", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    for title in ("thought", "true state %", "renamed %", "bits of 3.32", "donor followed"):
        table.add_column(title, justify="right")
    for number, slot in enumerate(report.slots, 1):
        table.add_row(
            str(number),
            percent_down(slot.agreement),
            percent_down(slot.renamed),
            f"{slot.information:.2f}",
            f"{slot.followed.correct:,} of {slot.followed.num_examples:,}",
        )
    console.print(table)
    for count, what in (
        (report.answers, "answers are right"),
        (report.shuffled, "are right with the whole thought of another problem"),
        (report.followed, "swaps of one thought are followed by the answer"),
    ):
        console.print(f"{count.correct:,} of {count.num_examples:,} {what}", soft_wrap=True)
