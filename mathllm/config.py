"""All settings of a run as frozen dataclasses, and where their values come from.

Precedence, lowest first: size preset < recipe file < `--set section.key=value` < named flag. Modules never see
these objects' file or flag names: they take plain values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from mathllm import limits, registry
from mathllm.errors import UsageError, check_at_least, check_choice, unknown_choice
from mathllm.files import load_toml, toml_names
from mathllm.flags import MACHINE, MODEL, OUTPUT, TEXT, Flag, converted, listed, parse_assignments, setting
from mathllm.limits import check_range
from mathllm.registry import FORMATS, OBJECTIVES, POSITIONS, SAMPLINGS, TASKS, described, setting_names

SIZES: dict[str, dict[str, int]] = {
    "nano": {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 256},
    "small": {"layers": 4, "hidden": 256, "heads": 4, "feed_forward": 512},
    "medium": {"layers": 6, "hidden": 512, "heads": 8, "feed_forward": 1024},
    "large": {"layers": 8, "hidden": 512, "heads": 8, "feed_forward": 2048},
}
NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("gelu", "relu2", "swiglu")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. `kv_heads` 0 means as many as `heads`; `max_length` bounds prompt and completion
    together, and 0 means as long as the training data needs. `loops` repeats the blocks, with the same weights.
    `position_settings` are those of the chosen schemes, all of them, whichever were given (see the `Settings` of
    each); files and `--set` have them beside the other fields."""

    size: str = setting("small", f"{listed([*SIZES])}.", name="--model-size")
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 0
    feed_forward: int = 512
    max_length: int = setting(0, "Tokens of prompt and completion.", shown="what the data need")
    position: str = setting("rope", f"{', '.join(POSITIONS)}, or two: coupled+rope.")
    norm: str = "rmsnorm"
    activation: str = "gelu"
    qk_norm: bool = True
    qk_scale: float = 1.0
    loops: int = 1
    tie_embeddings: bool = False
    position_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name, least, most in (
            ("layers", 1, limits.MAX_DEPTH),
            ("loops", 1, limits.MAX_DEPTH),
            ("hidden", 1, limits.MAX_WIDTH),
            ("heads", 1, limits.MAX_WIDTH),
            ("kv_heads", 0, limits.MAX_WIDTH),
            ("feed_forward", 1, limits.MAX_FEED_FORWARD),
            ("max_length", 0, limits.MAX_LENGTH),
            ("qk_scale", 0, math.inf),
        ):
            check_range(f"model.{name}", getattr(self, name), least, most)
        if self.hidden % self.heads or self.heads % (self.kv_heads or self.heads):
            raise UsageError(
                f"hidden {self.hidden} must be a multiple of heads {self.heads}, "
                f"and heads a multiple of kv_heads {self.kv_heads or self.heads}"
            )
        self._check_size()
        schemes = registry.position_classes(self.position)
        for name, scheme in schemes.items():
            scheme.check(name, self.hidden, self.heads)
        # without the spaces that it may have been given with
        object.__setattr__(self, "position", "+".join(schemes))
        settings = _POSITION.complete(self.position, schemes, self.position_settings)
        object.__setattr__(self, "position_settings", settings)

    @property
    def block_parameters(self) -> int:
        """Weights in the matrices of the blocks: nearly all that a model has."""
        keys = self.hidden // self.heads * (self.kv_heads or self.heads)
        matrices = 3 if self.activation == "swiglu" else 2
        return self.layers * self.hidden * (2 * self.hidden + 2 * keys + matrices * self.feed_forward)

    def _check_size(self) -> None:
        """Raises UsageError for a model that is larger than anybody means."""
        check_range("model.layers times model.loops", self.layers * self.loops, 1, limits.MAX_DEPTH)
        shape = f"a model of {self.layers} layers, {self.hidden} wide"
        check_range(f"the parameters of {shape},", self.block_parameters, 1, limits.MAX_PARAMETERS)
        schemes = registry.position_classes(self.position).values()
        width = max(scheme.table_width(self.hidden, self.heads) for scheme in schemes)
        if self.max_length * width > limits.MAX_TABLE:
            most = limits.MAX_TABLE // width
            what = f"position {self.position!r} has room for {most:,} tokens in {shape}, not for {self.max_length:,}"
            raise UsageError(what, f"--max-length {most}, smaller numbers, or --position coupled-bias")

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the settings of the position beside them."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        settings: dict[str, Any] = fields.pop("position_settings")
        return fields | settings


