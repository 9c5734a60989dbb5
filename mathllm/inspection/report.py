"""All measurements of a model, and what they claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mathllm.errors import UsageError, check_choice
from mathllm.evaluation.exact_match import Progress
from mathllm.inference.engine import as_tensors
from mathllm.inspection import (
    ablation,
    attention,
    circuit,
    exactness,
    health,
    interchange,
    lens,
    neurons,
    probes,
    thoughts,
)
from mathllm.inspection.claims import Claim, strongest_first
from mathllm.inspection.texts import Texts, draw
from mathllm.interp.edits import run
from mathllm.math_model import MathModel
from mathllm.prove.certificate import certificate
from mathllm.tasks import by_task

EXAMPLES = 2000
FINE = 1000  # parts of a measurement in which its progress is told
MOST_OFF = 1e-4  # of the explicit forward pass, as a share of the largest logit


class Measured(Protocol):
    """What a measurement found: for a JSON document, as arrays, and in words."""

    def to_dict(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, NDArray[Any]]: ...

    def claims(self) -> list[Claim]: ...


@dataclass(frozen=True)
class Measurement:
    """A question that can be asked, how it is answered, and how many tokens of EXAMPLES texts that is worth."""

    question: str
    measure: Callable[..., Measured]
    tokens: int
    exhaustive: bool = False  # can it take a limit up to which all pairs are tried?
    long: bool = False  # does it take minutes, so that it has to be asked for?


MEASUREMENTS = {
    "exactness": Measurement("Is it right?", exactness.measure, 1 << 18, exhaustive=True),
    "attention": Measurement("What does each head look at?", attention.measure, 12_000),
    "ablation": Measurement("Which parts are needed, and for what?", ablation.measure, 10_000),
    "probes": Measurement("Where can each number of the algorithm be read?", probes.measure, 40_000),
    "interchange": Measurement("Where is it used?", interchange.measure, 12_000),
    "lens": Measurement("What does each part write?", lens.measure, 20_000),
    "neurons": Measurement("What is each neuron?", neurons.measure, 20_000),
    "thoughts": Measurement("What do thoughts of its own mean?", thoughts.measure, 20_000),
    "circuit": Measurement(
        "Which part of it is enough?", circuit.measure, 40_000, exhaustive=True, long=True
    ),
    "health": Measurement("Are the numbers inside as they should be?", health.measure, 12_000),
}


@dataclass(frozen=True)
class Skipped:
    """A measurement that could not be taken, and why."""

    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"skipped": self.why}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def claims(self) -> list[Claim]:
        return []


@dataclass(frozen=True)
class Report:
    """What was found, by measurement: on how many of the texts, and in how many seconds each."""

    texts: Texts
    found: dict[str, Measured]
    used: dict[str, int]
    seconds: dict[str, float]
    seed: int

    @property
    def claims(self) -> list[Claim]:
        return strongest_first(claim for measured in self.found.values() for claim in measured.claims())

    def to_dict(self) -> dict[str, Any]:
        return {
            **certificate(self.texts.model, "inspect"),
            "tasks": [task.name for task, _ in by_task(self.texts.gold.problems)],
            "format": self.texts.model.format.name,
            "problems_drawn": len(self.texts),
            "left_out": self.texts.left_out,
            "seed": self.seed,
            "claims": [vars(claim) for claim in self.claims],
            "measurements": {
                name: {
                    "question": MEASUREMENTS[name].question,
                    "problems": self.used[name],
                    "seconds": round(self.seconds[name], 2),
                    **measured.to_dict(),
                }
                for name, measured in self.found.items()
            },
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: array for measured in self.found.values() for name, array in measured.arrays().items()}


def inspect(
    model: MathModel,
    *,
    what: Iterable[str] = (),
    examples: int = EXAMPLES,
    task: str = "",
    exhaustive: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measures a model on up to so many problems like those of its training, of one task if it is named: all
    MEASUREMENTS that take seconds, or those named. `exhaustive` also tries all pairs of operands from 0 to it. Raises
    UsageError for a measurement or a task that is unknown, and where the explicit forward pass differs from the
    model's; a measurement that cannot be taken is skipped, and says why. `progress` is of the measurements, `say` is
    told how a long one goes."""
    names = list(what) or [name for name, one in MEASUREMENTS.items() if not one.long]
    for name in names:
        check_choice("measurement", name, tuple(MEASUREMENTS))
    if exhaustive is not None and not any(MEASUREMENTS[name].exhaustive for name in names):
        raise UsageError(
            "--exhaustive is for exactness and circuit", "leave out --what, or name one of them there"
        )
    texts = draw(model, examples, task=task, seed=seed)
    check_forward(texts.first(1))
    found: dict[str, Measured] = {}
    used, seconds = {}, {}
    for number, name in enumerate(names):
        start, one = time.perf_counter(), MEASUREMENTS[name]
        some = texts.first(one.tokens * examples // EXAMPLES)
        measure = one.measure
        if one.exhaustive:
            measure = partial(measure, limit=exhaustive, progress=_part_of(progress, number, len(names)))
        measure = partial(measure, say=say) if one.long else measure
        try:
            found[name] = measure(some)
        except UsageError as error:
            found[name] = Skipped(f"{error.message} ({error.hint})")
        used[name], seconds[name] = len(some), time.perf_counter() - start
        if progress is not None:
            progress(FINE * (number + 1), FINE * len(names))
    return Report(texts, found, used, seconds, seed)


def _part_of(progress: Progress | None, number: int, measurements: int) -> Progress | None:
    """How far one measurement has come, as a part of all of them."""
    if progress is None:
        return None
    return lambda done, total: progress(FINE * number + FINE * done // max(total, 1), FINE * measurements)


def check_forward(texts: Texts) -> None:
    """Raises UsageError where the explicit pass, which all measurements go by, gives other logits than the model."""
    gold, model = texts.gold, texts.model
    told = model.format.coordinates(gold.problems, gold.ids[:, :-1], model.model.axes)
    where = as_tensors(told, model.device)
    ids = torch.from_numpy(gold.ids[:, :-1].astype(np.int64)).to(model.device)
    with torch.inference_mode():
        own, explicit = model.model(ids, where), run(model.model, ids, where)[0]
    off = float((own - explicit).abs().max() / own.abs().max().clamp_min(1))
    if off > MOST_OFF:
        raise UsageError(
            f"the explicit forward pass is off by {off:.1e}", "this is a defect of mathllm: report it"
        )
