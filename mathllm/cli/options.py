"""The options that several commands take, each declared once; those for settings come from the settings' own flags."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from mathllm.config import SECTIONS, ObjectiveConfig
from mathllm.errors import UsageError, remark
from mathllm.flags import MACHINE, MODEL, OUTPUT, PROBLEMS, Setting, settings_of
from mathllm.registry import objective_settings

SAMPLING, MORE = "Sampling", "All other settings (a recipe gives way to --set, and both to a flag)"
# all that have flags, section by section
SETTINGS = [
    one
    for section, config in SECTIONS.items()
    for one in settings_of(section, config)
    + (objective_settings(ObjectiveConfig.name) if section == "objective" else [])
]

_TRAINING = {one.key: one.flag for one in SETTINGS if one.section == "train"}

# so few columns that rich's tables would cut the names of options


def _columns() -> int:
    """The width of the terminal, if only one of the streams is one: a pipe behind --help is read there, too."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    for stream in (0, 1, 2):
        with suppress(OSError):
            return os.get_terminal_size(stream).columns
    return 80


NARROW = _columns() < 60

Command = TypeVar("Command", bound=Callable[..., None])


def option(help_text: str, panel: str, *names: str, default: str = "", **more: Any) -> Any:
    """An option; `default` is what the help says of it, where the value of the parameter does not say it."""
    said = f"[default: {default}]" if NARROW else f"[dim]\\[default: {default}][/]"
    shown = f"{help_text} {said}" if default else help_text
    return typer.Option(*names, help=shown, rich_help_panel=panel, show_default=not default, **more)


def number(help_text: str, panel: str, least: int = 1) -> Any:
    """An option for a whole number."""
    return option(help_text, panel, metavar="N", min=least)


def path(text: str | Path) -> Path:
    """What is typed for a place: to `Path`, an empty text (of a variable that is not set) is the current directory."""
    if not str(text):
        raise typer.BadParameter("an empty text names no place")
    return Path(text)


_PLACE = {"parser": path, "metavar": "PATH"}


def given(context: typer.Context, name: str) -> bool:
    """Was an option typed?"""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def option_of(key: str, **more: Any) -> Any:
    """The option of a setting of training, for another command that has it, too."""
    if _TRAINING[key].kind is Path:
        more |= _PLACE
    return option(_TRAINING[key].help, _TRAINING[key].panel, **more)


def _seed(value: int) -> int:
    if value < 0:
        raise UsageError(f"the seed must be at least 0, not {value}")
    return value


_CHECKPOINT = "A checkpoint, its model.safetensors, or the run that holds it."
_TAKEN = "the one trained on, else data, else new problems"
_NAMED = {"parser": lambda text: str(path(text)), "metavar": "PATH"}
_NEWEST = "the newest under checkpoints/, else one that ships"
Checkpoint = Annotated[str | None, option(_CHECKPOINT, MODEL, default=_NEWEST, **_NAMED)]
_MADE = "Directory that mathllm gen-data made."
DataDir = Annotated[Path | None, option(_MADE, PROBLEMS, default=_TAKEN, **_PLACE)]
_LINES = "A file of problems: JSONL, CSV, or one 12+34=46 a line."
DataPath = Annotated[Path | None, option(_LINES, PROBLEMS, **_PLACE)]
_UNITS_FIRST = (
    "The numbers of that file are written units first: 4 3 2 1 * 8 7 6 5 = 2 5 6 6 0 0 7, with or without blanks; "
    "an answer may also stand behind || and ####, as in the files of arXiv:2405.14838."
)
ReversedDigits = Annotated[bool, option(_UNITS_FIRST, PROBLEMS, "--reversed-digits")]
BatchSize = Annotated[int, number(_TRAINING["batch_size"].help, MACHINE)]
Device = Annotated[str, option_of("device")]
ALL_PAIRS = number("All pairs of operands from 0 to N.", PROBLEMS, 0)
Seed = Annotated[int, option_of("seed", callback=_seed)]
Json = Annotated[bool, option("Print the result as JSON.", OUTPUT, "--json")]
OutputDir = Annotated[Path, option_of("output_dir")]
OutputFile = Annotated[Path | None, option("Write the result to a JSON file, too.", OUTPUT)]
Overwrite = Annotated[bool, option("Replace what is there.", OUTPUT, "--overwrite")]
_DRAWN = "Draw the result into a .png, .svg or .pdf (needs the extra plots)."
Plot = Annotated[Path | None, option(_DRAWN, OUTPUT)]
_ANY = "Any setting, as in model.layers=3; repeatable. docs/cli.md has all of them."
Set = Annotated[
    list[str] | None,
    option(_ANY, MORE, "--set", metavar="SECTION.KEY=VALUE"),
]
Temperature = Annotated[float, option("0 always takes the likeliest token.", SAMPLING)]
TopK = Annotated[int, option("Only the k likeliest tokens; 0: all.", SAMPLING)]
TopP = Annotated[float, option("Only the likeliest tokens of this mass; 1: all.", SAMPLING)]


