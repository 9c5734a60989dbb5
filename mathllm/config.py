"""All settings of a run as frozen dataclasses, and where their values come from.

Precedence, lowest first: size preset < recipe file < `--set section.key=value` < named flag. Modules never see
these objects' file or flag names: they take plain values.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from mathllm.errors import UsageError, unknown_choice
from mathllm.flags import MACHINE, OUTPUT, TEXT, Flag, explained, listed, setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    "steps": "the state after each step of a chain",
    "no-steps": "a chain without reasoning",
    "filler": "a 0 for each step",
    "random-steps": "a random digit for each",
}
SAMPLINGS = {
    "digits": "short numbers as often as long ones",
    "uniform": "every value as often as any other",
    "balanced": "answers and chains of carries of every length equally often: 99+1, 100-99",
}
POSITIONS = (
    "learned",
    "sinusoidal",
    "rope",
    "nope",
    "alibi",
    "fire",
    "randomized",
    "abacus",
    "coupled",
    "coupled-rope",
    "coupled-bias",
)
# settings of the model that only some positions look at
POSITION_SETTINGS = {
    "random_start": ("coupled", "coupled-rope", "coupled-bias", "abacus"),
    "bias_near": ("coupled-bias",),
    "bias_decay": ("coupled-bias",),
}
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
OBJECTIVES = ("teacher-forcing", "gumbel")
ESTIMATORS = ("straight-through", "soft", "argmax", "exact")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MAX_LENGTH = 1 << 20  # tokens; tables of positions are that long
MAX_THOUGHTS = 1000


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. `kv_heads` 0 means as many as `heads`; `max_length` bounds prompt and completion
    together, and 0 means as long as the training data needs. `random_start` is the highest number that places
    begin with in training, for positions that learn a vector for each place. `loops` repeats the blocks, with the
    same weights. `bias_near` and `bias_decay` are how many places the table of `coupled-bias` reaches to either side,
    and the nats a place by which its bias falls beyond at first."""

    size: str = setting("small", f"{listed(SIZES)}.", name="--model-size")
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
    random_start: int = 0
    loops: int = 1
    bias_near: int = 1
    bias_decay: float = 3.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        _choice("norm", self.norm, NORMS)
        _choice("activation", self.activation, ACTIVATIONS)
        for name in ("layers", "hidden", "heads", "feed_forward", "loops"):
            _at_least(f"model.{name}", getattr(self, name), 1)
        _at_least("model.max_length", self.max_length, 0)
        for name in ("kv_heads", "random_start", "qk_scale", "bias_near", "bias_decay"):
            _at_least(f"model.{name}", getattr(self, name), 0)
        if self.hidden % self.heads or self.heads % (self.kv_heads or self.heads):
            raise UsageError(
                f"hidden {self.hidden} must be a multiple of heads {self.heads}, "
                f"and heads a multiple of kv_heads {self.kv_heads or self.heads}"
            )
        if self.max_length > MAX_LENGTH:
            raise UsageError(f"max_length must be at most {MAX_LENGTH:,}, not {self.max_length:,}")
        per_head = self.hidden // self.heads
        names = position_names(self.position)
        object.__setattr__(
            self, "position", "+".join(names)
        )  # without the spaces that it may have been given with
        for key, users in POSITION_SETTINGS.items():
            default = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != default and not set(names) & set(users):
                raise UsageError(
                    f"model.{key} does nothing with position {self.position!r}",
                    f"--set model.{key}={default}, or choose --position {users[0]}",
                )
        for name in names:
            width = {"rope": per_head, "coupled-rope": per_head, "sinusoidal": self.hidden}.get(name, 0)
            if width % 2:
                part = "hidden width" if name == "sinusoidal" else "hidden width per head"
                raise UsageError(f"position {name!r} needs an even {part}, not {width}")