@dataclass(frozen=True)
class DataConfig:
    """Which problems, and how they are written. `data_dir` empty means an endless stream made on the fly.

    `num_examples` (0: all there are) trains on a fixed set instead: that many problems of the stream, or the first
    ones of the directory's train.jsonl. A stream starts with `curriculum_start` digits and reaches `max_digits`
    evenly over the first `curriculum_steps` (0: it has all lengths from the start). `format` empty means the first
    in the registry that reasons about the tasks and goes with the objective: `mathllm.resolve` fills it in.
    `second_digits` (0: as many as `max_digits`) are those of all operands but the first, where these may be shorter.
    `expression_digits` and `expression_numbers` (0: `max_digits`, `max_operands`) are the bounds of whole expressions,
    whose workings are long; with `task_weights` arithmetic:3 they come three times as often as another task.
    `thought_length` is that of format `slots` (0: one token more than the longer operand has digits).
    """

    data_dir: str = setting(
        "", "Directory that mathllm gen-data made.", shown="data, if there is one", kind=Path
    )
    num_examples: int = setting(
        0, "Train on a fixed set of that many problems.", shown="all, or new ones without end"
    )
    task: str = setting("addition", f"{described(TASKS)}; or several: addition,subtraction.")
    format: str = setting(
        "", f"{described(FORMATS)}.", TEXT, shown="the first that goes with data, task and objective"
    )
    zero_pad: bool = setting(False, "Give all numbers of a row the same width: 007+123=130.", TEXT)
    max_digits: int = setting(3, "Digits of the longest operand.")
    max_operands: int = setting(2, "Sums, products and expressions of 2 up to this many numbers.")
    second_digits: int = setting(0, "Digits of further factors, or of the divisor.", shown="as many")
    expression_digits: int = setting(0, "Digits of numbers in whole expressions.", shown="as all")
    expression_numbers: int = setting(0, "Numbers in whole expressions.", shown="as all")
    task_weights: str = setting("", "How often tasks are drawn: arithmetic:3.", shown="equally")
    sampling: str = setting("digits", f"{described(SAMPLINGS)}; or equal shares of several: digits,balanced.")
    signed: bool = setting(False, "Let differences and factors be negative: 3-5, -12*34.")
    train_ratio: float = setting(0.9, "Share of problems to train on.")
    val_ratio: float = setting(0.05, "Share to validate on; what both leave is the test.")
    curriculum_steps: int = 0
    curriculum_start: int = 1
    thought_length: int = setting(0, "Thoughts in a text (format slots).", TEXT, shown="digits + 1")

    def __post_init__(self) -> None:
        for name, least, most in (
            ("num_examples", 0, limits.MAX_EXAMPLES),
            ("max_digits", 1, limits.MAX_DIGITS),
            ("max_operands", 2, limits.MAX_OPERANDS),
            ("second_digits", 0, limits.MAX_DIGITS),
            ("expression_digits", 0, limits.MAX_DIGITS),
            ("expression_numbers", 0, limits.MAX_OPERANDS),
            ("curriculum_steps", 0, limits.MAX_STEPS),
            ("curriculum_start", 1, limits.MAX_DIGITS),
            ("thought_length", 0, limits.MAX_THOUGHTS),
        ):
            check_range(f"data.{name}", getattr(self, name), least, most)
        object.__setattr__(self, "task", ",".join(name.strip() for name in self.task.split(",")))
        if self.curriculum_steps and (self.data_dir or self.num_examples):
            hint = "leave out data_dir and num_examples"
            raise UsageError("a curriculum over length needs an endless stream", hint)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned from a text: the name of an objective, and all of its settings, whichever were given (see its
    `Settings`); files and `--set` have them beside the name."""

    name: str = setting("teacher-forcing", f"What is learned: {listed([*OBJECTIVES])}.", name="--objective")
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owners = {self.name: registry.objective_class(self.name)}
        object.__setattr__(self, "settings", _OBJECTIVE.complete(self.name, owners, self.settings))


@dataclass(frozen=True)
class OptimConfig:
    """How weights are changed. `learning_rate` is AdamW's; matrices under Muon use `muon_learning_rate`. With
    `ema_decay` (0: none; 0.99 looks back some hundred steps) the model that is evaluated and kept is the exponential
    moving average of the trained weights."""

    optimizer: str = setting("muon", "muon (AdamW for the rest) or adamw.")
    learning_rate: float = setting(3e-3, "AdamW's peak (Muon's: --set).")
    muon_learning_rate: float = 0.02
    weight_decay: float = setting(0.0, "Weight decay of matrices.")
    warmup_steps: int = setting(50, "Steps of linear warm-up.")
    schedule: str = setting("linear", f"{listed(SCHEDULES)}.")
    grad_clip: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("learning_rate", "muon_learning_rate", "weight_decay", "grad_clip"):
            check_at_least(f"optim.{name}", getattr(self, name), 0)
        check_range("optim.warmup_steps", self.warmup_steps, 0, limits.MAX_STEPS)
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"optim.ema_decay is at least 0 and below 1, not {self.ema_decay:g}")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, where to. 0 for `max_steps` means as many as `num_epochs` give.

    `target_exact_match` (0: never) stops as soon as validation reaches it; `patience` (0: never) stops after that
    many evaluations without a better one; every `hunt_steps` (0: never) problems are searched for that the model gets
    wrong, or nearly, and `hunt_share` of the rows that follow are of these; with `until_proved`, once none is found,
    all local configurations are tried (see mathllm.prove), those that are weak are learned from, too, and the run
    ends when it is proved right; `keep` step checkpoints stay besides the best. `threads` learn side by side on a CPU
    (0: as many as there are cores), and a resumed run keeps their number. `init` is a checkpoint of the same shape
    whose weights the run begins with (a path, a run, or a name that ships).
    """

    output_dir: str = setting(
        "", "Where everything is written.", OUTPUT, shown="checkpoints/TASK-SIZE", kind=Path
    )
    init: str = setting(
        "", "A checkpoint of the same shape, whose weights the run begins with.", MODEL, shown="none"
    )
    batch_size: int = setting(128, "Rows of a batch.")
    eval_batch_size: int = setting(1024, "Rows of a batch of evaluation.", MACHINE)
    num_epochs: int = setting(1, "Times through the data.")
    max_steps: int = setting(0, "Steps, instead of epochs.", shown="as many as the epochs take")
    grad_accumulation: int = setting(1, "Batches added up for a step.")
    eval_steps: int = setting(250, "Steps between evaluations.", OUTPUT)
    eval_examples: int = 2000
    save_steps: int = setting(500, "Steps between checkpoints.", OUTPUT)
    logging_steps: int = setting(10, "Steps between log lines.", OUTPUT)
    keep: int = 2
    precision: str = setting(
        "auto",
        "auto, fp32, bf16 (on a CPU: for those with AMX) or fp16.",
        MACHINE,
        Flag("Short for --precision fp16.", MACHINE, name="--fp16", shown="no", values={True: "fp16"}),
    )
    compile: bool = setting(False, "Use torch.compile.", MACHINE)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.", MACHINE)
    threads: int = 0
    seed: int = setting(0, "Seed of everything that is drawn at random.", MACHINE)
    wandb: str = setting(
        "auto",
        "Log to W&B.",
        OUTPUT,
        name="--wandb/--no-wandb",
        shown="if logged in",
        values={True: "on", False: "off"},
    )
    target_exact_match: float = setting(0.0, "Stop when validation reaches this share.", shown="never")
    patience: int = setting(0, "Stop after n evaluations without a better one.", shown="never")
    hunt_steps: int = 0
    hunt_share: float = 0.125
    until_proved: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("wandb setting", self.wandb, ("auto", "on", "off"))
        for name in ("batch_size", "eval_batch_size", "grad_accumulation", "eval_examples"):
            check_range(f"train.{name}", getattr(self, name), 1, limits.MAX_STEP_TOKENS)
        for name in ("num_epochs", "eval_steps", "save_steps", "logging_steps", "keep"):
            check_range(f"train.{name}", getattr(self, name), 1, limits.MAX_STEPS)
        for name, most in (
            ("max_steps", limits.MAX_STEPS),
            ("patience", limits.MAX_STEPS),
            ("seed", 2**63 - 1),
            ("threads", limits.MAX_THREADS),
            ("hunt_steps", limits.MAX_STEPS),
        ):
            check_range(f"train.{name}", getattr(self, name), 0, most)
        if not 0 <= self.hunt_share <= 1:
            raise UsageError(f"train.hunt_share is a share from 0 to 1, not {self.hunt_share:g}")
        if not 0 <= self.target_exact_match <= 1:
            raise UsageError(f"target_exact_match is a share from 0 to 1, not {self.target_exact_match:g}")


