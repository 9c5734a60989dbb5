"""Makes docs/cli.md, docs/api.md and the README's table of combinations: `python docs/reference.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import mathllm
from mathllm.cli.main import COMMANDS, EPILOG
from mathllm.cli.options import SETTINGS
from mathllm.config import SECTIONS, Config, build_config
from mathllm.errors import MathLLMError
from mathllm.registry import OBJECTIVES, POSITIONS

ROOT = Path(__file__).parents[1]
MADE = "<!-- made by python docs/reference.py -->"
BEGIN, END = "<!-- combinations: made by python docs/reference.py -->", "<!-- end of combinations -->"
PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}

Cell = tuple[str, str, bool, str, str]  # task, format, padding, position, objective


# --- the command line ---


def cli_page() -> str:
    """Every command with its options, as Markdown."""
    parts = [
        MADE,
        "# The command line",
        EPILOG,
        "`-h` and `--help` explain a command. `mathllm --version` says which version this is, and "
        "`mathllm --traceback COMMAND` shows the Python traceback of an error. Results go to stdout, talk to stderr; "
        "exit code 0 is done, 1 a failure, 2 wrong usage, 3 a threshold that was missed, 130 Ctrl-C.",
    ]
    for name, function in COMMANDS.items():
        command = getattr(import_module(f"mathllm.cli.{name.replace('-', '_')}"), function)
        text, _, examples = inspect.getdoc(command).partition("\b\n")
        parts += [f"## mathllm {name}", text.strip()]
        if examples:
            parts.append(f"```text\n{examples.strip()}\n```")
        parts.append("\n".join(["| option | what | default |", "| --- | --- | --- |", *options_of(command)]))
    return "\n\n".join([*parts, *settings_part()]) + "\n"


def options_of(command: Callable[..., None]) -> Iterator[str]:
    """A row of the table for each option of a command."""
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not hasattr(parameter.annotation, "__metadata__"):
            continue  # the context
        kind, info = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
        if info.hidden:
            continue
        kinds = [part for part in get_args(kind) or (kind,) if part is not type(None)]
        typed = " ".join(
            filter(None, [name_of(parameter, info), info.metavar or PLACEHOLDERS.get(kinds[0], "")])
        )
        if type(info).__name__ == "ArgumentInfo":
            typed = f"{info.metavar or parameter.name.upper()}"
        help_text, _, default = (info.help or "").partition(" [dim]\\[default: ")
        if default:
            default = default.removesuffix("][/]")
        elif parameter.default is True:
            default = "yes"
        elif parameter.default not in (None, parameter.empty) and parameter.default is not False:
            default = str(parameter.default)
        yield f"| `{typed}` | {plain(help_text)} | {plain(default)} |"


def name_of(parameter: inspect.Parameter, info: Any) -> str:
    """What is typed for an option."""
    # an option in an annotation keeps its first name where its default would be
    names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    return names[0] if names else "--" + parameter.name.replace("_", "-")


def plain(text: str) -> str:
    """Text without rich's markup, for a cell of a table."""
    return re.sub(r"([|*])", r"\\\1", re.sub(r"\[/?[a-z]*\]", "", text))


def settings_part() -> Iterator[str]:
    """All that --set and recipes know, section by section."""
    yield "## Settings"
    yield "For `--set section.key=value` and for recipes, TOML files with a table for each section."
    flags: dict[tuple[str, str], list[str]] = {}
    for one in SETTINGS:
        flags.setdefault((one.section, one.key), []).append(f"`{one.option}`")
    for section, kind in SECTIONS.items():
        yield f"### {section}"
        yield " ".join(inspect.getdoc(kind).split())
        rows = ["| key | default | flag |", "| --- | --- | --- |"]
        for key, value in Config().to_dict()[section].items():
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            rows.append(f"| `{section}.{key}` | {shown} | {', '.join(flags.get((section, key), []))} |")
        yield "\n".join(rows)
    yield "### settings of a position or an objective"
    rows = ["| key | default | of |", "| --- | --- | --- |"]
    for section, names in (("model", POSITIONS), ("objective", OBJECTIVES)):
        owners: dict[tuple[str, Any], list[str]] = {}
        for name in names:
            for field in dataclasses.fields(owner(section, name).Settings):
                owners.setdefault((field.name, field.default), []).append(name)
        rows += [f"| `{section}.{key}` | {value} | {', '.join(of)} |" for (key, value), of in owners.items()]
    yield "\n".join(rows)


