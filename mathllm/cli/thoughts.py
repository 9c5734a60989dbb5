"""`mathllm thoughts`: what a model that fills its thoughts itself means by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table

import mathllm
from mathllm.cli import options
from mathllm.cli.options import number
from mathllm.cli.output import Output, progress_bar, tell
from mathllm.flags import PROBLEMS
from mathllm.percent import percent_down

if TYPE_CHECKING:
    from mathllm.evaluation.thoughts import ThoughtReport


def thoughts(
    *,
    checkpoint: options.Checkpoint = None,
    steps: Annotated[int, number("Steps of the problems.", PROBLEMS)] = 4,
    max_examples: Annotated[int, number("Problems to look at.", PROBLEMS, 100)] = 1000,
    device: options.Device = "auto",
    as_json: options.Json = False,
    output_file: options.OutputFile = None,
    plot: options.Plot = None,
) -> None:
    """See what the thoughts of a model mean that thinks a digit a step.

    For each thought: how often it is the true state at that step, as it is and after the best renaming of the
    digits; mutual information with it; and the donor swap: put another problem's thought there, and see whether
    the answer follows.

    \b
    mathllm train --recipe chain-thoughts
    mathllm thoughts --checkpoint checkpoints/chain-thoughts --steps 8 --plot thoughts.png
    """
    output = Output(as_json, output_file, plot)

    from mathllm.evaluation.thoughts import examine

    loaded = mathllm.load(checkpoint, device)
    with progress_bar("decoding") as progress:
        report = examine(loaded, loaded.tasks[0], steps, max_examples, progress=progress)
    path = str(loaded.path)
    output.give({"checkpoint": path, **report.to_dict()}, lambda console: show(console, path, report))
    if plot is not None:
        from mathllm.evaluation.plots import plot_thoughts

        plot_thoughts(report, plot)


def show(console: Console, path: str, report: ThoughtReport) -> None:
    """A line for each thought, and what the answers are with other problems' thoughts."""
    tell(console, f"{path}: {report.task}s of {report.steps} steps")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", highlight=False)
    for title in ("thought", "true state %", "renamed %", "bits of 3.32", "donor followed"):
        table.add_column(title, justify="right")
    for place, slot in enumerate(report.slots, 1):
        shares = map(percent_down, (slot.agreement, slot.renamed))
        followed = str(slot.followed)
        table.add_row(str(place), *shares, f"{slot.information:.2f}", followed)
    console.print(table)
    for count, what in (
        (report.answers, "answers are right"),
        (report.shuffled, "are right with the whole thought of another problem"),
        (report.followed, "swaps of one thought are followed by the answer"),
    ):
        console.print(f"{count} {what}", soft_wrap=True)
