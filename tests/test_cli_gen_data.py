"""`mathllm gen-data`: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mathllm.cli.main import main
from mathllm.config import DataConfig
from mathllm.data.files import FILES, generate_dataset, read_metadata
from mathllm.formats import FORMATS
from mathllm.tasks import SAMPLINGS, TASK_NAMES

ALL_FILES = (*FILES, "metadata.json")


def rows_of(directory: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (directory / f"{split}.jsonl").read_text().splitlines()]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Ended(NamedTuple):
    """How a command went."""

    code: Any
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs `mathllm gen-data ...` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def gen_data(*options: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mathllm", "gen-data", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code or 0, *capfd.readouterr())

    return gen_data


def test_results_go_to_stdout_and_talk_to_stderr(run: Any) -> None:
    ended = run("--num-examples", "1000")
    assert ended.code == 0
    summary, *splits, sample = ended.out.splitlines()
    assert summary.startswith("data: addition")
    assert [line.split()[:2] for line in splits] == [
        ["train.jsonl", "900"],
        ["val.jsonl", "50"],
        ["test.jsonl", "50"],
    ]
    assert json.loads(sample) == rows_of(Path("data"), "train")[0]
    assert ended.err == "next: mathllm train\n"
    assert set(contents(Path("data"))) == set(ALL_FILES)


def test_json_is_one_document(run: Any) -> None:
    ended = run("--num-examples", "5000", "--max-digits", "1", "--output-dir", "small", "--json")
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert document.pop("output_dir") == "small"
    assert document == read_metadata(Path("small"))


def test_what_there_is_to_say_is_said(run: Any) -> None:
    ended = run("--num-examples", "5000", "--max-digits", "1", "--output-dir", "small")
    assert "note: val.jsonl has " in ended.err
    assert ended.err.endswith("next: mathllm train --data-dir small\n")


def test_from_a_file(run: Any) -> None:
    Path("equations.txt").write_text("951+11=962\n" * 3 + "".join(f"{n}-{n}=0\n" for n in range(100)))
    ended = run("--from", "equations.txt", "--format", "plain", "--train-ratio", "0.5", "--json")
    assert ended.code == 0
    document = json.loads(ended.out)
    assert document["data"]["task"] == "addition,subtraction"
    assert document["data"]["train_ratio"] == 0.5
    assert "--from equations.txt" in document["command"]
    before = contents(Path("data"))
    assert run(*shlex.split(document["command"])[2:], "--overwrite").code == 0
    assert contents(Path("data")) == before


def test_too_little_to_train_on_is_said_with_what_would_help(run: Any) -> None:
    Path("one.txt").write_text("1+1=2\n")
    for options, words in (
        (("--num-examples", "1"), "give a larger --num-examples, or"),
        (("--from", "one.txt", "--overwrite"), "give a file of more problems, or"),
    ):
        ended = run(*options)
        assert "train.jsonl           1 row\n" in ended.out
        assert ended.err.endswith(f"this is too little to train on: {words} other ratios\n")


def test_bad_rows_are_a_failure(run: Any) -> None:
    Path("equations.txt").write_text("1+1=2\n1+1=3\n")
    ended = run("--from", "equations.txt")
    assert (ended.code, ended.out) == (1, "")
    assert "equations.txt:2: '1+1=3': the answer is 2\n" in ended.err
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "adition"], "did you mean 'addition'?"),
        (["--format", "colunm"], "did you mean 'column'?"),
        (["--sampling", "ballanced"], "did you mean 'balanced'?"),
        (["--num-examples", "0"], "at least 1, not 0"),
        (["--num-examples", "-7"], "at least 1, not -7"),
        (["--max-digits", "-1"], "at least 1, not -1"),
        (["--seed", "-1"], "at least 0, not -1"),
        (["--train-ratio", "1.5"], "--train-ratio 0.9 --val-ratio 0.05"),
        (["--from", "x.txt", "--max-digits", "3"], "leave --max-digits out"),
        (["--num-examples", "many"], "--num-examples"),
    ],
)
def test_wrong_usage_is_exit_code_2(options: list[str], message: str, run: Any) -> None:
    ended = run(*options)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert not Path("data").exists()


def test_overwrite(run: Any) -> None:
    Path("data").mkdir()
    Path("data/README.md").write_text("mine")
    assert run("--num-examples", "100").code == 0
    refused = run("--num-examples", "200")
    assert refused.code == 2
    assert "hint: --overwrite" in refused.err
    assert run("--num-examples", "200", "--overwrite").code == 0
    assert len(rows_of(Path("data"), "train")) == 180
    assert Path("data/README.md").read_text() == "mine"


UNUSUAL = DataConfig(
    task="subtraction,addition",
    format="pairwise",
    zero_pad=True,
    max_digits=4,
    max_operands=3,
    sampling="balanced",
    signed=True,
    train_ratio=0.75,
    val_ratio=0.2,
)


ONLY_TRAIN = DataConfig(train_ratio=1.0, val_ratio=0.0)
THOUGHTS = DataConfig(format="slots", thought_length=7)


@pytest.mark.parametrize(
    "data",
    [DataConfig(), UNUSUAL, ONLY_TRAIN, THOUGHTS],
    ids=["default", "unusual", "only train", "thoughts"],
)
def test_metadata_says_how_to_make_the_files_again(data: DataConfig, run: Any) -> None:
    metadata = generate_dataset(data, 500, 7, Path("there"))
    assert metadata == read_metadata(Path("there"))
    assert metadata["seed"] == 7
    assert DataConfig(**metadata["data"]) == replace(data, format=data.format or "column")
    program, command, *options = shlex.split(metadata["command"])
    assert (program, command) == ("mathllm", "gen-data")
    assert run(*options).code == 0
    assert contents(Path("data")) == contents(Path("there"))


def test_help_names_every_choice_and_default(run: Any) -> None:
    ended = run("--help")
    assert ended.code == 0
    for name in (*TASK_NAMES, *FORMATS, *SAMPLINGS, "--from", "--zero-pad", "--signed", "0.05"):
        assert name in ended.out


def test_as_a_program(tmp_path: Path) -> None:
    """A process of its own: what the shell sees, and that it does not wait for torch."""
    code = "import sys; from mathllm.cli.gen_data import gen_data; print('numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    options = ["--num-examples", "100", "--output-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mathllm", "gen-data", *options]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ")


def test_a_file_for_a_format_that_cannot_write_it_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "equations.txt").write_text("3+4=7\n")
    ended = run("--from", str(tmp_path / "equations.txt"), "--format", "steps", "--zero-pad")
    assert ended.code == 2
    assert "format 'steps' cannot write task 'chain'" in ended.err


def test_a_signal_clears_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathllm.data.files._json_rows", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run().code == 143
    assert not Path("data").exists()
