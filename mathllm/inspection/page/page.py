"""Writes the page: the model's weights and tables of its positions, examples, claims and pictures, in one file."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.files import write_bytes
from mathllm.inspection.ablation import WAYS, Ablation
from mathllm.model.norms import EPSILON
from mathllm.model.positions import Where
from mathllm.model.positions.coupled_bias import SEGMENTS
from mathllm.model.transformer import Block, Transformer
from mathllm.registry import OWN
from mathllm.tasks.expressions import expressions
from mathllm.tokenizer import TOKENS

if TYPE_CHECKING:
    from mathllm.inspection.report import Report

PARTS = ("template.html", "style.css", "model.js", "app.js")
PLACES, MOST_TOKENS = 40, 160  # of an axis, and of a text, that the tables have values for
EXAMPLES = 6
MOST_BYTES = 4 << 20  # of weights: larger models are not put into a page
# the formats, and their tasks, whose problems can be typed: model.js knows where their tokens stand
TYPED = {"reversed": ("addition",), "column": ("addition", "subtraction"), "steps": ("chain",)}
INDEX = "index"


def write_page(report: Report, path: Path) -> None:
    """Writes the page of a report into a file."""
    source = files("mathllm.inspection.page")
    part = {name: source.joinpath(name).read_text(encoding="utf-8") for name in PARTS}
    filled = part["template.html"]
    for name, value in {
        "{{style}}": part["style.css"],
        "{{code}}": part["model.js"] + part["app.js"],
        "{{name}}": html.escape(report.texts.model.path.resolve().name),
        # no `</script>` can stand in it
        "{{data}}": json.dumps(data_of(report)).replace("<", "\\u003c"),
    }.items():
        filled = filled.replace(name, value)
    write_bytes(path, filled.encode())


def data_of(report: Report) -> dict[str, Any]:
    """All that the page is made of."""
    model, transformer = report.texts.model, report.texts.model.model
    size = sum(parameter.numel() for parameter in transformer.parameters())
    typed = TYPED.get(model.format.name, ())
    data: dict[str, Any] = {
        "name": model.path.resolve().name,
        "about": f"{size:,} parameters, {transformer.depth} layers of {transformer.heads} heads,"
        f" format {model.format.name}",
        "tasks": [task.name for task in model.tasks],
        "typed": all(task.name in typed for task in model.tasks) and not model.format.zero_pad,
        "units_first": model.format.least_significant_first,
        "thinks": model.format.thinks,
        "vocabulary": list(TOKENS),
        "claims": [vars(claim) for claim in report.claims],
        "tables": [vars(table) for table in tables_of(report)],
        "examples": examples_of(report),
        "model": None,
    }
    if 4 * size <= MOST_BYTES:
        data |= weights_of(transformer)
    return data


def examples_of(report: Report) -> list[dict[str, Any]]:
    """A few texts with what the model is told of their tokens: of different lengths, the shortest first."""
    texts, axes = report.texts, report.texts.model.model.axes
    order = np.argsort(texts.gold.lengths, kind="stable")
    chosen = texts.gold[np.unique(order[np.linspace(0, len(order) - 1, EXAMPLES).astype(int)])]
    told = texts.model.format.coordinates(chosen.problems, chosen.ids, axes)
    found = []
    for row, (problem, length) in enumerate(
        zip(expressions(chosen.problems), chosen.lengths.tolist(), strict=True)
    ):
        found.append(
            {
                "problem": problem,
                "ids": chosen.ids[row, :length].tolist(),
                "prompt": int(chosen.prompt_lengths[row]),
                "told": {axis: known[row, :length].tolist() for axis, known in told.items()},
            }
        )
    return sorted(found, key=lambda one: len(one["ids"]))


# the model in numbers


@torch.inference_mode()
def weights_of(model: Transformer) -> dict[str, Any]:
    """What model.js needs: the shapes, all weights as one text, and tables of what positions add."""
    tensors = {
        name.removesuffix(".weight") if name.split(".")[0] in ("embedding", "head") else name: value
        for name, value in model.state_dict().items()
        if not name.startswith("positions.")
    }
    tables, bias_axes = positions_of(model)
    tensors |= tables
    flat, where, offset = [], {}, 0
    for name, value in tensors.items():
        where[name] = [offset, list(value.shape)]
        flat.append(value.detach().float().cpu().numpy().ravel())
        offset += value.numel()
    norm = model.final_norm
    first = cast(Block, model.blocks[0])
    shape = {
        "hidden": model.embedding.embedding_dim,
        **{"heads": model.heads, "kv_heads": model.kv_heads, "head_width": model.head_width},
        **{"layers": len(model.blocks), "loops": model.loops},
        "activation": first.feed_forward.activation,
        "epsilon": norm.eps if isinstance(norm, nn.LayerNorm) else EPSILON,
        "qk_norm": first.attention.qk_norm,
        "scale": first.attention.scale,
        "bias_axes": bias_axes,
    }
    weights = base64.b64encode(np.concatenate(flat).astype("<f4").tobytes()).decode()
    return {"model": shape, "tensors": where, "weights": weights, "axes": [INDEX, *model.axes]}


def positions_of(model: Transformer) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """What a scheme adds, by axis: vectors, rotations and biases for each value; and the axes of queries and keys that
    biases go by. Every scheme adds up over its axes, so each is asked with the others at 0."""
    axes, found = [INDEX, *model.axes], {}
    zero = _Probe(model, {})
    found["embed." + INDEX] = zero.embedding
    for axis in axes:
        probe = _Probe(model, {axis: torch.arange(_size(model, axis))})
        change = probe.embedding - zero.embedding
        if change.abs().max() > 0:
            found["embed." + axis] = change + (zero.embedding if axis == INDEX else 0)
        if probe.turns is not None and zero.turns is not None:
            turn = probe.turns / zero.turns
            if (turn - 1).abs().max() > 1e-7:
                found["turn." + axis] = torch.view_as_real(turn).flatten(1)
    pairs = [(axis, OWN + axis if OWN + axis in axes else axis) for axis in axes if not axis.startswith(OWN)]
    kept = []
    for query, key in pairs:
        count = torch.arange(_size(model, query))
        bias = _biases(model, {query: count}, {key: count})
        start = _biases(model, {}, {})
        if bias is None or start is None:
            continue
        change = bias - start
        if query == INDEX:  # what comes later is hidden anyhow
            change = change.tril()
        if change.abs().max() > 0:
            found["bias." + query] = change.contiguous()
            kept.append((query, key))
    return found, kept


def _size(model: Transformer, axis: str) -> int:
    if axis.endswith("segment"):
        return SEGMENTS
    return min(MOST_TOKENS if axis == INDEX else PLACES, model.max_length)


class _Probe:
    """What a scheme adds to tokens of which one coordinate takes all values, and the others are 0."""

    def __init__(self, model: Transformer, values: Mapping[str, Tensor]) -> None:
        where = _where(model, values)
        nothing = torch.zeros(1, len(where.index), model.embedding.embedding_dim)
        self.embedding = model.positions.embed(nothing, where)[0]
        turns = model.positions.turns(where)
        self.turns = None if turns is None else turns.reshape(len(where.index), -1)


def _where(model: Transformer, values: Mapping[str, Tensor]) -> Where:
    length = max((len(value) for value in values.values()), default=1)
    told = {axis: torch.zeros(length, dtype=torch.long) for axis in (INDEX, *model.axes)} | dict(values)
    index = told.pop(INDEX)
    return Where(index, {axis: value[None] for axis, value in told.items()})


def _biases(model: Transformer, query: Mapping[str, Tensor], key: Mapping[str, Tensor]) -> Tensor | None:
    """Of all layers and heads, (layers, H, T, S)."""
    pairs = model.positions.pairs(_where(model, query), _where(model, key))
    found = [model.positions.bias(layer, pairs) for layer in range(len(model.blocks))]
    return torch.cat([one for one in found if one is not None]) if found[0] is not None else None


# the report in tables


@dataclass(frozen=True)
class Sheet:
    """A table of shares between 0 and 1, None where there is none, with what is said below it."""

    title: str
    note: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]


def tables_of(report: Report) -> list[Sheet]:
    """The measurements that are tables."""
    found = []
    for name, measured in report.found.items():
        arrays = measured.arrays()
        for title, note, rows, columns, values in TABLES.get(name, ()):
            if values not in arrays:
                continue
            shown = arrays[values]
            found.append(Sheet(title, note, _names(arrays[rows]), _names(arrays[columns]), _shares(shown)))
    if isinstance(without := report.found.get("ablation"), Ablation):
        shares: list[list[float | None]]
        shares = [[loss.total[way].exact_match for way in WAYS] for loss in without.losses]
        note = f"exact match of {without.before.num_examples:,} problems with a part replaced"
        found.insert(
            0, Sheet("What is needed", note, [loss.part.name for loss in without.losses], list(WAYS), shares)
        )
    return found


TABLES = {
    "lens": [
        (
            "What would come next, if the model ended there",
            "share of tokens that would be right (logit lens), by what the token is",
            *("lens_kinds", "lens_sites", "lens_right"),
        )
    ],
    "probes": [
        (
            "Where numbers of the algorithm can be read",
            "held-out accuracy of linear probes; a control with random labels is in report.json",
            *("probe_rows", "probe_sites", "probe_accuracy"),
        )
    ],
    "interchange": [
        (
            "Where they are used, together with the rest",
            "share of interchanges that the next token followed, donors alike in all else",
            *("interchange_rows", "interchange_sites", "interchange_alike"),
        ),
        (
            "Where they are held alone",
            "the same with any donor: the site brings nothing else along that matters",
            *("interchange_rows", "interchange_sites", "interchange_free"),
        ),
    ],
}


def _names(array: NDArray[Any]) -> list[str]:
    return [str(name).replace("blocks.", "L").replace("hook_", "") for name in array.tolist()]


def _shares(values: NDArray[Any]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
