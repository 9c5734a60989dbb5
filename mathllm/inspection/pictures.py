"""The pictures of a report; matplotlib comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mathllm.evaluation.plots import check_plot, picture
from mathllm.inspection.ablation import MEAN, RESAMPLE, WAYS, ZERO, Ablation
from mathllm.inspection.attention import Attention
from mathllm.inspection.circuit import Circuit
from mathllm.inspection.interchange import Interchanges
from mathllm.inspection.lens import Lens
from mathllm.inspection.neurons import NAMED, Neurons
from mathllm.inspection.probes import Probes
from mathllm.interp.sites import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mathllm.inspection.report import Report

MOST_ROWS = 28  # of a heat map
SUFFIXES = (".png", ".svg")
TITLES = {ZERO: "zero", MEAN: "the mean of its role", RESAMPLE: "another text's"}


def draw_all(report: Report, directory: Path) -> list[Path]:
    """Draws a picture of every measurement that has one, as .png and .svg, and says which files these are."""
    check_plot(directory / "picture.png")
    written = []
    for name, found in report.found.items():
        draw = DRAWN.get(type(found))
        if draw is None or "skipped" in found.to_dict():
            continue
        for suffix in SUFFIXES:
            path = directory / f"{name}{suffix}"
            draw(found, path)
            written.append(path)
    return written


def _attention(found: Attention, path: Path) -> None:
    """For each head what it looks at, over all predictions: mean weight, with the largest beside it."""
    looks = [found.named(head, 6) for head in found.heads]
    keys = list(dict.fromkeys(what for some in looks for what, *_ in some))
    weights = np.zeros((len(keys), len(found.heads)))
    largest = np.zeros_like(weights)
    for column, some in enumerate(looks):
        for what, mean, most, _ in some:
            weights[keys.index(what), column], largest[keys.index(what), column] = mean, most
    names = [head.name for head in found.heads]
    with picture(path, 3.6 + 0.62 * len(names), 1.6 + 0.34 * len(keys)) as figure:
        axis = figure.subplots()
        image = _heat(axis, weights, keys, names, numbers=True)
        axis.set_title(
            "what heads look at when the answer is written\n(mean weight; only what takes a tenth or more)",
            fontsize="medium",
        )
        figure.colorbar(image, ax=axis, label="mean weight")


def _ablation(found: Ablation, path: Path) -> None:
    """Exact match without each part, by class of problem, for each way of taking it away."""
    names = [loss.part.name for loss in found.losses]
    classes = list(found.losses[0].right[WAYS[0]])
    with picture(path, 4.4 + 0.42 * len(names), 1.4 + len(WAYS) * (0.5 + 0.3 * len(classes))) as figure:
        axes = figure.subplots(len(WAYS), 1, sharex=True)
        for axis, way in zip(axes, WAYS, strict=True):
            share = [[loss.right[way][name].exact_match for loss in found.losses] for name in classes]
            image = _heat(axis, np.array(share), classes, names)
            axis.set_title(f"exact match with {TITLES[way]} in the place of a part", fontsize="medium")
        figure.colorbar(image, ax=list(axes), label="exact match")


def _probes(found: Probes, path: Path) -> None:
    arrays = found.arrays()
    _two(
        path,
        *(arrays["probe_accuracy"], arrays["probe_control"]),
        titles=("read rightly by a linear probe", "its control: random labels"),
        rows=arrays["probe_rows"].tolist(),
        columns=[short(site) for site in arrays["probe_sites"].tolist()],
        label="held-out accuracy",
    )


def _interchange(found: Interchanges, path: Path) -> None:
    arrays = found.arrays()
    _two(
        path,
        *(arrays["interchange_alike"], arrays["interchange_free"]),
        titles=("followed a donor alike in what else decides it", "followed any donor: it holds this alone"),
        rows=arrays["interchange_rows"].tolist(),
        columns=[short(site) for site in arrays["interchange_sites"].tolist()],
        label="share of interchanges",
    )


def _two(
    path: Path,
    left: NDArray[Any],
    right: NDArray[Any],
    *,
    titles: tuple[str, str],
    rows: list[str],
    columns: list[str],
    label: str,
) -> None:
    left, right, rows = left[:MOST_ROWS], right[:MOST_ROWS], rows[:MOST_ROWS]
    with picture(path, 5.2 + 0.56 * len(columns), 2.4 + 0.28 * len(rows)) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, share, title in zip(axes, (left, right), titles, strict=True):
            image = _heat(axis, share, rows, columns)
            axis.set_title(title, fontsize="medium")
        figure.colorbar(image, ax=list(axes), label=label)


def _lens(found: Lens, path: Path) -> None:
    """The logit lens beside what each part writes."""
    kinds = list(found.right)
    share = np.array([[count.exact_match for count in found.right[kind]] for kind in kinds])
    names = [one.part for one in found.written]
    with picture(path, 11.5, max(3.2, 1.8 + 0.3 * max(len(kinds), len(names)))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        image = _heat(left, share, kinds, [short(site) for site in found.sites])
        left.set_title("right if the model ended there (logit lens)", fontsize="medium")
        left.set_ylabel("next token")
        figure.colorbar(image, ax=left)
        right.barh(range(len(names)), [one.lead for one in found.written], color="#0072B2")
        right.set_yticks(range(len(names)), names)
        right.invert_yaxis()
        right.axvline(0, color="black", linewidth=0.8)
        right.set_xlabel(f"logits of the right token's lead ({found.lead:.1f} in all)")
        right.set_title("what each part writes for it", fontsize="medium")
        right.spines[["top", "right"]].set_visible(False)


def _neurons(found: Neurons, path: Path) -> None:
    """Mean activations over the two digits, of the neurons that vary most."""
    shown = found.shown
    columns = 6
    rows = -(-len(shown) // columns)
    with picture(path, 1.75 * columns + 0.4, 1.95 * rows + 0.8) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, neuron in zip(axes.flat, shown, strict=False):
            axis.imshow(neuron.grid, origin="lower", cmap="viridis", interpolation="nearest")
            named = (
                f"{neuron.formula}\nR² {neuron.explained:.2f}" if neuron.explained >= NAMED else "no formula"
            )
            axis.set_title(f"{neuron.name}: {named}", fontsize="x-small")
            axis.set(xticks=(0, 5, 9), yticks=(0, 5, 9))
        figure.supxlabel("second digit", fontsize="medium")
        figure.supylabel("first digit", fontsize="medium")
        figure.suptitle(f"mean activation behind `{shown[0].behind}`", fontsize="medium")


def _circuit(found: Circuit, path: Path) -> None:
    """Which heads are kept behind tokens of which roles, and how many neurons of each layer."""
    layers, heads, _ = found.kept.heads.shape
    shown = np.flatnonzero(found.kept.heads.any((0, 1)))
    kept = found.kept.heads[..., shown].reshape(layers * heads, len(shown)).astype(float)
    names = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    with picture(path, 3.2 + 0.27 * len(shown), 2.8 + 0.27 * len(names)) as figure:
        axis = figure.subplots()
        _heat(axis, kept, names, [found.roles[role] for role in shown])
        neurons = ", ".join(f"L{layer}: {int(one.sum())}" for layer, one in enumerate(found.kept.neurons))
        of = found.kept.neurons.shape[1]
        axis.set_title(
            f"heads kept behind tokens of a role\n(neurons kept of {of}: {neurons})", fontsize="medium"
        )


def _heat(axis: Axes, share: NDArray[Any], rows: list[str], columns: list[str], numbers: bool = False) -> Any:
    image = axis.imshow(share, vmin=0, vmax=1, cmap="viridis", interpolation="nearest", aspect="auto")
    axis.set_xticks(
        range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize="small"
    )
    axis.set_yticks(range(len(rows)), rows, fontsize="small")
    if numbers:
        for row, column in zip(*np.nonzero(share), strict=True):
            value = share[row, column]
            color = "black" if value > 0.6 else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize="x-small")
    return image


DRAWN: dict[type, Callable[[Any, Path], None]] = {
    Attention: _attention,
    Ablation: _ablation,
    Probes: _probes,
    Interchanges: _interchange,
    Lens: _lens,
    Neurons: _neurons,
    Circuit: _circuit,
}
