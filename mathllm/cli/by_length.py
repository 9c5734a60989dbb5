"""`mathllm eval --digits` and `--grid`: exact match by the number of digits, for each task of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mathllm.cli.output import Output
from mathllm.cli.progress import progress_bar
from mathllm.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mathllm.evaluation.breakdown import Count
    from mathllm.math_model import MathModel


class Shown(Protocol):
    """What `show` can report: a Grid or a LengthReport."""

    @property
    def answers(self) -> Count: ...

    @property
    def seconds(self) -> float: ...

    def to_dict(self) -> Any: ...


Result = TypeVar("Result", bound=Shown)


def grids(loaded: MathModel, output: Output, **how: Any) -> float:
    """Shows exact match for every pair of lengths; `how` is for `evaluate_grid`. Returns the share right."""
    from mathllm.evaluation.grid import evaluate_grid
    from mathllm.evaluation.plots import plot_grids
    from mathllm.evaluation.show import show_grid

    found = {}
    for task in loaded.tasks:
        with progress_bar(f"{task.name} by length") as progress:
            found[task.name] = evaluate_grid(
                loaded, task, signed=loaded.data.signed, progress=progress, **how
            )
    if output.plot is not None:
        plot_grids(found, loaded.data.max_digits, output.plot)
    return report(loaded, found, show_grid, output)


def parse_lengths(text: str) -> list[int]:
    """Numbers of digits from `10,100`. Raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UsageError(f"--digits takes numbers of digits, not {text!r}", "for example --digits 10,100")
    return sorted({int(part) for part in parts})


def by_digits(loaded: MathModel, output: Output, *, operands: int, **how: Any) -> float:
    """Shows exact match on random and on carry-stress problems of each length; `how` is for `evaluate_lengths`.

    Returns the share right.
    """
    from mathllm.evaluation.lengths import evaluate_lengths
    from mathllm.evaluation.show import show_lengths

    most = max(task.max_operands for task in loaded.tasks)
    if operands > most:
        raise UsageError(f"{loaded.data.task} has at most {most} operands, not {operands}")
    found = {}
    for task in loaded.tasks:
        with progress_bar(f"{task.name} by length") as progress:
            found[task.name] = evaluate_lengths(loaded, task, operands=operands, progress=progress, **how)
    return report(loaded, found, show_lengths, output)


def report(
    loaded: MathModel,
    found: Mapping[str, Result],
    show: Callable[[Console, Result, int], None],
    output: Output,
) -> float:
    """Prints results by task, as tables or as JSON. Returns the share that is right in all."""
    trained = loaded.data.max_digits
    document = {
        "checkpoint": str(loaded.path),
        "trained_up_to_digits": trained,
        "tasks": {task: result.to_dict() for task, result in found.items()},
    }

    def show_all(console: Console) -> None:
        for task, result in found.items():
            console.print(f"{task}: {loaded.path}, {result.seconds:.1f} s", markup=False, soft_wrap=True)
            show(console, result, trained)

    output.give(document, show_all)
    counts = [result.answers for result in found.values()]
    return sum(count.correct for count in counts) / sum(count.num_examples for count in counts)
