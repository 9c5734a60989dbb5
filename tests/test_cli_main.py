"""What every command has in common: the encoding of the terminal, help, completion."""

import sys
from pathlib import Path

import pytest
from runs import Child, command_line
from shipped import ADDSUB
from typer.testing import CliRunner

from mathllm.cli.main import app
from mathllm.training.state import LOG, note


def in_ascii(*arguments: str) -> None:
    """A command on a terminal that knows nothing else."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")
    command_line(*arguments)


@pytest.mark.parametrize("arguments", [("eval", "--grid", "4", "--per-cell", "1"), ("solve", "１+x")])
def test_where_there_is_only_ascii_no_text_is_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    child = Child(in_ascii, arguments[0], "--checkpoint", str(ADDSUB), *arguments[1:], files=tmp_path)
    assert child.wait() == (1 if arguments[0] == "solve" else 0), child.err
    assert "-+-" in child.out or "error: character 'x' at position 3" in child.err
    assert "Traceback" not in child.err


def test_the_log_has_names_that_are_no_text(tmp_path: Path) -> None:
    note(tmp_path, "r\udcc3\udcbcn")  # as Python reads an argument in such a terminal
    assert (tmp_path / LOG).read_text(encoding="utf-8").endswith(" rün\n")


def test_help_is_a_command_too() -> None:
    runner = CliRunner()
    for name in ("solve", "gen-data"):
        shown = runner.invoke(app, ["help", name]).stdout
        assert shown.replace(" mathllm ", " root ") == runner.invoke(app, [name, "--help"]).stdout.replace(
            " mathllm ", " root "
        )
    assert "doctor" in runner.invoke(app, ["help"]).stdout
    assert runner.invoke(app, ["help", "slove"]).exit_code == 2


def test_shells_can_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1"
    )  # there may be no shell above a test
    assert (
        "_MATHLLM_COMPLETE"
        in CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="mathllm").stdout
    )
