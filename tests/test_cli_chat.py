"""`mathllm chat`: line by line through a pipe, and on a terminal, with a history."""

import io
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trained import alone, parrot, trained_checkpoint
from typer.testing import CliRunner

from mathllm.chat import Chat, answer_lines
from mathllm.checkpoint import load_checkpoint
from mathllm.cli.chat import history_path, line_reader
from mathllm.cli.main import app
from mathllm.errors import DataError, UsageError
from mathllm.math_model import MathModel
from mathllm.models import find_models
from mathllm.working import make_console


@pytest.fixture
def model() -> MathModel:
    return load_checkpoint(trained_checkpoint(task="addition,subtraction"))


class TestWithoutTerminal:
    def run(self, model: MathModel, text: str) -> tuple[str, bool]:
        out = io.StringIO()
        good = answer_lines(Chat(alone(model), make_console(sys.stderr), input), io.StringIO(text), out)
        return out.getvalue(), good

    def test_lines_in_answers_out(self, model, capsys):
        assert self.run(model, "8+9\n9-4=\n1+1") == ("17\n5\n2\n", True)
        captured = capsys.readouterr()
        assert captured.out + captured.err == ""

    def test_a_bad_line_gives_an_empty_one_and_an_error(self, model, capsys):
        assert self.run(model, "8+9\n\n1++2\r\n" + "1" * 50 + "+1\n2+2\n") == ("17\n\n\n\n4\n", False)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "error: line 3: a number was expected here\n  1++2\n    ^\n" in captured.err
        assert "error: line 4: the problem alone takes" in captured.err
        assert "line 2" not in captured.err

    def test_an_unfinished_line_gives_the_equation(self, model, capsys):
        out, good = self.run(model, "7+\n")
        assert good
        assert re.fullmatch(r"7\+\d=\d+\n", out)
        assert "note: line 1: the model chose 7+" in capsys.readouterr().err

    def test_wrong_answers_are_told(self, capsys):
        assert self.run(parrot("45<end>", format="plain"), "1+1\n") == ("45\n", True)
        assert capsys.readouterr().err == "note: line 1: 1+1 is 2, but the model says 45\n"
        assert self.run(parrot("+<end>", format="plain"), "1+1\n") == ("\n", True)
        assert "but the model wrote no number" in capsys.readouterr().err
        assert self.run(parrot("4", max_length=9, format="plain"), "1+1\n") == ("\n", True)
        assert "but the model came to no end" in capsys.readouterr().err

    def test_commands_work_but_print_no_answers(self, model, capsys):
        assert self.run(model, "/temperature 0\n8+9\nquit\n1+1\n") == ("17\n", True)
        assert "temperature 0" in capsys.readouterr().err
        assert self.run(model, "/nonsense\n8+9\n") == ("17\n", False)
        assert "error: line 1: unknown command '/nonsense'" in capsys.readouterr().err

    def test_stated_answers_and_lines_that_are_too_long(self, model, capsys):
        lines = ["8+9=18", DataError("a line of more than 1 MiB"), "1+1", "quit now", "2+2"]
        out = io.StringIO()
        assert not answer_lines(Chat(alone(model), make_console(sys.stderr), input), lines, out)
        assert out.getvalue() == "17\n\n2\n\n4\n"
        said = capsys.readouterr().err
        assert "note: line 1: 8+9=18 is not true: it is 17\n" in said
        assert "error: line 2: a line of more than 1 MiB\n" in said
        assert "error: line 4: character 'q'" in said

    def test_each_model_is_introduced_once(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trained_checkpoint(), "checkpoints/adder")
        out = io.StringIO()
        chat = Chat(find_models(), make_console(sys.stderr), input)
        assert answer_lines(chat, ["8+9", "9-4", "1+1", "8-3", "7+7="], out)
        assert out.getvalue() == "17\n5\n2\n5\n14\n"
        never = "checkpoints/adder never saw a problem of subtraction"
        said = capsys.readouterr().err.splitlines()
        assert said == ["note: checkpoints/adder answers", f"note: arithmetic answers: {never}"]

    def test_the_options_of_old(self):
        where = ["--checkpoint", str(trained_checkpoint()), "--model-size", "small"]
        result = CliRunner().invoke(app, ["chat", *where, "--max-new-tokens", "3"], input="8+9\n")
        assert result.stdout == "\n"
        assert "note: --model-size is not needed any more: the checkpoint knows it\n" in result.stderr
        assert "note: line 1: 8+9 is 17, but the model came to no end\n" in result.stderr
        wrong = CliRunner().invoke(app, ["chat", *where, "--seed", "-1"])
        assert isinstance(wrong.exception, UsageError)


def test_history_is_private_and_outlives_the_session(tmp_path, monkeypatch):
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "state" / "mathllm" / "history"
    assert history_path() == path
    monkeypatch.setattr("builtins.input", lambda prompt: readline.add_history("1+1") or "1+1")
    assert line_reader()("> ") == "1+1"
    assert "1+1" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    readline.clear_history()
    line_reader()
    assert readline.get_history_item(1) == "1+1"
    readline.clear_history()


def test_history_does_without_a_place(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("builtins.input", lambda prompt: "1+1")
    assert line_reader()("> ") == "1+1"
    monkeypatch.setitem(sys.modules, "readline", None)  # as where Python was built without it
    assert line_reader()("> ") == "1+1"


def test_the_history_has_a_place_without_xdg(monkeypatch):
    for state in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert history_path() == Path.home() / ".local/state/mathllm/history"


@pytest.mark.slow
def test_on_a_real_terminal(tmp_path):
    """The command under a pseudo terminal: prompt, answer, Ctrl-C, history, Ctrl-D."""
    code = "import typer; from mathllm.cli.chat import chat; typer.run(chat)"
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "80"}
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background are told to ignore it
        arguments = [sys.executable, "-c", code, "--checkpoint", str(trained_checkpoint()), "--device", "cpu"]
        os.execve(sys.executable, arguments, environment)
    shown, seen = b"", 0

    def wait_for(text: bytes) -> None:
        """Reads on until this text comes, after what was waited for before."""
        nonlocal shown, seen
        deadline = time.monotonic() + 100
        while text not in shown[seen:]:
            if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"no {text!r} in {shown[seen:]!r} after {shown[:seen]!r}")
            shown += os.read(terminal, 4096)
        seen = shown.index(text, seen) + len(text)

    wait_for(b"> ")
    for keys in (b"8+9\r", b"\x10\r"):  # Ctrl-P is the line before
        os.write(terminal, keys)
        wait_for(b"confidence")
        wait_for(b"> ")
        time.sleep(1)  # until readline waits for a key: Python notices an earlier Ctrl-C only after a line
        os.write(terminal, b"\x03")
        wait_for(b"> ")
    os.write(terminal, b"\x04")  # Ctrl-D
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"8+9 = 17" in re.sub(rb"\x1b\[[0-9;]*m", b"", shown)
    assert b"Traceback" not in shown
    assert (tmp_path / "mathllm" / "history").read_text().split() == ["8+9"]


def test_the_commands_load_neither_torch_nor_numpy():
    code = (
        "import sys, mathllm.cli.chat, mathllm.cli.solve; sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
