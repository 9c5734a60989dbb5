"""Options: the same one looks alike in every command, those of settings set them, and a command is one file."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from mathllm.cli.main import COMMANDS, RENAMED, app
from mathllm.cli.options import SETTINGS, not_needed, tables_of
from mathllm.cli.output import Output
from mathllm.config import SECTIONS, build_config, recipe_names
from mathllm.errors import UsageError
from mathllm.flags import Flag, Setting, listed, setting
from mathllm.formats import FORMATS
from mathllm.registry import FORMATS as SAID_FORMATS
from mathllm.registry import OBJECTIVES, Choice, described, objective_class
from mathllm.registry import SAMPLINGS as SAID_SAMPLINGS
from mathllm.registry import TASKS as SAID_TASKS
from mathllm.tasks import SAMPLINGS, TASK_NAMES

# options of one name that are different things: a study's variants and a benchmark's sections, the first problems of a
# file and some that are drawn; and where a benchmark takes several: one recipe, one size
DIFFERENT = {"only", "max-examples", "num-examples", "recipe", "model-size"}


def options() -> dict[str, dict[str, tuple[Any, str]]]:
    """Of every option by name the type and the help in each command that has it."""
    found: dict[str, dict[str, tuple[Any, str]]] = {}
    for name, function in COMMANDS.items():
        command = getattr(import_module(f"mathllm.cli.{name.replace('-', '_')}"), function)
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if hasattr(parameter.annotation, "__metadata__"):
                kind, info = get_args(parameter.annotation)[:2]
                if info.hidden:
                    continue
                kinds = [part for part in get_args(kind) or (kind,) if part is not type(None)]
                words = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
                called = words[0] if words else "--" + parameter.name.replace("_", "-")
                about = str(info.help).partition(" [dim]")[0]
                found.setdefault(called.split("/")[0][2:], {})[name] = (tuple(kinds), about)
    return found


def test_an_option_is_the_same_thing_in_every_command() -> None:
    found = options()
    assert {"checkpoint", "device", "json", "seed", "plot", "output-file", "batch-size", "task"} <= set(found)
    assert len(found["device"]) >= 6
    for name, commands in found.items():
        if name not in DIFFERENT:
            assert len(set(commands.values())) == 1, f"--{name}: {commands}"


def test_an_empty_text_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in options()["checkpoint"]:
        ended = CliRunner().invoke(app, [command, "--checkpoint", ""])
        assert ended.exit_code == 2
        assert "an empty text names no place" in ended.stderr, command
    ended = CliRunner().invoke(app, ["eval", "--data-path", ""])
    assert "an empty text names no place" in ended.stderr


def test_help_is_made_of_sentences() -> None:
    for name, commands in options().items():
        for _, about in commands.values():
            assert about.endswith("."), f"--{name}: {about}"


def test_wherever_there_is_a_result_there_is_json() -> None:
    with_json = set(options()["json"])
    assert with_json == set(COMMANDS) - {"demo", "chat", "serve"}, "these have no result, or one for people"


def test_help_names_what_can_be_chosen() -> None:
    assert tuple(SAID_TASKS) == tuple(TASK_NAMES)
    assert tuple(SAID_FORMATS) == tuple(FORMATS)
    assert tuple(SAID_SAMPLINGS) == tuple(SAMPLINGS)


def test_the_flags_of_an_objective_are_settings_of_its_class() -> None:
    for name, entry in OBJECTIVES.items():
        defaults = vars(objective_class(name).Settings())
        for one in entry.settings:
            assert defaults[one.key] == one.default
            assert type(defaults[one.key]) is one.kind
            assert set(one.flag.implies) <= set(defaults)


def test_no_two_options_of_training_have_one_name() -> None:
    names = [one.parameter for one in SETTINGS]
    assert len(set(names)) == len(names)
    assert {one.section for one in SETTINGS} == set(SECTIONS)


def test_what_is_given_becomes_tables() -> None:
    nothing = {one.parameter: None for one in SETTINGS}
    assert tables_of(nothing) == ({}, {})
    given = {"model_size": "nano", "signed": False, "output_dir": Path("a/b"), "wandb": False, "fp16": True}
    tables, implied = tables_of({**nothing, **given})
    assert tables == {
        "model": {"size": "nano"},
        "data": {"signed": False},
        "train": {"output_dir": "a/b", "wandb": "off", "precision": "fp16"},
    }
    assert implied == {}
    build_config(tables)
    assert tables_of({**nothing, "thought_warmup": 5})[1] == {"objective": {"supervised": 1}}
    assert tables_of({**nothing, "thought_warmup": 0})[1] == {"objective": {"supervised": 0}}
    assert tables_of({**nothing, "use_gumbel": True, "objective": "gumbel"})[0] == {
        "objective": {"name": "gumbel"}
    }
    for two in ({"fp16": True, "precision": "bf16"}, {"use_gumbel": False, "objective": "gumbel"}):
        with pytest.raises(UsageError, match="exclude each other"):
            tables_of({**nothing, **two})


def test_names_of_flags() -> None:
    plain = Setting("data", "max_digits", int, 3, Flag("", ""))
    switch = Setting("data", "zero_pad", bool, False, Flag("", ""))
    named = Setting("model", "size", str, "small", Flag("", "", "--model-size"))
    assert [one.option for one in (plain, switch, named)] == [
        "--max-digits",
        "--zero-pad/--no-zero-pad",
        "--model-size",
    ]
    assert [one.parameter for one in (plain, switch, named)] == ["max_digits", "zero_pad", "model_size"]
    assert setting(3, "words").metadata["flags"] == (Flag("words"),)  # type: ignore[attr-defined]
    assert (listed(["a"]), listed(["a", "b"]), listed("abc")) == ("a", "a or b", "a, b or c")
    assert described({"a": Choice("", "first"), "b": Choice("")}) == "a (first), b"


def test_what_is_not_needed_any_more_is_taken_and_said() -> None:
    app = typer.Typer()

    @app.command()
    @not_needed(old_thing="the rest knows it")
    def command(*, new_thing: int = 1) -> None:
        print("new", new_thing)

    for arguments in ([], ["--old-thing", "3"], ["--new-thing", "2", "--old-thing=x"]):
        result = CliRunner().invoke(app, arguments)
        assert result.stdout == f"new {2 if len(arguments) == 3 else 1}\n"
        said = "note: --old-thing is not needed any more: the rest knows it\n"
        assert result.stderr == (said if arguments else "")
    assert "old-thing" not in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [(command, *pair) for command, names in RENAMED.items() for pair in names.items()],
)
def test_names_of_old_are_taken_and_not_shown(command: str, old: str, new: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).stdout
    assert f"--{new} " in shown
    assert f"--{old} " not in shown
    # a value that is refused by the option that it reaches
    ended = [CliRunner().invoke(app, [command, f"--{name}", "-7"]) for name in (old, new)]
    assert ended[0].exit_code != 0
    assert (ended[0].stderr, repr(ended[0].exception)) == (ended[1].stderr, repr(ended[1].exception))


def test_recipes_are_named_where_they_are_asked_for() -> None:
    for command in ("train", "bench"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        assert all(name in shown for name in recipe_names())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"mathllm {name}" in result.stdout, "an example"


def test_help_cuts_no_name_where_there_is_little_room() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "mathllm", "train", "--help"],
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for one in SETTINGS:
        assert one.option.split("/")[0] in shown
    assert "…" not in shown
    assert "[dim]" not in shown


def test_help_of_train_does_without_numpy() -> None:
    code = (
        "import sys; from mathllm.cli.main import main\n"
        "try: main()\nfinally: assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "train", "--help"], capture_output=True, check=True)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    for wrong, words in (
        ({"file": tmp_path / "no" / "x.json"}, "there is no directory"),
        ({"file": tmp_path}, "is a directory"),
        ({"file": tmp_path / "a", "more": (None, tmp_path / "a")}, "two outputs have the same file"),
        ({"plot": tmp_path / "a.txt"}, "no picture"),
    ):
        with pytest.raises(UsageError, match=words):
            Output(**wrong)


def test_a_result_is_text_or_json_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        output = Output(as_json, tmp_path / "x.json")
        output.give({"n": 3}, lambda console: console.print("three"))
        said = capsys.readouterr().out
        assert said == '{\n  "n": 3\n}\n' if as_json else said == "three\n"
        assert json.loads((tmp_path / "x.json").read_text()) == {"n": 3}
