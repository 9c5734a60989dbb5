"""Names of what can be chosen, where each of them is, and what --help says of it: one line to add one.

Nothing is imported before it is asked for, so whoever only wants the names does without numpy and torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from mathllm.errors import UsageError, unknown_choice
from mathllm.flags import THOUGHTS, Flag, Setting

# the coordinate of a token itself: `own_place`, where `place` is that of the token which it predicts
OWN = "own_"


class Choice(NamedTuple):
    """Where a task, a format, a scheme or an objective is, and what it is, for --help. An objective may have a
    `switch`, which is the flag that chooses it, and flags for its settings."""

    path: str
    about: str = ""
    switch: str = ""
    settings: tuple[Setting, ...] = ()


# a task's place here is its code, on which splits depend: new ones go to the end
TASKS = {
    "addition": Choice("mathllm.tasks.addition:Addition"),
    "subtraction": Choice("mathllm.tasks.subtraction:Subtraction"),
    "multiplication": Choice("mathllm.tasks.multiplication:Multiplication"),
    "chain": Choice(
        "mathllm.tasks.chain:Chain", "3+4*7-2 from left to right modulo 10; its digits are its numbers"
    ),
    "division": Choice("mathllm.tasks.division:Division", "144/12, the integer quotient"),
    "remainder": Choice("mathllm.tasks.remainder:Remainder", "17%5"),
    "arithmetic": Choice("mathllm.tasks.arithmetic:Arithmetic", "2+3*4-17%5"),
}
FORMATS = {
    "column": Choice("mathllm.formats.column:COLUMN", "digit by digit, as in school"),
    "pairwise": Choice("mathllm.formats.pairwise:PAIRWISE", "the whole sum again, turned round"),
    "scratchpad": Choice("mathllm.formats.scratchpad:SCRATCHPAD", "rows of working, units first"),
    "reversed": Choice("mathllm.formats.reversed:REVERSED", "no reasoning, units first"),
    "hinted": Choice("mathllm.formats.hinted:HINTED", "the same, a place before every digit"),
    "plain": Choice("mathllm.formats.plain:PLAIN", "no reasoning"),
    "slots": Choice("mathllm.formats.slots:SLOTS", "room for thoughts of the model's own"),
    "steps": Choice("mathllm.formats.steps:STEPS", "the state after each step of a chain"),
    "no-steps": Choice("mathllm.formats.steps:NO_STEPS", "a chain without reasoning"),
    "filler": Choice("mathllm.formats.steps:FILLER", "a 0 for each step"),
    "random-steps": Choice("mathllm.formats.steps:RANDOM_STEPS", "a random digit for each"),
}
SAMPLINGS = {
    "digits": Choice("", "short numbers as often as long ones"),
    "uniform": Choice("", "every value as often as any other"),
    "balanced": Choice(
        "", "what is rare by chance as often as the rest: 99+1, 100-99, near multiples of a divisor"
    ),
}
POSITIONS = {
    "learned": Choice("mathllm.model.positions.order:Learned"),
    "sinusoidal": Choice("mathllm.model.positions.order:Sinusoidal"),
    "rope": Choice("mathllm.model.positions.order:Rope"),
    "nope": Choice("mathllm.model.positions.base:Scheme"),
    "alibi": Choice("mathllm.model.positions.order:Alibi"),
    "fire": Choice("mathllm.model.positions.order:Fire"),
    "randomized": Choice("mathllm.model.positions.order:Randomized"),
    "abacus": Choice("mathllm.model.positions.coupled:Abacus"),
    "coupled": Choice("mathllm.model.positions.coupled:Coupled"),
    "coupled-rope": Choice("mathllm.model.positions.coupled:CoupledRope"),
    "coupled-bias": Choice("mathllm.model.positions.coupled_bias:CoupledBias"),
}


def _own(key: str, default: Any, help_text: str, name: str = "", **flag: Any) -> Setting:
    """A setting of an objective that has a flag; its default is that of the class."""
    return Setting("objective", key, type(default), default, Flag(help_text, THOUGHTS, name, **flag))


_GUMBEL = (
    _own("temperature", 1.0, "Of the softmax behind a thought.", "--gumbel-temperature"),
    _own(
        "temperature_end", 0.0, "What it goes to over training.", "--gumbel-temperature-end", shown="the same"
    ),
    _own("estimator", "straight-through", "straight-through, soft, argmax or exact."),
    _own(
        "warmup_steps",
        0,
        "Steps with the first thought supervised (more: --set).",
        "--thought-warmup",
        implies=("supervised",),
    ),
)
OBJECTIVES = {
    "teacher-forcing": Choice("mathllm.training.objectives:Objective"),
    "gumbel": Choice(
        "mathllm.training.objectives.gumbel:GumbelThoughts",
        "Score the answer alone: thoughts are the model's own.",
        "--use-gumbel/--no-gumbel",
        _GUMBEL,
    ),
    "rejection-sampling": Choice("mathllm.training.objectives.rejection_sampling:RejectionSampling"),
}


def objective_settings(default: str) -> list[Setting]:
    """The settings of objectives that have flags, and the switches that choose one in place of the `default`."""
    found = []
    for name, entry in OBJECTIVES.items():
        if entry.switch:
            flag = Flag(entry.about, THOUGHTS, entry.switch, "no", {True: name, False: default})
            found.append(Setting("objective", "name", str, default, flag))
        found += entry.settings
    return found


def described(choices: Mapping[str, Choice]) -> str:
    """`a (what it is), b`."""
    return ", ".join(f"{name} ({one.about})" if one.about else name for name, one in choices.items())


def everything(choices: Mapping[str, Choice]) -> Iterator[Any]:
    """All of them, in their order."""
    return (load("name", choices, name) for name in choices)


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


def load(kind: str, choices: Mapping[str, Choice], name: str) -> Any:
    """What has that name. Raises UsageError for an unknown one."""
    if name not in choices:
        raise unknown_choice(kind, name, choices)
    module, _, attribute = choices[name].path.partition(":")
    return getattr(import_module(module), attribute)


# the Scheme, or the objective, of a name
position_class, objective_class = partial(load, "position", POSITIONS), partial(load, "objective", OBJECTIVES)