@dataclass(frozen=True)
class Config:
    """Everything about one training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested tables, as `build_config` reads them."""
        tables = dataclasses.asdict(self)
        for section, dial in _DIALS.items():
            tables[section] |= tables[section].pop(dial.field)
        return tables


SECTIONS = {f.name: get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}


def build_config(
    *layers: Mapping[str, Mapping[str, Any]], assignments: Sequence[str] = (), recipe: str | None = None
) -> Config:
    """A Config from the defaults, a recipe, `section.key=value` assignments and more layers, the last one winning.

    Raises UsageError for an unknown section, key or value, with the nearest name, and for a setting of a position or
    an objective that is not chosen.
    """
    tables = merged(load_recipe(recipe) if recipe else {}, parse_assignments(assignments), *layers)
    return Config(**{section: SECTIONS[section](**entries) for section, entries in tables.items()})


def merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of settings as one, the last one winning, over the shape of the model's size: the sections' own fields.

    Raises UsageError for an unknown section or key, and for a value of another type.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    size, objective = _last(layers, "model", "size"), _last(layers, "objective", "name")
    check_choice("model size", size, SIZES)
    preset = {"size": size, **SIZES[size]}
    for part in [{"model": preset}, *layers]:
        for section, entries in part.items():
            if section not in SECTIONS:
                raise unknown_choice("section", section, SECTIONS)
            for key, value in entries.items():
                # the shape that a recipe gives belongs to the size that it names, not to another one
                if section == "model" and entries.get("size", size) != size and key in preset:
                    continue
                # and so do settings to the objective
                if section == "objective" and entries.get("name", objective) != objective:
                    continue
                if key in _kinds(section):
                    values[section][key] = _convert(section, key, value)
                elif section in _DIALS:
                    values[section].setdefault(_DIALS[section].field, {})[key] = value
                else:
                    raise unknown_choice(f"setting in [{section}]", key, _kinds(section))
    return values


