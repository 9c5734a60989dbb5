"""Pictures of results, as files; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mathllm.errors import UsageError
from mathllm.evaluation.grid import Grid
from mathllm.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mathllm.evaluation.thoughts import ThoughtReport

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raises UsageError where no picture could be drawn into that file: better now than after all the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path.name} is no picture", f"give a name that ends with {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("pictures need matplotlib", "pip install 'mathllm[plots]'") from None


def plot_grids(grids: dict[str, Grid], trained: int, path: Path) -> None:
    """A heat map of exact match for each task, side by side; a line marks the longest operands of training.

    `path` ends with .png, .svg or .pdf, and is written whole or not at all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(grids), 4.4), layout="constrained")
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    for axis, (name, grid) in zip(axes, grids.items(), strict=True):
        image = _heat_map(axis, name, grid, trained)
    figure.colorbar(image, ax=list(axes), label="exact match")
    save(figure, path)


def plot_thoughts(report: ThoughtReport, path: Path) -> None:
    """A confusion matrix for each thought: true states against the digits that the model wrote for them."""
    from matplotlib.figure import Figure

    columns = min(4, len(report.slots))
    rows = -(-len(report.slots) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.8, 2.7 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for number, axis in enumerate(axes.flat):
        if number >= len(report.slots):
            axis.set_visible(False)
            continue
        counts = report.slots[number].counts
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axis.imshow(share, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set_title(f"thought {number + 1}", fontsize="medium")
        axis.set_xticks(range(10))
        axis.set_yticks(range(10))
    figure.supxlabel("digit that the model wrote")
    figure.supylabel("true state")
    figure.colorbar(image, ax=axes, label="share of that state")
    save(figure, path)


def plot_lengths(
    variants: Sequence[str],
    digits: Sequence[int],
    found: Mapping[tuple[str, str], Sequence[float]],
    path: Path,
) -> None:
    """Exact match over digits, a line for each variant: the median of its seeds, with a band from lowest to
    highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, variant in enumerate(variants):
        seeds = [found.get((variant, str(n)), ()) for n in digits]
        if not all(seeds):
            continue
        color, line = f"C{number % 10}", ("-", "--")[number // 10 % 2]  # ten colours, and after them dashes
        medians = [np.median(values) for values in seeds]
        axis.plot(digits, medians, marker="o", label=variant, color=color, linestyle=line)
        axis.fill_between(digits, [*map(min, seeds)], [*map(max, seeds)], color=color, alpha=0.15)
    axis.set_xticks(digits)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel("digits")
    axis.set_ylabel("exact match")
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture whole or not at all."""
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lower().removeprefix("."))


def _heat_map(axis: Axes, name: str, grid: Grid, trained: int) -> Any:
    lengths = grid.lengths
    share = np.full(grid.correct.shape, np.nan)
    np.divide(grid.correct, grid.num_examples, out=share, where=grid.num_examples > 0)
    image = axis.imshow(share, origin="lower", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(lengths) - 1, min(len(lengths), 11)).astype(int))
    axis.set_xticks(ticks, [str(n) for n in lengths[ticks]])
    axis.set_yticks(ticks, [str(n) for n in lengths[ticks]])
    axis.set_xlabel("digits of the second operand")
    axis.set_ylabel("digits of the first operand")
    answers = grid.answers
    axis.set_title(f"{name}: {answers.correct:,} of {answers.num_examples:,} right")
    inside = int((lengths <= trained).sum()) - 0.5
    if inside > 0:
        axis.plot(
            [-0.5, inside, inside],
            [inside, inside, -0.5],
            color="red",
            label=f"training: up to {trained} digits",
        )
        axis.legend(loc="upper right", fontsize="small")
    return image
