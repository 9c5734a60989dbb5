"""`mathllm prove`: right at every length, or where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import mathllm
from mathllm.cli import options
from mathllm.cli.options import number, option
from mathllm.cli.output import Output, progress_bar, tell
from mathllm.errors import UsageError, remark
from mathllm.flags import MODEL, PROBLEMS

if TYPE_CHECKING:
    from mathllm.math_model import MathModel
    from mathllm.prove.exhaustive import Exhausted
    from mathllm.prove.hunt import Hunt
    from mathllm.prove.proof import Proof

NOT_PROVED = 3
MOST_DIGITS = 3  # of pairs that are tried where there is no proof: a million of each operation
SHOWN = 5


def prove(
    context: typer.Context,
    *,
    checkpoint: options.Checkpoint = None,
    window: Annotated[
        str | None,
        option(
            "Look no further than this in each layer (-1,0: the place below, then the own one); the weights stay.",
            MODEL,
            metavar="N,N...",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        options.option_of("output_dir", default="nowhere; it is for the checkpoint that has the --window"),
    ] = None,
    exhaustive: Annotated[int | None, options.ALL_PAIRS] = None,
    hunt: Annotated[
        bool, option("Search for mistakes instead, near the answers that are least sure.", PROBLEMS, "--hunt")
    ] = False,
    seconds: Annotated[int, number("How long --hunt searches.", PROBLEMS)] = 300,
    max_digits: Annotated[
        int | None,
        option("Digits of the longest operand.", PROBLEMS, default="as in training", metavar="N", min=1),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
    output_file: options.OutputFile = None,
) -> None:
    """Prove that a model is right for problems of every length, or find where it is wrong.

    Where attention has a window (model.bias_window) a digit depends on a bounded number of others, so all cases can be
    tried. Where positions are absolute nothing follows for longer numbers: then all pairs of the digits of training are
    tried (up to 3), as --exhaustive does. --hunt changes problems step by step towards those that are least sure. The
    exit code is 3 where there is a mistake, or no proof.

    \b
    mathllm train --recipe length-proved
    mathllm prove --checkpoint checkpoints/length-proved --output-file proof.json
    mathllm prove --checkpoint multiply-any-length --hunt --seconds 60
    mathllm prove --checkpoint addsub-3digit --exhaustive 999
    """
    check_options(context, hunt=hunt, exhaustive=exhaustive is not None)
    output = Output(as_json, output_file)

    from mathllm.prove.certificate import certificate, with_window, write
    from mathllm.prove.exhaustive import exhaust
    from mathllm.prove.hunt import hunt as search
    from mathllm.prove.proof import check_provable
    from mathllm.prove.proof import prove as enumerate_all

    model = mathllm.load(checkpoint, device)
    if window is not None:
        model, settings = with_window(model, window)
        if exhaustive is None:
            check_provable(model)
        if output_dir is not None:
            model = write(model, settings, output_dir)
    given = window if output_dir is None else None
    if not hunt and exhaustive is None and (limit := all_there_is(model)):
        remark(
            f"positions are absolute here: nothing is known of longer numbers, so all pairs of 0 to {limit} are tried"
        )
        exhaustive = limit
    if hunt:
        with progress_bar("seconds") as progress:
            found = search(model, seconds=seconds, seed=seed, max_digits=max_digits or 0, progress=progress)
        about = certificate(model, "hunt")
        output.give({**about, **found.to_dict()}, lambda console: show_hunt(console, found))
        right = not found.wrong
    elif exhaustive is not None:
        with progress_bar("problems") as progress:
            tried = exhaust(model, exhaustive, progress=progress)
        about = certificate(model, "exhaustive", given)
        output.give({**about, **tried.to_dict()}, lambda console: show_all_pairs(console, tried))
        right = tried.wrong == 0
    else:
        with progress_bar("problems") as progress:
            proof = enumerate_all(model, seed=seed, progress=progress)
        about = certificate(model, "proof", given)
        output.give({**about, **proof.to_dict()}, lambda console: show_proof(console, proof))
        right = proof.holds
    if not right:
        raise typer.Exit(NOT_PROVED)


def all_there_is(model: MathModel) -> int:
    """The largest number of training, where positions are absolute and all pairs up to it can be tried; else 0."""
    from mathllm.model.positions.coupled_bias import CoupledBias

    pairs = all(not task.general and task.most_numbers >= 2 and not task.one_digit for task in model.tasks)
    digits = model.data.max_digits
    if isinstance(model.model.positions, CoupledBias) or not pairs or digits > MOST_DIGITS:
        return 0
    return int(10**digits - 1)


def check_options(context: typer.Context, *, hunt: bool, exhaustive: bool) -> None:
    """Raises UsageError for options that would do nothing."""
    if hunt and (exhaustive or options.given(context, "window")):
        raise UsageError("--hunt searches the model as it is", "leave out --exhaustive and --window")
    if options.given(context, "output_dir") and not options.given(context, "window"):
        raise UsageError(
            "--output-dir is for the checkpoint with a --window", "leave it out, or give --window"
        )
    for name in ("seconds", "max_digits"):
        if options.given(context, name) and not hunt:
            raise UsageError(f"--{name.replace('_', '-')} needs --hunt", "see mathllm prove --help")
    if exhaustive and options.given(context, "seed"):
        raise UsageError("--seed does nothing beside --exhaustive", "leave out one of them")


def show_proof(console: Console, proof: Proof) -> None:
    """What was proved, or what stands in the way."""
    if proof.holds:
        console.print(
            f"[bold green]proved[/]: all {proof.about} that fit are right, of whatever length",
            highlight=False,
        )
    else:
        console.print(f"[bold yellow]not proved[/]: {proof.obstacle}", highlight=False)
    sees = ", ".join(f"{low} to {high}" for low, high in proof.window)
    tell(
        console, f"each layer sees places {sees} from its own: {proof.configurations:,} local configurations"
    )
    tell(
        console,
        f"all tried in {proof.problems:,} problems: {proof.wrong:,} wrong, smallest lead {proof.lead:.4f} logits",
    )
    checked = f"{proof.double_checked:,} in double precision, {proof.long_checked:,} at up to {proof.longest} digits"
    tell(
        console,
        f"floats are off by at most {proof.error:.1e} ({checked}, {proof.long_unseen:,} of which are new)",
    )
    tell(console, f"{proof.seconds:.0f} s\n\nleast sure")
    for weak in proof.weakest[:SHOWN]:
        tell(console, f"  {weak.text}  {weak.lead:.4f} at token {weak.column + 1}")


def show_all_pairs(console: Console, tried: Exhausted) -> None:
    """The counts of an exhaustive test."""
    style = "bold green" if tried.wrong == 0 else "bold yellow"
    console.print(
        f"[{style}]{tried.problems - tried.wrong:,} of {tried.problems:,}[/] {tried.about} are right",
        highlight=False,
    )
    tell(console, "this says nothing about longer numbers")
    tell(console, f"smallest lead {tried.lead:.4f} logits, {tried.seconds:.0f} s\n\nleast sure")
    for suspect in tried.weakest[:SHOWN]:
        tell(console, f"  {suspect.problem}  {suspect.lead:.4f}")


def show_hunt(console: Console, found: Hunt) -> None:
    """Mistakes, or the problems nearest to one."""
    if found.wrong:
        about = f"{found.tried:,} tried; the first after {found.first:.0f} s"
        console.print(f"[bold yellow]{len(found.wrong):,} wrong[/] found, {about}", highlight=False)
    else:
        console.print(
            f"none wrong of {found.tried:,} tried in {found.seconds:.0f} s, which proves nothing",
            highlight=False,
        )
    for suspect in found.wrong[:SHOWN]:
        said = "no number" if suspect.said is None else f"{suspect.said}"
        tell(console, f"  {suspect.problem}={suspect.truth}, the model says {said}")
    tell(console, "least sure of the others" if found.wrong else "least sure")
    for suspect in found.weakest[:SHOWN]:
        tell(console, f"  {suspect.problem}  lead {suspect.lead:.4f}")