def owner(section: str, name: str) -> Any:
    """The class of a position or an objective."""
    from mathllm.registry import objective_class, position_class

    return position_class(name) if section == "model" else objective_class(name)


# --- Python ---


def api_page() -> str:
    """The public functions, and the classes that they give, as Markdown."""
    functions = [getattr(mathllm, name) for name in mathllm.__all__ if callable(getattr(mathllm, name))]
    parts = [
        MADE,
        "# The Python API",
        f"```python\n{inspect.getdoc(import_module('mathllm.api')).partition(chr(10))[2].strip()}\n```",
    ]
    for function in [*functions, build_config]:
        parts += entry(
            function, f"{'mathllm' if function in functions else function.__module__}.{function.__name__}"
        )
    found: list[type] = []
    for function in functions:
        gather(function, found)
    for kind in found:
        parts += class_part(kind)
    return "\n\n".join(parts) + "\n"


def entry(function: Callable[..., Any], name: str, heading: str = "##") -> list[str]:
    """A function with its signature and its docstring."""
    signature = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)  # annotations are texts
    return [
        f"{heading} {name}",
        f"```python\n{name.rpartition('.')[2]}{signature}\n```",
        inspect.getdoc(function) or "",
    ]


def gather(function: Callable[..., Any], found: list[type]) -> None:
    """Our own classes that a function gives, and those that their methods give."""
    try:
        given = get_type_hints(function).get("return")
    except NameError:  # a name for type checkers alone
        return
    for kind in (given, *get_args(given)):
        if inspect.isclass(kind) and kind.__module__.startswith("mathllm") and kind not in found:
            found.append(kind)
            for method in methods(kind):
                gather(method, found)


def methods(kind: type) -> list[Callable[..., Any]]:
    """The public methods of a class."""
    named = [one for name, one in vars(kind).items() if not name.startswith("_")]
    named = [one.__func__ if isinstance(one, (classmethod, staticmethod)) else one for one in named]
    return [one for one in named if inspect.isfunction(one)]


def class_part(kind: type) -> list[str]:
    """A class: its fields, properties and methods."""
    parts = [f"## {kind.__module__}.{kind.__name__}", inspect.getdoc(kind) or ""]
    if not dataclasses.is_dataclass(kind):
        parts[1:1] = entry(kind, kind.__name__)[1:2]
    rows = []
    if dataclasses.is_dataclass(kind):
        rows += [
            f"| `{field.name}` | `{field.type}` | |"
            for field in dataclasses.fields(kind)
            if field.name[0] != "_"
        ]
    for name, one in vars(kind).items():
        getter = (
            one.fget if isinstance(one, property) else one.func if isinstance(one, cached_property) else None
        )
        if getter is not None and not name.startswith("_"):
            about = " ".join((inspect.getdoc(getter) or "").split())
            rows.append(f"| `{name}` | `{inspect.get_annotations(getter).get('return', '')}` | {about} |")
    if rows:
        parts.append("\n".join(["| attribute | type | |", "| --- | --- | --- |", *rows]))
    for method in methods(kind):
        parts += entry(method, method.__name__, "###")
    return parts


# --- which choices go together ---


def cells() -> list[Cell]:
    """Every combination of the dials."""
    from mathllm.formats import FORMATS
    from mathllm.tasks import TASK_NAMES

    return list(product(TASK_NAMES, FORMATS, (False, True), POSITIONS, OBJECTIVES))


