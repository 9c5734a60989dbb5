"""`mathllm demo`: the whole loop in one command."""

from __future__ import annotations

import json
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import mathllm
from mathllm.cli import options
from mathllm.cli.output import progress_bar
from mathllm.errors import UsageError, visible

if TYPE_CHECKING:
    from mathllm.math_model import MathModel

RECIPE = "demo"
OUTPUT_DIR = Path("checkpoints/demo")  # the demo's own: no recipe writes there
EXAMPLES = 200_000
SAMPLE = "658+189"  # two carries


def demo(
    *,
    output_dir: options.OutputDir = OUTPUT_DIR,
    overwrite: options.Overwrite = False,
    exhaustive: Annotated[int, options.ALL_PAIRS] = 999,
    max_steps: Annotated[int | None, options.option_of("max_steps", default="the recipe's", min=1)] = None,
    seed: options.Seed = 0,
) -> None:
    """See the whole loop in a minute or two: make data, train, check every sum, watch it reason.

    Data and run lie in one directory; checkpoints/demo is replaced without a word.
    Afterwards mathllm chat talks to the model that it has trained.
    """
    from mathllm.config import build_config
    from mathllm.data.files import generate_dataset
    from mathllm.evaluation.exhaustive import AllPairs
    from mathllm.files import explained
    from mathllm.locks import locked
    from mathllm.tasks import get_tasks
    from mathllm.tasks.base import plural
    from mathllm.training.run import check_directory, train
    from mathllm.training.state import run_files

    console = Console(highlight=False)
    overwrite = overwrite or output_dir == OUTPUT_DIR
    with explained(f"write {output_dir}"), locked(output_dir, "a demo"):  # each part asks again for itself
        if run_files(output_dir) and not overwrite:
            hint = "--overwrite starts anew, --output-dir writes elsewhere"
            raise UsageError(f"{output_dir} already holds a run", hint)
        check_directory(output_dir, resume=False, overwrite=overwrite)
    data_dir = output_dir / "data"
    run: dict[str, Any] = {"output_dir": str(output_dir), "seed": seed}
    if max_steps is not None:
        run["max_steps"] = max_steps
    config = build_config({"data": {"data_dir": str(data_dir)}, "train": run}, recipe=RECIPE)

    AllPairs(get_tasks(config.data.task), exhaustive)  # so many pairs can be checked

    headline(console, f"1. Data: {EXAMPLES:,} sums of numbers of up to {config.data.max_digits} digits")
    generate_dataset(config.data, EXAMPLES, seed, data_dir, overwrite=overwrite)
    with (data_dir / "train.jsonl").open(encoding="utf-8") as rows:
        for row in islice(rows, 3):
            console.print(json.loads(row)["text"], markup=False)

    headline(console, "2. Training")
    result = train(config, overwrite=overwrite, console=Console(stderr=True))
    if result.outcome.reason == "signal":
        raise typer.Exit(128 + result.outcome.signal)
    console.print(f"{plural(result.outcome.step, 'step')} in {result.outcome.seconds:.0f} s")

    model = mathllm.load(output_dir)
    headline(console, "3. Is it exactly right?")
    if result.test is not None:
        test = result.test
        console.print(f"{test['correct']:,} of {test['num_examples']:,} held-out problems are right")
    check_all_pairs(console, model, exhaustive)

    headline(console, "4. How it reasons")
    show_reasoning(console, model)

    headline(console, "Next")
    where = "" if output_dir.parent == OUTPUT_DIR.parent else f" --checkpoint {shlex.quote(str(output_dir))}"
    for command, what in (
        (f"mathllm chat{where}", "talk to it"),
        (f"mathllm eval{where} --exhaustive {exhaustive}", "check every pair again"),
        ("mathllm gen-data && mathllm train", "a larger model, on data of your own making"),
    ):
        console.print(visible(f"{command:<34} {what}"), markup=False, soft_wrap=True)


def headline(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def check_all_pairs(console: Console, model: MathModel, limit: int) -> None:
    """Exact match on every pair of operands, and the first mistakes."""
    from mathllm.evaluation.exhaustive import AllPairs
    from mathllm.evaluation.report import evaluate_problems
    from mathllm.evaluation.show import show_mistakes

    pairs = AllPairs(model.tasks, limit, model.data.signed, model.data.second_digits)
    with progress_bar("checking") as progress:
        report = evaluate_problems(model, pairs, progress=progress)
    right, of = report.answers.correct, report.answers.num_examples
    style = "bold green" if right == of else "bold yellow"
    pairs_of = f"pairs of numbers from 0 to {limit:,}"
    console.print(f"[{style}]{right:,} of {of:,}[/] {pairs_of} are right ({report.seconds:.0f} s)")
    show_mistakes(console, report)


def show_reasoning(console: Console, model: MathModel) -> None:
    """One problem, step by step."""
    from mathllm.percent import percent_sure

    solution = model.solve(SAMPLE)
    console.print(f"{solution.text}\n", markup=False)
    for step in solution.steps:
        console.print(f"  {step}", markup=False)
    verdict = "right" if solution.correct else "wrong"
    sure = percent_sure(solution.confidence)
    console.print(f"{SAMPLE} = {solution.answer}   {verdict}, confidence {sure}", markup=False)
