"""`mathllm solve`: expressions in, answers or clear errors out."""

import io
import json
import os
import select
import shutil
import threading
from pathlib import Path

import pytest
import typer
from trained import trained_checkpoint
from typer.testing import CliRunner

from mathllm.cli.main import app
from mathllm.cli.solve import SHOWN, joined
from mathllm.cli.solve import solve as solve_command
from mathllm.errors import CheckpointError, UsageError

ADDITIONS = [f"{a}+{b}" for a in range(10) for b in range(10)]


def run(*arguments: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, ["solve", *arguments], input=stdin)


class TestCommand:
    """With a model that was named."""

    def run(self, *arguments: str, stdin: str | bytes | None = None, checkpoint: str | None = None):
        where = checkpoint or str(trained_checkpoint(task="addition,subtraction"))
        return run("--checkpoint", where, *arguments, stdin=stdin)

    def test_just_the_answer(self):
        result = self.run("8+9")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "17\n", "")

    def test_several(self):
        assert self.run("8+9", "9-4", "1+1=").stdout == "17\n5\n2\n"

    def test_json_is_one_document(self):
        result = self.run("--json", "8+9")
        document = json.loads(result.stdout)
        confidence = document.pop("confidence")
        assert 0.9 < confidence < 1
        assert document == {
            "expression": "8+9",
            "answer": "17",
            "expected": "17",
            "correct": True,
            "steps": ["8+9=17"],
            "text": "8+9=<think>8+9=17</think>17<end>",
            "reason": "end",
            "unseen": [],
            "checkpoint": str(trained_checkpoint(task="addition,subtraction")),
        }

    @pytest.mark.parametrize("arguments", [[], ["-"]])
    def test_one_expression_a_line(self, arguments):
        result = self.run(*arguments, stdin="8+9\n\n9-4=\r\n 1 + 1")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "17\n\n5\n2\n", "")

    def test_bad_lines_keep_their_place(self):
        result = self.run(stdin="8+9\n1++2\nx\n" + "1" * 60 + "+1\n2+2\n")
        assert result.exit_code == 1
        assert result.stdout == "17\n\n\n\n4\n"
        assert "error: line 2: a number was expected here\n  1++2\n    ^\n" in result.stderr
        assert "error: line 3: character 'x' at position 1" in result.stderr
        assert "error: line 4: the problem alone takes" in result.stderr

    def test_json_lines(self):
        result = self.run("--json", stdin="8+9\n\n1++2\n2+2\n")
        first, bad, last = map(json.loads, result.stdout.splitlines())
        assert (first["answer"], last["answer"]) == ("17", "4")
        assert bad == {"expression": "1++2", "error": "a number was expected here", "position": 2}
        assert result.exit_code == 1

    def test_bytes_that_are_no_text(self):
        result = self.run(stdin=b"\xff\xfe+1\n1+1\n\0\n")
        assert (result.exit_code, result.stdout) == (1, "\n2\n\n")

    def test_more_lines_than_a_batch(self, monkeypatch):
        monkeypatch.setattr("mathllm.cli.lines.BATCH", 7)
        result = self.run(stdin="\n".join(["x", *ADDITIONS]))
        assert result.stdout.split("\n")[1:-1] == [str(eval(text)) for text in ADDITIONS]

    def test_no_lines(self):
        result = self.run(stdin="")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")

    def test_a_wrong_answer_is_told_but_no_failure(self):
        result = self.run("12+34")
        assert result.exit_code == 0
        assert result.stdout.strip() != "46"
        assert "note: 12+34 is 46, but the model" in result.stderr

    def test_many_wrong_answers_are_counted(self):
        result = self.run(stdin="".join(f"{n}+1\n" for n in range(50, 90)))
        assert result.stderr.count("but the model") == SHOWN
        assert f"40 of 40 answers are wrong; the first {SHOWN} are above" in result.stderr

    @pytest.mark.parametrize(
        "text", ["1++2", "", " ", "=", "7+", "٣+٤", "1,000+1", "9" * 10_000 + "+1", "2x3"]
    )
    def test_what_cannot_be_read(self, text):
        result = self.run(text)
        assert result.exit_code == 1
        assert result.stdout == "\n"
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr

    def test_an_argument_that_looks_like_an_option(self):
        for arguments in (["-1+2"], ["--", "-1+2"]):
            result = self.run(*arguments)
            assert result.exit_code == 1
            below = "only factors and results may be below zero"
            assert f"error: a number was expected here: {below}\n  -1+2\n  ^\n" in result.stderr
        wrong = self.run("8+9", "--jsn").exception
        assert isinstance(wrong, UsageError)
        assert wrong.hint == "did you mean '--json'?"

    def test_a_checkpoint_that_is_missing(self):
        result = self.run("1+1", checkpoint="/no/such/place")
        assert isinstance(result.exception, CheckpointError)

    def test_a_device_that_is_none(self):
        assert isinstance(self.run("1+1", "--device", "abacus").exception, UsageError)


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_worked_solution(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", shown := Tty())
    solve_command(["8+9", "12+3"], str(trained_checkpoint(task="addition,subtraction")))
    first, second, *_ = shown.getvalue().splitlines()
    assert first == "  8+9=17"
    assert second.startswith("  8+9 = 17  ✓  confidence 9")
    assert "✗ it is 15" in shown.getvalue()
    assert capsys.readouterr().err == "note: in training this model never saw a number of more than 1 digit\n"


def test_a_terminal_gets_errors_and_what_can_be_solved(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", shown := Tty())
    with pytest.raises(typer.Exit) as left:
        solve_command(["1++1", "8+9"], str(trained_checkpoint(task="addition,subtraction")))
    assert left.value.exit_code == 1
    assert "8+9 = 17" in shown.getvalue()
    assert "error: a number was expected here\n  1++1\n    ^" in capsys.readouterr().err


def test_a_terminal_that_is_asked_nothing(monkeypatch):
    for stdin in (Tty("1+1\n"), None):
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UsageError, match="nothing to solve"):
            solve_command([])


class TestWithoutCheckpoint:
    """After a demo: a run that knows additions of one digit."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trained_checkpoint(), "checkpoints/adder")

    def test_the_first_that_has_learned_it_answers(self):
        result = run("--json", stdin="100-99\n8+9\n12345+67890\n5-3\n1+2+3+4+5\n123456*123*12\n")
        shown = [json.loads(line) for line in result.stdout.splitlines()]
        assert [one["answer"] for one in shown] == ["1", "17", "80235", "2", "15", "182221056"]
        # more numbers than anybody has seen are for who has seen the most
        names = ["arithmetic", "adder", "add-any-length", "arithmetic", "arithmetic", "arithmetic"]
        assert [one["checkpoint"].rpartition("/")[2] for one in shown] == names
        whole = "a whole expression"
        unseen = [[f"{whole} of more than 4 numbers"], ["a number of more than 4 digits"]]
        unseen[1].append(f"{whole} with a number of more than 2 digits")
        assert [one["unseen"] for one in shown] == [[]] * 4 + unseen
        never = "checkpoints/adder never saw a problem of subtraction or a number of more than 1 digit"
        assert f"note: arithmetic answers: {never}\n" in result.stderr
        assert result.stderr.count("answers") == 3, "once for each"

    def test_so_is_a_problem_with_a_stated_answer(self):
        never = "never saw a problem of subtraction or a number of more than 1 digit\n"
        assert run(stdin="100-99=1\n").stderr.startswith(
            f"note: arithmetic answers: checkpoints/adder {never}"
        )

    def test_a_terminal_is_told_whenever_it_is_another_one(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.stdout", shown := Tty())
        solve_command(["8+9", "9-4", "1+1", "2+2"])
        assert "9-4 = 5  ✓" in shown.getvalue()
        names = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
        assert names == ["checkpoints/adder", "arithmetic", "checkpoints/adder"]

    def test_a_damaged_run_is_told(self):
        Path("checkpoints/adder/config.json").write_text("[]")
        result = run("8+9")
        assert (result.exit_code, result.stdout) == (0, "17\n")
        assert "note: checkpoints/adder is left out: checkpoints/adder/config.json" in result.stderr


def test_what_training_never_saw_is_told_in_pipes_too():
    where = ["--checkpoint", str(trained_checkpoint())]
    result = run(*where, stdin="8+9\n12+34\n" + "12+3\n" * 20)
    never = "in training this model never saw a number of more than 1 digit\n"
    assert f"note: line 2: {never}" in result.stderr
    assert result.stderr.count(never) == SHOWN
    assert (
        f"note: 21 of 22 problems are unlike those of training; the first {SHOWN} are above" in result.stderr
    )


def test_a_stated_answer_is_checked():
    where = ["--checkpoint", str(trained_checkpoint())]
    result = run(*where, "8+9=17", "8+9= 018", "8+9=")
    assert result.stdout == "17\n17\n17\n"
    assert result.stderr == "note: 8+9=17 is true\nnote: 8+9=18 is not true: it is 17\n"
    shown = [
        json.loads(line)
        for line in run(*where, "--json", stdin="8+9=17\n8+9=-3\n8+9\n").stdout.split("\n")[:3]
    ]
    assert [one.get("stated") for one in shown] == ["17", "-3", None]
    assert [one.get("stated_correct") for one in shown] == [True, False, None]
    assert "no whole number\n  8+9=x\n      ^" in run(*where, "8+9=x").stderr
    assert (
        f"20 of 20 stated answers are not true; the first {SHOWN}" in run(*where, stdin="1+1=3\n" * 20).stderr
    )


def test_whoever_sends_a_line_and_waits_gets_its_answer(monkeypatch):
    ours, theirs = os.pipe(), os.pipe()
    with (
        open(ours[0], encoding="utf-8") as stdin,
        open(ours[1], "wb", buffering=0) as send,
        open(theirs[0], "rb", buffering=0) as receive,
        open(theirs[1], "w", encoding="utf-8") as stdout,
    ):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", stdout)
        solving = threading.Thread(target=solve_command, args=([], str(trained_checkpoint())))
        solving.start()
        for text, answer in ((b"8+9\n", b"17\n"), (b"1+1\n", b"2\n")):
            send.write(text)
            assert select.select([receive], [], [], 60)[0], "no answer"
            assert receive.read(10) == answer
        send.close()
        solving.join(60)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("2 + 2", ["2 + 2"]),
        ("2 +2", ["2 +2"]),
        ("2+ 2", ["2+ 2"]),
        ("1 + 2 + 3 = 6", ["1 + 2 + 3 = 6"]),
        ("2 - 2", ["2 - 2"]),
        ("12+34 99+1", ["12+34", "99+1"]),
        ("12+34= 99+1 =", ["12+34=", "99+1 ="]),
        ("12+34 -5+3", ["12+34", "-5+3"]),
        ("7+ 12+34", ["7+", "12+34"]),
        ("7+ 12 + 34", ["7+ 12 + 34"]),
        ("12+34 +7", ["12+34", "+7"]),
        ("7 +12+34", ["7 +12+34"]),
        ("1 + 2 +3 + 4+5", ["1 + 2 +3 + 4+5"]),
        ("2 × 3", ["2 × 3"]),
        ("3 - 8 = -5", ["3 - 8 = -5"]),
        ("-", ["-"]),
        ("", []),
    ],
)
def test_words_of_one_expression_are_joined(words, texts):
    assert joined(words.split()) == texts
