"""Names of what can be chosen; of position schemes and objectives also where the class is: one line to add one.

Nothing is imported before it is asked for, so whoever only wants the names does without numpy and torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mathllm.errors import UsageError, unknown_choice
from mathllm.flags import THOUGHTS, Flag, Setting

# what can be asked, written and drawn, as --help tells it; registries of the same names hold what they do
TASKS = {
    "addition": "",
    "subtraction": "",
    "multiplication": "by one digit",
    "chain": "3+4*7-2 from left to right modulo 10; its digits are its numbers",
}
FORMATS = {
    "column": "digit by digit, as in school",
    "pairwise": "the whole sum again, turned round",
    "reversed": "no reasoning, units first",
    "hinted": "the same, a place before every digit",
    "plain": "no reasoning",
    "slots": "room for thoughts of the model's own",
    "steps": "the state after each step",
    "no-steps": "the same problems without reasoning",
    "filler": "a 0 for each step",
    "random-steps": "a random digit for each",
}
SAMPLINGS = {
    "digits": "short numbers as often as long ones",
    "uniform": "every value as often as any other",
    "balanced": "answers and chains of carries of every length equally often: 99+1, 100-99",
}
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


def _own(key: str, default: Any, help_text: str, **flag: Any) -> Setting:
    """A setting of an objective that has a flag; its default is that of the class."""
    return Setting("objective", key, type(default), default, Flag(help_text, THOUGHTS, **flag))


@dataclass(frozen=True)
class Objective:
    """Where the class of an objective is; the flag that chooses it, with its help, and those of its settings."""

    path: str
    switch: str = ""
    help: str = ""
    settings: tuple[Setting, ...] = ()


OBJECTIVES: dict[str, Objective] = {
    "teacher-forcing": Objective("mathllm.training.objectives.teacher_forcing:TeacherForcing"),
    "gumbel": Objective(
        "mathllm.training.objectives.gumbel:GumbelThoughts",
        "--use-gumbel/--no-gumbel",
        "Score the answer alone: thoughts are the model's own.",
        (
            _own("temperature", 1.0, "Of the softmax behind a thought.", name="--gumbel-temperature"),
            _own(
                "temperature_end",
                0.0,
                "What it goes to over training.",
                name="--gumbel-temperature-end",
                shown="the same",
            ),
            _own("estimator", "straight-through", "straight-through, soft, argmax or exact."),
            _own(
                "warmup_steps",
                0,
                "Steps with the first thought supervised (more: --set).",
                name="--thought-warmup",
                implies=("supervised",),
            ),
        ),
    ),
    "rejection-sampling": Objective("mathllm.training.objectives.rejection_sampling:RejectionSampling"),
}


def objective_settings(default: str) -> list[Setting]:
    """The settings of objectives that have flags, and the switches that choose one in place of the `default`."""
    found = []
    for name, entry in OBJECTIVES.items():
        if entry.switch:
            flag = Flag(entry.help, THOUGHTS, entry.switch, "no", {True: name, False: default})
            found.append(Setting("objective", "name", str, default, flag))
        found += entry.settings
    return found


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