def with_flags(settings: Iterable[Setting], optional: bool) -> Callable[[Command], Command]:
    """Gives a command the options of these settings in place of its `**settings`.

    `optional` ones are None unless they are given, so that something else can decide, a recipe for example.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        made = [_parameter(one, optional) for one in settings]
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        # where typer looks for a command's parameters; it gives all of them by name
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*made, *(one.replace(kind=one.KEYWORD_ONLY) for one in own)]
        )
        return command

    return decorate


def not_needed(**reasons: str) -> Callable[[Command], Command]:
    """Lets a command take options that have nothing left to do: each says on stderr that it is not needed any more,
    and why. They are not in --help, and the command is not told of them."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def without(*positional: Any, **named: Any) -> None:
            for name, why in reasons.items():
                if named.pop(name, None) is not None:
                    option_name = "--" + name.replace("_", "-")
                    remark(f"{option_name} is not needed any more: {why}")
            command(*positional, **named)

        signature, kind = inspect.signature(command, eval_str=True), inspect.Parameter.KEYWORD_ONLY
        taken: Any = Annotated[str | None, typer.Option(hidden=True)]
        made = [inspect.Parameter(name, kind, default=None, annotation=taken) for name in reasons]
        without.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), *made]
        )
        return cast(Command, without)

    return decorate


def _parameter(one: Setting, optional: bool) -> inspect.Parameter:
    flag, value = one.flag, one.default
    default = flag.shown if optional or value in (0, "") else ""
    if not default:
        default = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    more = _PLACE if flag.kind is Path else {}
    # a switch may set what is no bool
    kind: Any = flag.kind or (bool if flag.values else one.kind)
    return inspect.Parameter(
        one.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if optional else value,
        annotation=Annotated[
            kind | None if optional else kind,
            option(flag.help, flag.panel, one.option, default=default, **more),
        ],
    )


def tables_of(given: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The settings that options say, and those that they imply: tables for `build_config`.

    Raises UsageError for two options that say different things of one setting.
    """
    said: dict[tuple[str, str], tuple[Any, str]] = {}
    implied: dict[str, dict[str, Any]] = {}
    for one in SETTINGS:
        value = given.get(one.parameter)
        if one.flag.values is not None and value is not None:
            value = one.flag.values.get(value)
        if value is None:
            continue
        name, place = one.option.split("/")[0], (one.section, one.key)
        value = one.kind(value)
        if place in said and said[place][0] != value:
            raise UsageError(f"{said[place][1]} and {name} exclude each other", "leave out one of them")
        said[place] = value, name
        for key in one.flag.implies:
            implied.setdefault(one.section, {})[key] = int(value > 0)
    tables: dict[str, dict[str, Any]] = {}
    for (section, key), (value, _) in said.items():
        tables.setdefault(section, {})[key] = value
    return tables, implied
