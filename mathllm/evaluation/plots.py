"""Pictures of results, as files; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    with picture(path, 5.2 * len(grids), 4.4) as figure:
        axes = figure.subplots(1, len(grids), squeeze=False)[0]
        for axis, (name, grid) in zip(axes, grids.items(), strict=True):
            image = _heat_map(axis, name, grid, trained)
        figure.colorbar(image, ax=list(axes), label="exact match")


def plot_thoughts(report: ThoughtReport, path: Path) -> None:
    """A confusion matrix for each thought: true states against the digits that the model wrote for them."""
    columns = min(4, len(report.slots))
    rows = -(-len(report.slots) // columns)
    with picture(path, 2.6 * columns + 0.8, 2.7 * rows + 0.4) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(report.slots) :]:
            axis.set_visible(False)
        for number, (axis, slot) in enumerate(zip(axes.flat, report.slots, strict=False), 1):
            share = slot.counts / np.maximum(slot.counts.sum(1, keepdims=True), 1)
            image = axis.imshow(share, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axis.set_title(f"thought {number}", fontsize="medium")
            axis.set(xticks=range(10), yticks=range(10))
        figure.supxlabel("digit that the model wrote")
        figure.supylabel("true state")
        figure.colorbar(image, ax=axes, label="share of that state")


def plot_lengths(
    variants: Sequence[str],
    digits: Sequence[int],
    found: Mapping[tuple[str, str], Sequence[float]],
    path: Path,
) -> None:
    """Exact match over digits, a line for each variant: the median of its seeds, with a band from lowest to
    highest."""
    with picture(path, 8.4, 4.6) as figure:
        axis = figure.subplots()
        for number, variant in enumerate(variants):
            seeds = [found.get((variant, str(n)), ()) for n in digits]
            if not all(seeds):
                continue
            # ten colours, and after them dashes
            color, line = f"C{number % 10}", ("-", "--")[number // 10 % 2]
            medians = [np.median(values) for values in seeds]
            axis.plot(digits, medians, marker="o", label=variant, color=color, linestyle=line)
            axis.fill_between(digits, [*map(min, seeds)], [*map(max, seeds)], color=color, alpha=0.15)
        axis.set(xticks=digits, ylim=(-0.03, 1.03), xlabel="digits", ylabel="exact match")
        figure.legend(loc="outside right upper", fontsize="small")


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw into, which is written whole or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
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
    title = f"{name}: {grid.answers.correct:,} of {grid.answers.num_examples:,} right"
    axis.set(xlabel="digits of the second operand", ylabel="digits of the first operand", title=title)
    inside = int((lengths <= trained).sum()) - 0.5
    if inside > 0:
        label = f"training: up to {trained} digits"
        axis.plot([-0.5, inside, inside], [inside, inside, -0.5], color="red", label=label)
        axis.legend(loc="upper right", fontsize="small")
    return image