def is_allowed(cell: Cell) -> bool:
    """Does the judge let a combination through?"""
    from mathllm.resolve import resolve

    task, format, zero_pad, position, objective = cell
    try:
        resolve(
            build_config(
                {
                    "model": {"size": "nano", "position": position},
                    "data": {"task": task, "format": format, "zero_pad": zero_pad},
                    "objective": {"name": objective},
                }
            )
        )
    except MathLLMError:
        return False
    return True


def combinations(allowed: set[Cell]) -> str:
    """Two tables: the positions of each format and task, and the formats and tasks of each objective.

    What they cannot say, that an objective takes other positions than the first one, is an error.
    """
    every = cells()
    tasks, formats, _, positions, objectives = (
        list(dict.fromkeys(column)) for column in zip(*every, strict=True)
    )
    first = objectives[0]
    groups = alike(
        positions, lambda position: {(t, f, p) for t, f, p, s, o in allowed if s == position and o == first}
    )
    letters = {group: chr(ord("A") + index) for index, group in enumerate(groups)}
    lines = ["", f"| format | {' | '.join(tasks)} |", "| --- " * (len(tasks) + 1) + "|"]
    for format in formats:
        row = []
        for task in tasks:
            plain_text, padded = (
                [
                    letter
                    for group, letter in letters.items()
                    if (task, format, pad, group[0], first) in allowed
                ]
                for pad in (False, True)
            )
            row.append(said(plain_text, padded, list(letters.values())))
        lines.append(f"| `{format}` | {' | '.join(row)} |")
    lines += ["", *(f"- {letter}: {quoted(group)}" for group, letter in letters.items()), ""]
    lines.append(
        f"With `{first}`; the letters are positions, and *padded* means `--zero-pad`. "
        + " ".join(of_objective(allowed, objective, first) for objective in objectives[1:])
    )
    count = f"{len(allowed):,} of {len(every):,} combinations go together; every other one is refused with a reason."
    return "\n".join([BEGIN, *lines, "", count, "", END])


def of_objective(allowed: set[Cell], objective: str, first: str) -> str:
    """Which tasks and formats an objective takes."""
    own = {cell[:4] for cell in allowed if cell[4] == objective}
    pairs = {cell[:3] for cell in own}
    assert own == {cell[:4] for cell in allowed if cell[4] == first and cell[:3] in pairs}
    if own == {cell[:4] for cell in allowed if cell[4] == first}:
        return f"`{objective}` takes all of these."
    by_format = {format: sorted({t for t, f, _ in pairs if f == format}) for _, format, _ in sorted(pairs)}
    texts = [f"`{format}` ({', '.join(tasks)})" for format, tasks in by_format.items()]
    return f"`{objective}` takes {', '.join(texts)}."


def alike(names: Iterable[str], key: Callable[[str], Any]) -> list[tuple[str, ...]]:
    """Names in groups of one key."""
    found: dict[frozenset[Any], list[str]] = {}
    for name in names:
        found.setdefault(frozenset(key(name)), []).append(name)
    return [tuple(group) for group in found.values()]


def said(unpadded: list[str], padded: list[str], every: list[str]) -> str:
    """A cell of the table: `all`, `A B`, `A; padded all`, `A, not padded`, or a dash."""
    one, other = (("all" if letters == every else " ".join(letters)) for letters in (unpadded, padded))
    if one == other:
        return one or "–"
    if not other:
        return f"{one}, not padded"
    return "; ".join(filter(None, [one, f"padded {other}"]))


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def insert(readme: str, text: str) -> str:
    """The README with its old table replaced."""
    before, _, rest = readme.partition(BEGIN)
    return before + text + rest.partition(END)[2]


def pages() -> dict[Path, str]:
    """What is made, by file."""
    readme = ROOT / "README.md"
    made = {ROOT / "docs" / "cli.md": cli_page(), ROOT / "docs" / "api.md": api_page()}
    if BEGIN in (text := readme.read_text(encoding="utf-8")):
        made[readme] = insert(text, combinations({cell for cell in cells() if is_allowed(cell)}))
    return made


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
