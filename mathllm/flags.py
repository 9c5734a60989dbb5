"""How a setting is given: as a flag, which is said once, where the setting itself stands, or as section.key=value.

The commands make their options of it (see `mathllm.cli.options`); standard library only, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar, get_type_hints

from mathllm.errors import UsageError

T = TypeVar("T")

# the panels of --help: one for most sections, in their order, and others for some settings
MODEL, PROBLEMS, THOUGHTS, OPTIMIZATION = "Model", "Problems", "Thoughts", "Optimization"
TEXT, OUTPUT, MACHINE = "Text", "Output", "Machine"
PANELS = {
    "model": MODEL,
    "data": PROBLEMS,
    "objective": THOUGHTS,
    "optim": OPTIMIZATION,
    "train": OPTIMIZATION,
}


@dataclass(frozen=True)
class Flag:
    """An option for a setting: its help, and the panel of --help that it stands in, where that is not its section's.

    Without a `name` it is called as the setting is. `--this/--that` is a switch, and `values` says what it sets where
    that is not true or false. `shown` is what --help says happens without the option, where it is not the value of
    the setting. `kind` is the type of what is typed, where that is not the setting's own. `implies` are settings
    beside it that it switches on (1) or off (0) unless they are given, too.
    """

    help: str
    panel: str = ""
    name: str = ""
    shown: str = ""
    values: Mapping[bool, Any] | None = None
    kind: type | None = None
    implies: tuple[str, ...] = ()


class Setting(NamedTuple):
    """A setting, section.key, with one of its flags."""

    section: str
    key: str
    kind: type
    default: Any
    flag: Flag

    @property
    def option(self) -> str:
        """What is typed: `--name` or `--name/--no-name`."""
        name = self.flag.name or "--" + self.key.replace("_", "-")
        return f"{name}/--no-{name[2:]}" if self.kind is bool and "/" not in name else name

    @property
    def parameter(self) -> str:
        """The option as a name in Python."""
        return self.option.split("/")[0][2:].replace("-", "_")


def setting(default: T, help_text: str, panel: str = "", *also: Flag, **more: Any) -> T:
    """A field of a configuration with a default and a flag, see there; `also` are others for the same setting."""
    return field(default=default, metadata={"flags": (Flag(help_text, panel, **more), *also)})


def settings_of(section: str, config: type) -> list[Setting]:
    """The settings of a configuration's class that have flags, in their order; one for each flag."""
    kinds = get_type_hints(config)
    return [
        Setting(
            section,
            one.name,
            kinds[one.name],
            one.default,
            replace(flag, panel=flag.panel or PANELS[section]),
        )
        for one in fields(config)
        for flag in one.metadata.get("flags", ())
    ]


def parse_assignments(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["optim.learning_rate=1e-3"]` as nested tables."""
    tables: dict[str, dict[str, Any]] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            hint = "for example --set model.layers=3; docs/cli.md has all of them"
            raise UsageError(f"--set takes section.key=value, not {text!r}", hint)
        tables.setdefault(section, {})[key] = value.strip()
    return tables


def converted(name: str, value: Any, kind: Any) -> Any:
    """A TOML value, or the text of an assignment, as the type of the setting of that name. Raises UsageError."""
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
    raise UsageError(f"{name} is {wanted}, not {value!r}")


def listed(names: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *most, end = names
    return f"{', '.join(most)} {last} {end}" if most else end
