"""All measurements of a model, and what they claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from numpy.typing import NDArray

from mathllm import __version__
from mathllm.errors import UsageError, check_choice
from mathllm.evaluation.exact_match import Progress
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
from mathllm.math_model import MathModel
from mathllm.prove.certificate import certificate

EXAMPLES = 2000


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
class Report:
    """What was found, by measurement; on which texts, and in how many seconds each."""

    texts: Texts
    found: dict[str, Measured]
    seconds: dict[str, float]
    seed: int

    @property
    def claims(self) -> list[Claim]:
        return strongest_first(claim for measured in self.found.values() for claim in measured.claims())

    def to_dict(self) -> dict[str, Any]:
        about = certificate(self.texts.model, "inspect")
        return {
            **about,
            "mathllm": __version__,
            "tasks": [task.name for task in self.texts.model.tasks],
            "format": self.texts.model.format.name,
            "problems": len(self.texts),
            "left_out": self.texts.left_out,
            "seed": self.seed,
            "claims": [vars(claim) for claim in self.claims],
            "measurements": {
                name: {
                    "question": MEASUREMENTS[name].question,
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
) -> Report:
    """Measures a model on up to so many problems like those of its training, of one task if it is named: all
    MEASUREMENTS that take seconds, or those named. `exhaustive` also tries all pairs of operands from 0 to it. Raises
    UsageError for a measurement or a task that is unknown."""
    names = list(what) or [name for name, one in MEASUREMENTS.items() if not one.long]
    for name in names:
        check_choice("measurement", name, tuple(MEASUREMENTS))
    if exhaustive is not None and not any(MEASUREMENTS[name].exhaustive for name in names):
        raise UsageError(
            "--exhaustive is for exactness and circuit", "leave out --what, or name one of them there"
        )
    texts = draw(model, examples, task=task, seed=seed)
    found, seconds = {}, {}
    for number, name in enumerate(names):
        start, one = time.perf_counter(), MEASUREMENTS[name]
        measure = partial(one.measure, limit=exhaustive) if one.exhaustive else one.measure
        found[name] = measure(texts.first(one.tokens * examples // EXAMPLES))
        seconds[name] = time.perf_counter() - start
        if progress is not None:
            progress(number + 1, len(names))
    return Report(texts, found, seconds, seed)
