"""`mathllm gen-data`: a dataset directory, from sampled problems or from a file of equations."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from mathllm.cli import options
from mathllm.cli.options import option
from mathllm.cli.output import progress_bar
from mathllm.errors import UsageError, remark, visible
from mathllm.flags import PROBLEMS, listed

# all that says which problems, and how they are written
OF_DATA = [
    one for one in options.SETTINGS if one.section == "data" and one.key not in ("data_dir", "num_examples")
]
# what only sampling looks at: with --from, the file says all of it
OF_SAMPLING = (
    *("task", "num_examples", "max_digits", "second_digits", "max_operands"),
    *("expression_digits", "expression_numbers", "task_weights"),
    *("sampling", "signed", "seed"),
)


@options.with_flags(OF_DATA, optional=False)
def gen_data(
    context: typer.Context,
    *,
    num_examples: Annotated[int, option("Rows of the three files together.", PROBLEMS)] = 100_000,
    source: Annotated[
        Path | None,
        option(
            "Take the problems of a file instead: text with 951+11=962 a line, a CSV with a column "
            "'equation', or JSONL with 'expression' and 'answer'.",
            PROBLEMS,
            "--from",
        ),
    ] = None,
    reversed_digits: options.ReversedDigits = False,
    output_dir: options.OutputDir = Path("data"),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    seed: options.Seed = 0,
    **settings: Any,
) -> None:
    """Make a dataset: train.jsonl, val.jsonl, test.jsonl and metadata.json.

    No problem is in two of the files, and a+b counts as b+a. The same options give the same files.

    \b
    mathllm gen-data
    mathllm gen-data --task addition,subtraction --sampling balanced
    mathllm gen-data --max-digits 20 --num-examples 1000000 --output-dir data/long
    mathllm gen-data --from equations.txt --output-dir data/mine
    """
    from mathllm.config import DataConfig
    from mathllm.data.files import generate_dataset, import_dataset
    from mathllm.resolve import resolve_data

    data = DataConfig(**{one.key: settings[one.parameter] for one in OF_DATA})
    with progress_bar("rows") as progress:
        if source is None:
            if reversed_digits:
                raise UsageError("--reversed-digits is about the file of --from", "leave it out")
            data = resolve_data(data)
            metadata = generate_dataset(data, num_examples, seed, output_dir, overwrite, progress)
        else:
            refuse_sampling_options(context)
            metadata = import_dataset(
                source, data, output_dir, overwrite, progress, reversed_digits=reversed_digits
            )
    if as_json:
        typer.echo(json.dumps({"output_dir": str(output_dir), **metadata}, indent=2))
        return
    show(metadata, output_dir)


def refuse_sampling_options(context: typer.Context) -> None:
    """An option that would do nothing is an error."""
    for name in OF_SAMPLING:
        if options.given(context, name):
            flag = "--" + name.replace("_", "-")
            reason = f"{flag} says how to sample, but with --from nothing is sampled"
            raise UsageError(reason, f"leave {flag} out")


def show(metadata: dict[str, Any], output_dir: Path) -> None:
    """What was made, on stdout; what there is to say about it, on stderr."""
    from mathllm.tasks import get_tasks

    data = metadata["data"]
    tasks = listed(data["task"].split(","), "and")
    of = " numbers" if get_tasks(data["task"])[0].one_digit else "-digit operands"
    typer.echo(visible(f"{output_dir}: {tasks}, up to {data['max_digits']}{of}, {data['format']} format"))
    for split, counts in metadata["counts"].items():
        rows, distinct = counts["rows"], counts["distinct_problems"]
        repeated = f" of {distinct:,} different problems" if distinct < rows else ""
        typer.echo(f"  {split + '.jsonl':<12}{rows:>11,} {'row' if rows == 1 else 'rows'}{repeated}")
    with (output_dir / "train.jsonl").open(encoding="utf-8") as rows:
        typer.echo(rows.readline(), nl=False)
    for note in metadata["notes"]:
        remark(note)
    if not all(metadata["counts"][split]["rows"] for split in ("train", "val")):
        more = "give a file of more problems" if "from" in metadata else "give a larger --num-examples"
        typer.echo(f"this is too little to train on: {more}, or other ratios", err=True)
        return
    where = "" if output_dir == Path("data") else f" --data-dir {shlex.quote(str(output_dir))}"
    typer.echo(visible(f"next: mathllm train{where}"), err=True)