@dataclass(frozen=True)
class DataConfig:
    """Which problems, and how they are written. `data_dir` empty means an endless stream made on the fly.

    `num_examples` (0: all there are) trains on a fixed set instead: that many problems of the stream, or the first
    ones of the directory's train.jsonl. A stream starts with `curriculum_start` digits and reaches `max_digits`
    evenly over the first `curriculum_steps` (0: it has all lengths from the start). A chain's digits are its numbers.
    `thought_length` is that of format `slots` (0: one token more than the longer operand has digits).
    """

    data_dir: str = setting(
        "", "Directory that mathllm gen-data made.", shown="data, if there is one", kind=Path
    )
    num_examples: int = 0
    task: str = setting("addition", f"{explained(TASKS)}; or several: addition,subtraction.")
    format: str = setting("column", f"{explained(FORMATS)}.", TEXT, shown="the data's, else column")
    zero_pad: bool = setting(False, "Give all numbers of a row the same width: 007+123=130.", TEXT)
    max_digits: int = setting(3, "Digits of the longest operand.")
    max_operands: int = setting(2, "Sums of 2 up to this many operands: 3 gives 1+2 and 1+2+3.")
    sampling: str = setting("digits", f"{explained(SAMPLINGS)}; or equal shares of several: digits,balanced.")
    signed: bool = setting(False, "Let subtractions have negative results: 3-5=-2.")
    train_ratio: float = setting(0.9, "Share of problems to train on.")
    val_ratio: float = setting(0.05, "Share to validate on; what both leave is the test.")
    curriculum_steps: int = 0
    curriculum_start: int = 1
    thought_length: int = setting(0, "Thoughts in a text (format slots).", TEXT, shown="digits + 1")

    def __post_init__(self) -> None:
        _at_least("data.curriculum_steps", self.curriculum_steps, 0)
        _at_least("data.curriculum_start", self.curriculum_start, 1)
        _at_least("data.thought_length", self.thought_length, 0)
        if self.thought_length > MAX_THOUGHTS:
            raise UsageError(
                f"data.thought_length must be at most {MAX_THOUGHTS:,}, not {self.thought_length:,}"
            )
        object.__setattr__(self, "task", ",".join(name.strip() for name in self.task.split(",")))
        if self.curriculum_steps and (self.data_dir or self.num_examples):
            raise UsageError(
                "a curriculum over length needs an endless stream", "leave out data_dir and num_examples"
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned from a text: all that follows the prompt (`teacher-forcing`), or the answer alone, while the
    model fills the thought itself (`gumbel`: all that follows here is for it).

    `estimator`: `straight-through` (a token forward, the softmax backward), `soft` (mixtures both ways), `argmax`
    (tokens without a gradient), `exact` (the last thought summed over all its values, the ones before it tokens
    without a gradient). The softmax has `temperature`, which goes to `temperature_end` (0: stays), and Gumbel noise
    times `noise`, which goes to 0; both have arrived after 80% of training. The gradient goes through the last
    `gradient_slots` thoughts (0: all). In the first `warmup_steps` the first `supervised` thoughts are
    teacher-forced.
    """

    name: str = setting(
        "teacher-forcing",
        f"What is learned: {listed(OBJECTIVES)}.",
        "",
        Flag(
            "Score the answer alone: thoughts are the model's own.",
            name="--use-gumbel/--no-gumbel",
            shown="no",
            values={True: "gumbel", False: "teacher-forcing"},
        ),
        name="--objective",
    )
    estimator: str = setting("straight-through", f"{listed(ESTIMATORS)}.")
    temperature: float = setting(1.0, "Of the softmax behind a thought.", name="--gumbel-temperature")
    temperature_end: float = setting(
        0.0, "What it goes to over training.", name="--gumbel-temperature-end", shown="the same"
    )
    noise: float = 1.0
    gradient_slots: int = 0
    supervised: int = 0
    warmup_steps: int = setting(
        0,
        "Steps with the first thought supervised (more: --set).",
        name="--thought-warmup",
        implies=("supervised",),
    )

    def __post_init__(self) -> None:
        _choice("objective", self.name, OBJECTIVES)
        _choice("estimator", self.estimator, ESTIMATORS)
        for name in ("temperature_end", "noise", "gradient_slots", "supervised", "warmup_steps"):
            _at_least(f"objective.{name}", getattr(self, name), 0)
        for temperature in (self.temperature, self.temperature_end or self.temperature):
            if not 0.01 <= temperature <= 100:
                raise UsageError(f"a temperature is from 0.01 to 100, not {temperature:g}")
        if bool(self.supervised) != bool(self.warmup_steps):
            raise UsageError(
                "objective.supervised and objective.warmup_steps belong together: how many first thoughts are "
                "supervised, and for how many steps"
            )


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
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        for name in ("learning_rate", "muon_learning_rate", "weight_decay", "warmup_steps", "grad_clip"):
            _at_least(f"optim.{name}", getattr(self, name), 0)
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"optim.ema_decay is at least 0 and below 1, not {self.ema_decay:g}")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, where to. 0 for `max_steps` means as many as `num_epochs` give.

    `target_exact_match` (0: never) stops as soon as validation reaches it; `patience` (0: never) stops after that
    many evaluations without a better one; `keep` step checkpoints stay besides the best. `threads` learn side by
    side on a CPU (0: as many as there are cores), and a resumed run keeps their number.
    """

    output_dir: str = setting(
        "", "Where everything is written.", OUTPUT, shown="checkpoints/TASK-SIZE", kind=Path
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

    def __post_init__(self) -> None:
        _choice("precision", self.precision, PRECISIONS)
        _choice("wandb setting", self.wandb, ("auto", "on", "off"))
        for name in (
            "batch_size",
            "eval_batch_size",
            "grad_accumulation",
            "eval_steps",
            "save_steps",
            "keep",
        ):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("logging_steps", "eval_examples", "num_epochs"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("max_steps", "patience", "seed", "threads"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        if self.seed >= 2**63:
            raise UsageError(f"train.seed must be below 2**63, not {self.seed}")
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
        return dataclasses.asdict(self)


SECTIONS = {f.name: get_type_hints(Config)[f.name] for f in dataclasses.fields(Config)}


def build_config(
    *layers: Mapping[str, Mapping[str, Any]], assignments: Sequence[str] = (), recipe: str | None = None
) -> Config:
    """A Config from the defaults, a recipe, `section.key=value` assignments and more layers, the last one winning.

    Raises UsageError for an unknown section, key or value, with the nearest name.
    """
    tables = merged(load_recipe(recipe) if recipe else {}, parse_assignments(assignments), *layers)
    return Config(**{section: SECTIONS[section](**entries) for section, entries in tables.items()})


def merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of settings as one table, the last one winning, over the shape of the model's size; each value is of its
    setting's type. Raises UsageError for an unknown section or key, and for a value of another type."""
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    sizes = [part["model"]["size"] for part in layers if "size" in part.get("model", {})]
    size = _convert("model", "size", sizes[-1] if sizes else "small")
    preset = _size(size)
    for part in [{"model": preset}, *layers]:
        for section, entries in part.items():
            if section not in SECTIONS:
                raise unknown_choice("section", section, SECTIONS)
            # the shape that a recipe gives belongs to the size that it names, not to another one
            other = section == "model" and entries.get("size", size) != size
            for key, value in entries.items():
                if not (other and key in preset):
                    values[section][key] = _convert(section, key, value)
    return values


def _size(name: str) -> dict[str, Any]:
    _choice("model size", name, tuple(SIZES))
    return {"size": name, **SIZES[name]}


def parse_assignments(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["optim.learning_rate=1e-3"]` as nested tables."""
    tables: dict[str, dict[str, Any]] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise UsageError(
                f"--set takes section.key=value, not {text!r}", "for example --set model.layers=3"
            )
        tables.setdefault(section, {})[key] = value.strip()
    return tables


def _convert(section: str, key: str, value: Any) -> Any:
    """A TOML value or the text of an assignment as the field's own type."""
    hints = get_type_hints(SECTIONS[section])
    if key not in hints:
        raise unknown_choice(f"setting in [{section}]", key, hints)
    kind = hints[key]
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False}.get(value.lower(), value)
    if kind in (bool, str) or isinstance(value, bool):
        if type(value) is kind:
            return value
    else:
        try:
            if isinstance(value, str) or kind(value) == value:
                return kind(value)
        except (TypeError, ValueError, OverflowError):
            pass  # a list, a date, an infinity where a whole number is wanted
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
    raise UsageError(f"{section}.{key} is {wanted}, not {value!r}")


def recipe_names() -> list[str]:
    """The recipes in the package."""
    folder = resources.files("mathllm") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a recipe in the package, or of a TOML file anywhere."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"there is no recipe file {name}", f"the package has: {', '.join(recipe_names())}"
            )
        text = path.read_bytes()
    elif name in recipe_names():
        text = (resources.files("mathllm") / "recipes" / f"{name}.toml").read_bytes()
    else:
        raise unknown_choice("recipe", name, recipe_names())
    try:
        tables = tomllib.loads(text.decode())
    except ValueError as error:  # TOMLDecodeError is one, and so is UnicodeDecodeError
        raise UsageError(f"recipe {name} is not valid TOML: {error}") from error
    for section, entries in tables.items():
        if not isinstance(entries, dict):
            raise UsageError(
                f"recipe {name}: {section!r} stands outside a table", f"tables: {', '.join(SECTIONS)}"
            )
    return tables


def position_names(text: str) -> list[str]:
    """The schemes in `rope` or `coupled+rope`. Raises UsageError for an unknown one, and for two that want to be told
    different things of a token."""
    names = [name.strip() for name in text.split("+")]
    for name in names:
        _choice("position", name, POSITIONS)
    if len(set(names)) < len(names):
        raise UsageError(f"name each position scheme once, not {text!r}")
    told = {"abacus", "randomized"} & set(names)  # each something else, and no token can be told two things
    if len(told) > 1 or (told and any(name.startswith("coupled") for name in names)):
        raise UsageError(
            f"{text!r}: abacus counts digits in their number, the coupled schemes in their place, and randomized draws "
            "a number for each token"
        )
    return names


def _choice(kind: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise unknown_choice(kind, value, choices)


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UsageError(f"{name} must be at least {least:g}, not {value:g}")
    if math.isinf(value):
        raise UsageError(f"{name} must be finite")
