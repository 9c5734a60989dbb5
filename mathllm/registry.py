"""Names of position schemes and objectives, and where the class of each is: one line to add one.

Nothing is imported before it is asked for, so whoever only wants the names does without numpy and torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mathllm.errors import UsageError, unknown_choice

POSITIONS: dict[str, str] = {
    "learned": "mathllm.model.positions.absolute:Learned",
    "sinusoidal": "mathllm.model.positions.absolute:Sinusoidal",
    "rope": "mathllm.model.positions.rotary:Rope",
    "nope": "mathllm.model.positions.base:Scheme",
    "alibi": "mathllm.model.positions.distance:Alibi",
    "fire": "mathllm.model.positions.distance:Fire",
    "randomized": "mathllm.model.positions.randomized:Randomized",
    "abacus": "mathllm.model.positions.coupled:Abacus",
    "coupled": "mathllm.model.positions.coupled:Coupled",
    "coupled-rope": "mathllm.model.positions.coupled:CoupledRope",
    "coupled-bias": "mathllm.model.positions.coupled_bias:CoupledBias",
}


@dataclass(frozen=True)
class Flag:
    """A command-line flag of its own for a setting of an objective, which has that type (`kind`) and `default`.

    `implies` is another setting and its value where the flag gives more than 0 (else that is 0, too), unless it is
    set itself. `shown` is for the help, where the default alone says too little.
    """

    name: str
    setting: str
    kind: type
    default: Any
    help: str
    implies: tuple[str, int] | None = None
    shown: str = ""


@dataclass(frozen=True)
class Objective:
    """Where the class of an objective is; the flag that chooses it, with its help, and those of its settings."""

    path: str
    switch: str = ""
    help: str = ""
    flags: tuple[Flag, ...] = ()


OBJECTIVES: dict[str, Objective] = {
    "teacher-forcing": Objective("mathllm.training.objectives.teacher_forcing:TeacherForcing"),
    "gumbel": Objective(
        "mathllm.training.objectives.gumbel:GumbelThoughts",
        "--use-gumbel/--no-gumbel",
        "Score the answer alone: thoughts are the model's own.",
        (
            Flag("--gumbel-temperature", "temperature", float, 1.0, "Of the softmax behind a thought."),
            Flag(
                "--gumbel-temperature-end",
                "temperature_end",
                float,
                0.0,
                "What it goes to over training.",
                shown="the same",
            ),
            Flag(
                "--estimator",
                "estimator",
                str,
                "straight-through",
                "straight-through, soft, argmax or exact.",
            ),
            Flag(
                "--thought-warmup",
                "warmup_steps",
                int,
                0,
                "Steps with the first thought supervised (more: --set).",
                implies=("supervised", 1),
            ),
        ),
    ),
    "rejection-sampling": Objective("mathllm.training.objectives.rejection_sampling:RejectionSampling"),
}


def position_class(name: str) -> Any:
    """The Scheme of that name. Raises UsageError for an unknown one."""
    return _load("position", name, POSITIONS)


def objective_class(name: str) -> Any:
    """The objective of that name. Raises UsageError for an unknown one."""
    return _load("objective", name, {known: entry.path for known, entry in OBJECTIVES.items()})


def position_classes(text: str) -> dict[str, Any]:
    """The schemes in `rope` or `coupled+rope` by name. Raises UsageError for one that is unknown or comes twice."""
    names = [name.strip() for name in text.split("+")]
    found = {name: position_class(name) for name in names}
    if len(found) < len(names):
        raise UsageError(f"name each position scheme once, not {text!r}")
    return found


def own_settings(owner: Any, values: Mapping[str, Any]) -> Any:
    """The `Settings` of a class, with those of the values that are its own."""
    return owner.Settings(**{name: values[name] for name in setting_names([owner]) if name in values})


def setting_names(owners: Iterable[Any]) -> list[str]:
    """What can be set for these classes, each once."""
    fields = [field.name for owner in owners for field in dataclasses.fields(owner.Settings)]
    return list(dict.fromkeys(fields))


def _load(kind: str, name: str, paths: Mapping[str, str]) -> Any:
    if name not in paths:
        raise unknown_choice(kind, name, paths)
    module, _, attribute = paths[name].partition(":")
    return getattr(import_module(module), attribute)
