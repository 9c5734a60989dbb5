"""Pictures of results, as files; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mathllm.errors import UsageError
from mathllm.evaluation.grid import Grid
from mathllm.evaluation.lengths import Length
from mathllm.files import new_file
from mathllm.tasks.base import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mathllm.evaluation.thoughts import ThoughtReport

SUFFIXES = (".png", ".svg", ".pdf")
# of the lines of one panel: colours that colour-blind readers tell apart (Okabe and Ito's), and in print the rest
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#E69F00", (0, (8, 2)), "v"),
    ("#56B4E9", (0, (5, 1, 1, 1, 1, 1)), "P"),
    ("#000000", (0, (1, 1)), "X"),
)


def check_plot(path: Path) -> None:
    """Raises UsageError where no picture could be drawn into that file: better now than after all the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path.name} is no picture", f"give a name that ends with {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("pictures need matplotlib", "pip install 'mathllm[plots]'") from None


def plot_grids(grids: dict[str, Grid], trained: Mapping[str, Length], path: Path) -> None:
    """A heat map of exact match for each task, side by side; a line marks the longest operands of training.

    `path` ends with .png, .svg or .pdf, and is written whole or not at all.
    """
    with picture(path, 5.2 * len(grids), 4.4) as figure:
        axes = figure.subplots(1, len(grids), squeeze=False)[0]
        for axis, (name, grid) in zip(axes, grids.items(), strict=True):
            image = _heat_map(axis, name, grid, trained[name])
        figure.colorbar(image, ax=list(axes), label="exact match")


def plot_thoughts(report: ThoughtReport, path: Path) -> None:
    """A confusion matrix for each thought: true states against the digits that the model wrote for them."""
    rows = -(-len(report.slots) // 4)
    columns = -(-len(report.slots) // rows)
    with picture(path, 2.6 * columns + 0.8, 2.7 * rows + 0.4) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(report.slots) :]:
            axis.set_visible(False)
        for axis in axes.flat[max(0, len(report.slots) - columns) : len(report.slots)]:
            axis.tick_params(labelbottom=True)  # of those with nothing below them
        for number, (axis, slot) in enumerate(zip(axes.flat, report.slots, strict=False), 1):
            share = slot.counts / np.maximum(slot.counts.sum(1, keepdims=True), 1)
            image = axis.imshow(share, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axis.set_title(f"thought {number}", fontsize="medium")
            axis.set(xticks=range(10), yticks=range(10))
        figure.supxlabel("digit that the model wrote")
        figure.supylabel("true state")
        figure.colorbar(image, ax=axes, label="share of that state")


def plot_lengths(lines: Mapping[str, Mapping[int, Sequence[float]]], path: Path, of: str = "digits") -> None:
    """Exact match over lengths, which are numbers `of` something: of each line, by length, that of each seed. The
    median is drawn, with a bar from the lowest to the highest; more than seven lines get several panels."""
    columns = -(-len(lines) // len(STYLES))
    size = -(-len(lines) // columns)
    names = list(lines)
    with picture(path, 4.6 * columns + 0.6, 4.0 + 0.22 * size) as figure:
        axes = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
        for number, axis in enumerate(axes):
            shown = names[number * size : (number + 1) * size]
            _lines(axis, {name: lines[name] for name in shown})
            if columns > 1:
                first = number * size + 1
                axis.set_title(
                    f"variants {first} to {first + len(shown) - 1} of {len(names)}", fontsize="medium"
                )
            axis.set_xlabel(of)
        axes[0].set_ylabel("exact match")


def _lines(axis: Axes, lines: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    lengths = sorted({length for line in lines.values() for length in line})
    for number, ((name, line), (color, dashes, marker)) in enumerate(
        zip(lines.items(), STYLES, strict=False)
    ):
        medians = np.array([np.median(line[length]) for length in line])
        low, high = (np.array([*map(pick, line.values())]) for pick in (min, max))
        axis.errorbar(
            # side by side, so that bars at one length do not hide each other
            np.array([lengths.index(length) for length in line]) + 0.06 * (number - (len(lines) - 1) / 2),
            medians,
            yerr=[medians - low, high - medians],
            label=name,
            color=color,
            linestyle=dashes,
            marker=marker,
            markersize=5,
            markerfacecolor="white",
            linewidth=1.5,
            elinewidth=1,
            capsize=2,
        )
    # as far apart as the next, however long: 3, 5 and 100 digits
    axis.set(ylim=(-0.03, 1.03))
    axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize="small", frameon=False, handlelength=4)


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw into, which is written whole or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lower().removeprefix("."))


def _heat_map(axis: Axes, name: str, grid: Grid, trained: Length) -> Any:
    lengths = grid.lengths
    share = np.full(grid.correct.shape, np.nan)
    np.divide(grid.correct, grid.num_examples, out=share, where=grid.num_examples > 0)
    image = axis.imshow(share, origin="lower", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(lengths) - 1, min(len(lengths), 11)).astype(int))
    axis.set_xticks(ticks, [str(n) for n in lengths[ticks]])
    axis.set_yticks(ticks, [str(n) for n in lengths[ticks]])
    title = f"{name}: {grid.answers} right"
    first, second = (int((lengths <= most).sum()) - 0.5 for most in trained)
    if first > 0 < second:
        by = f" by {trained.second:,}" * (trained.second < trained.digits)
        title += f"\nframed: up to {plural(trained.digits, 'digit')}{by}, as in training"
        # white in black, to be seen on any colour
        for color, width in (("black", 3.5), ("white", 1.5)):
            axis.plot(
                [-0.5, second, second], [first, first, -0.5], color=color, linewidth=width, clip_on=False
            )
    axis.set(xlabel="digits of the second operand", ylabel="digits of the first operand", title=title)
    return image
