"""Writes the page: the model's weights and tables of its positions, examples, claims and pictures, in one file."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
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
from mathllm.interp.sites import short
from mathllm.math_model import MathModel
from mathllm.model.norms import EPSILON
from mathllm.model.positions import Where
from mathllm.model.transformer import Block, Transformer
from mathllm.registry import OWN
from mathllm.tasks.expressions import expressions
from mathllm.tokenizer import TOKENS

if TYPE_CHECKING:
    from mathllm.inspection.report import Report

PARTS = {
    "mathllm.inspection.page": ("template.html", "style.css", "model.js", "app.js"),
    "mathllm.pages": ("base.css", "parts.js"),
}
PLACES, MOST_TOKENS = 32, 160  # of problems that can be typed, and of a text
EXAMPLES = 6
MOST_BYTES = 3 << 18  # of weights: larger models are not put into a page
# the formats, and their tasks, whose problems can be typed: model.js knows where their tokens stand
TYPED = {"reversed": ("addition",), "column": ("addition", "subtraction"), "steps": ("chain",)}
INDEX = "index"


def write_page(report: Report, path: Path) -> None:
    """Writes the page of a report into a file."""
    part = {
        name: files(place).joinpath(name).read_text(encoding="utf-8")
        for place, names in PARTS.items()
        for name in names
    }
    filling = {
        "style": part["base.css"] + part["style.css"],
        "code": part["parts.js"] + part["model.js"] + part["app.js"],
        "name": html.escape(report.texts.model.path.resolve().name),
        # no `</script>` can stand in it
        "data": json.dumps(data_of(report)).replace("<", "\\u003c"),
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: filling[found[1]], part["template.html"])
    write_bytes(path, filled.encode())


def data_of(report: Report) -> dict[str, Any]:
    """All that the page is made of."""
    model, transformer = report.texts.model, copy.deepcopy(report.texts.model.model).cpu()
    size = sum(parameter.numel() for parameter in transformer.parameters())
    shape = f"{size:,} parameters, {transformer.depth} layers of {transformer.heads} heads"
    examples = examples_of(report)
    data: dict[str, Any] = {
        "name": model.path.resolve().name,
        "about": f"{shape}, format {model.format.name}",
        "tasks": [task.name for task in model.tasks],
        "typed": can_be_typed(model),
        "room": min(model.max_length, MOST_TOKENS),
        "units_first": model.format.least_significant_first,
        "thinks": model.format.thinks,
        "vocabulary": list(TOKENS),
        "claims": [vars(claim) for claim in report.claims],
        "tables": [vars(table) for table in tables_of(report)],
        "examples": examples,
        "model": None,
    }
    if 4 * size <= MOST_BYTES:
        data |= weights_of(transformer, values_of(transformer, examples, can_be_typed(model)))
    return data


def can_be_typed(model: MathModel) -> bool:
    """Does the page know where the tokens of any problem stand?"""
    tasks, known = TYPED.get(model.format.name, ()), {"place", "segment", OWN + "place", OWN + "segment"}
    two = model.data.max_operands == 2 or all(task.one_digit for task in model.tasks)
    return (
        all(task.name in tasks for task in model.tasks)
        and two
        and not model.format.zero_pad
        and set(model.model.axes) <= known
    )


def examples_of(report: Report) -> list[dict[str, Any]]:
    """A few texts with what the model is told of their tokens: of different lengths, the shortest first."""
    texts, axes = report.texts, report.texts.model.model.axes
    short_enough = np.flatnonzero(texts.gold.lengths <= MOST_TOKENS)
    order = short_enough[np.argsort(texts.gold.lengths[short_enough], kind="stable")]
    chosen = texts.gold[np.unique(order[np.linspace(0, len(order) - 1, EXAMPLES).astype(int)])]
    told = texts.model.format.coordinates(chosen.problems, chosen.ids, axes)
    found = [
        {
            "problem": problem,
            "ids": chosen.ids[row, :length].tolist(),
            "prompt": int(chosen.prompt_lengths[row]),
            "told": {axis: known[row, :length].tolist() for axis, known in told.items()},
        }
        for row, (problem, length) in enumerate(
            zip(expressions(chosen.problems), chosen.lengths.tolist(), strict=True)
        )
    ]
    return sorted(found, key=lambda one: len(one["ids"]))


# the model in numbers

Values = Mapping[str, Tensor]


def values_of(model: Transformer, examples: list[dict[str, Any]], typed: bool) -> Values:
    """By axis the coordinates that tokens of the page can have: those of the examples, and of what can be typed."""
    found: dict[str, set[int]] = {axis: {0} for axis in model.axes}
    for example in examples:
        for axis, told in example["told"].items():
            found[axis] |= set(told)
    if typed:
        for axis in found:
            found[axis] |= set(range(2 if axis.endswith("segment") else PLACES))
    for axis in found:  # a key's places are those of queries
        if axis.startswith(OWN) and axis.removeprefix(OWN) in found:
            found[axis] = found[axis.removeprefix(OWN)] = found[axis] | found[axis.removeprefix(OWN)]
    longest = max(len(example["ids"]) for example in examples)
    index = torch.arange(min(model.max_length, MOST_TOKENS) if typed else longest)
    return {INDEX: index, **{axis: torch.tensor(sorted(values)) for axis, values in found.items()}}


@torch.inference_mode()
def weights_of(model: Transformer, values: Values) -> dict[str, Any]:
    """What model.js needs: the shapes, all weights as one text, and tables of what positions add for these values."""
    tensors = {
        name.removesuffix(".weight") if name.split(".")[0] in ("embedding", "head") else name: value
        for name, value in model.state_dict().items()
        if not name.startswith("positions.")
    }
    tables, bias_axes = positions_of(model, values)
    tensors |= tables
    flat, where, offset = [], {}, 0
    for name, value in tensors.items():
        where[name] = [offset, list(value.shape)]
        flat.append(value.detach().float().numpy().ravel())
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
        "values": {axis: value.tolist() for axis, value in values.items()},
    }
    weights = base64.b64encode(np.concatenate(flat).astype("<f4").tobytes()).decode()
    return {"model": shape, "tensors": where, "weights": weights}


def positions_of(model: Transformer, values: Values) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """What a scheme adds, by axis: vectors, rotations and biases for each value; and the axes of queries and keys that
    biases go by. Every scheme adds up over its axes, so each is asked with the others at 0."""
    zero = _Probe(model, {})
    found = {"embed": zero.embedding[0]}
    for axis, value in values.items():
        probe = _Probe(model, {axis: value})
        change = probe.embedding - zero.embedding
        if change.abs().max() > 0:
            found["embed." + axis] = change
        if probe.turns is not None and zero.turns is not None:
            turn = probe.turns / zero.turns
            if (turn - 1).abs().max() > 1e-7:
                found["turn." + axis] = torch.view_as_real(turn).flatten(1)
    kept = []
    for query in values:
        key = OWN + query if OWN + query in values else query
        bias = _biases(model, {query: values[query]}, {key: values[key]})
        start = _biases(model, {}, {})
        if query.startswith(OWN) or bias is None or start is None:
            continue
        change = bias - start
        if query == INDEX:  # what comes later is hidden anyhow
            change = change.tril()
        if change.abs().max() > 0:
            found["bias." + query] = change.contiguous()
            kept.append((query, key))
    return found, kept


class _Probe:
    """What a scheme adds to tokens of which one coordinate takes all values, and the others are 0."""

    def __init__(self, model: Transformer, values: Values) -> None:
        where = _where(model, values)
        nothing = torch.zeros(1, len(where.index), model.embedding.embedding_dim)
        self.embedding = model.positions.embed(nothing, where)[0]
        turns = model.positions.turns(where)
        self.turns = None if turns is None else turns.reshape(len(where.index), -1)


def _where(model: Transformer, values: Values) -> Where:
    length = max((len(value) for value in values.values()), default=1)
    told = {axis: torch.zeros(length, dtype=torch.long) for axis in (INDEX, *model.axes)} | dict(values)
    index = told.pop(INDEX)
    return Where(index, {axis: value[None] for axis, value in told.items()})


def _biases(model: Transformer, query: Values, key: Values) -> Tensor | None:
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
            "accuracy of linear probes with inputs that they were not fitted to",
            *("probe_rows", "probe_sites", "probe_accuracy"),
        ),
        (
            "The control: random labels for the same inputs",
            "where this is high, too, a probe can learn anything by heart, and being read there says little",
            *("probe_rows", "probe_sites", "probe_control"),
        ),
    ],
    "interchange": [
        (
            "Where they are used, together with the rest",
            "share of interchanges that the next token followed, donors alike in what else decides it",
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
    return [short(str(name)) for name in array.tolist()]


def _shares(values: NDArray[Any]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
