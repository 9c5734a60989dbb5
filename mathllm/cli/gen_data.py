"""`mathllm gen-data`: a dataset directory, from sampled problems or from a file of equations."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from mathllm.cli.progress import progress_bar
from mathllm.config import DataConfig
from mathllm.errors import UsageError

PROBLEMS, TEXT, FILES = "Which problems", "How they are written", "The files"

DEFAULTS = DataConfig()
# what only sampling looks at: with --from, the file says all of it
OF_SAMPLING = ("task", "num_examples", "max_digits", "max_operands", "sampling", "signed", "seed")


def option(help_text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel)


def gen_data(
    context: typer.Context,
    task: Annotated[
        str,
        option(
            "addition, subtraction, multiplication (by one digit), several: [cyan]addition,subtraction[/], or chain "
            "(3+4*7-2, from left to right modulo 10).",
            PROBLEMS,
        ),
    ] = DEFAULTS.task,
    num_examples: Annotated[int, option("Rows of the three files together.", PROBLEMS)] = 100_000,
    max_digits: Annotated[
        int, option("Digits of the longest operand (of a chain: numbers).", PROBLEMS)
    ] = DEFAULTS.max_digits,
    max_operands: Annotated[
        int, option("Sums of 2 up to this many operands: 3 gives 1+2 and 1+2+3.", PROBLEMS)
    ] = DEFAULTS.max_operands,
    sampling: Annotated[
        str,
        option(
            "digits: short numbers as often as long ones; uniform: every value as often as any other; "
            "balanced: answers of every length, and chains of carries of every length, as often as any other (99+1, "
            "100-99); several, like digits,balanced: equal shares of each.",
            PROBLEMS,
        ),
    ] = DEFAULTS.sampling,
    signed: Annotated[
        bool, option("Let subtractions have negative results: 3-5=-2.", PROBLEMS, "--signed")
    ] = DEFAULTS.signed,
    seed: Annotated[int, option("Another seed, other problems.", PROBLEMS)] = 0,
    source: Annotated[
        Path | None,
        option(
            "Take the problems of a file instead: text with 951+11=962 a line, a CSV with a column "
            "'equation', or JSONL with 'expression' and 'answer'.",
            PROBLEMS,
            "--from",
        ),
    ] = None,
    format: Annotated[
        str,
        option(
            "column: digit by digit, as in school; pairwise: the whole sum again, turned round; "
            "reversed: no reasoning, units first; hinted: the same, a place before every digit; plain: no reasoning; "
            "slots: room for thoughts of the model's own; for chains steps: the state after each, no-steps, filler: "
            "a 0 for each, random-steps: a random digit.",
            TEXT,
        ),
    ] = DEFAULTS.format,
    zero_pad: Annotated[
        bool, option("Give all numbers of a row the same width: 007+123=130.", TEXT, "--zero-pad")
    ] = DEFAULTS.zero_pad,
    output_dir: Annotated[Path, option("Where the files go.", FILES)] = Path("data"),
    train_ratio: Annotated[float, option("Share of problems to train on.", FILES)] = DEFAULTS.train_ratio,
    val_ratio: Annotated[
        float, option("Share to validate on; what both leave is the test.", FILES)
    ] = DEFAULTS.val_ratio,
    overwrite: Annotated[bool, option("Replace a dataset that is there.", FILES, "--overwrite")] = False,
    as_json: Annotated[bool, option("Print the metadata as JSON.", FILES, "--json")] = False,
) -> None:
    """Make a dataset: train.jsonl, val.jsonl, test.jsonl and metadata.json.

    No problem is in two of the files, and a+b counts as b+a. The same options give the same files.

    \b
    mathllm gen-data
    mathllm gen-data --task addition,subtraction --sampling balanced
    mathllm gen-data --max-digits 20 --num-examples 1000000 --output-dir data/long
    mathllm gen-data --from equations.txt --output-dir data/mine
    """
    from mathllm.data.files import generate_dataset, import_dataset
    from mathllm.resolve import resolve_data

    data = DataConfig(
        task=task,
        format=format,
        zero_pad=zero_pad,
        max_digits=max_digits,
        max_operands=max_operands,
        sampling=sampling,
        signed=signed,
        train_ratio=train_ratio,
        val_ratio=val_ratio,
    )
    with progress_bar("rows") as progress:
        if source is None:
            metadata = generate_dataset(
                resolve_data(data), num_examples, seed, output_dir, overwrite, progress
            )
        else:
            refuse_sampling_options(context)
            metadata = import_dataset(source, data, output_dir, overwrite, progress)
    if as_json:
        typer.echo(json.dumps({"output_dir": str(output_dir), **metadata}, indent=2))
        return
    show(metadata, output_dir)


def refuse_sampling_options(context: typer.Context) -> None:
    """An option that would do nothing is an error."""
    for name in OF_SAMPLING:
        given = context.get_parameter_source(name)
        if given is not None and given.name != "DEFAULT":
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} says how to sample, but with --from nothing is sampled", f"leave {flag} out"
            )


def show(metadata: dict[str, Any], output_dir: Path) -> None:
    """What was made, on stdout; what there is to say about it, on stderr."""
    data = metadata["data"]
    tasks = data["task"].replace(",", " and ")
    size = f"up to {data['max_digits']}" + (" numbers" if tasks == "chain" else "-digit operands")
    typer.echo(f"{output_dir}: {tasks}, {size}, {data['format']} format")
    for split, counts in metadata["counts"].items():
        rows, distinct = counts["rows"], counts["distinct_problems"]
        repeated = f" of {distinct:,} different problems" if distinct < rows else ""
        typer.echo(f"  {split + '.jsonl':<12}{rows:>11,} rows{repeated}")
    with (output_dir / "train.jsonl").open(encoding="utf-8") as rows:
        typer.echo(rows.readline(), nl=False)
    for note in metadata["notes"]:
        typer.echo(f"note: {note}", err=True)
    if not all(metadata["counts"][split]["rows"] for split in ("train", "val")):
        typer.echo("this is too little to train on: give a larger --num-examples, or other ratios", err=True)
        return
    where = "" if output_dir == Path("data") else f" --data-dir {shlex.quote(str(output_dir))}"
    typer.echo(f"next: mathllm train{where}", err=True)