def from_saved(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables that a run, a checkpoint or a dataset has saved, as `build_config` takes them: earlier versions drew
    products by one digit alone, and also saved the settings of objectives that were not chosen."""
    found = {section: dict(entries) for section, entries in tables.items()}
    data = found.get("data", {})
    if "second_digits" not in data and "multiplication" in str(data.get("task", "")).split(","):
        data["second_digits"] = 1
    name = found.get("objective", {}).get("name", ObjectiveConfig.name)
    if name in OBJECTIVES:
        own = setting_names([registry.objective_class(name)])
        for key in setting_names(map(registry.objective_class, OBJECTIVES)):
            if key not in own:
                found.get("objective", {}).pop(key, None)
    return found


def _last(layers: Sequence[Mapping[str, Mapping[str, Any]]], section: str, key: str) -> Any:
    """What the last layer that has it says of a setting, else its default."""
    given = [layer[section][key] for layer in layers if key in layer.get(section, {})]
    return _convert(section, key, given[-1] if given else getattr(SECTIONS[section], key))


@cache
def _kinds(section: str) -> dict[str, Any]:
    """The types of a section's own fields by name, without the settings of what is chosen in it."""
    inner = _DIALS[section].field if section in _DIALS else ""
    return {name: kind for name, kind in get_type_hints(SECTIONS[section]).items() if name != inner}


def _convert(section: str, key: str, value: Any) -> Any:
    return converted(f"{section}.{key}", value, _kinds(section)[key])


@dataclass(frozen=True)
class _Dial:
    """A section that names classes, each of which has settings of its own: in the section's `field`."""

    section: str
    kind: str
    field: str
    choices: Mapping[str, registry.Choice]
    choose: str  # how to choose another one

    def load(self, name: str) -> Any:
        """One of the classes."""
        return registry.load(self.kind, self.choices, name)

    def complete(self, name: str, owners: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of the `owners`, which `name` stands for: those given, and defaults. Raises UsageError for an
        unknown one, and for one of another class that is not at its default."""
        values, known = {}, (*owners, *self.choices)
        for key, value in given.items():
            # of the chosen classes if they have it, else of the first one that does
            user = next((one for one in known if key in setting_names([self.load(one)])), None)
            if user is None:
                every = setting_names(map(self.load, self.choices))
                raise unknown_choice(f"setting in [{self.section}]", key, [*_kinds(self.section), *every])
            settings = self.load(user).Settings
            values[key] = converted(f"{self.section}.{key}", value, get_type_hints(settings)[key])
            default = getattr(settings, key)
            if user not in owners and values[key] != default:
                raise UsageError(
                    f"{self.section}.{key} does nothing with {self.kind} {name!r}",
                    f"--set {self.section}.{key}={default}, or choose {self.choose}{user}",
                )
        complete = [registry.own_settings(owner, values) for owner in owners.values()]
        return {key: value for settings in complete for key, value in dataclasses.asdict(settings).items()}


_POSITION = _Dial("model", "position", "position_settings", POSITIONS, "--position ")
_OBJECTIVE = _Dial("objective", "objective", "settings", OBJECTIVES, "--set objective.name=")
_DIALS = {dial.section: dial for dial in (_POSITION, _OBJECTIVE)}


def recipe_names() -> list[str]:
    """The recipes in the package."""
    return toml_names("recipes")


def load_recipe(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a recipe in the package, or of a TOML file anywhere."""
    tables = load_toml("recipe", "recipes", name)
    for section, entries in tables.items():
        if not isinstance(entries, dict):
            hint = f"tables: {', '.join(SECTIONS)}"
            raise UsageError(f"recipe {name}: {section!r} stands outside a table", hint)
    return tables
