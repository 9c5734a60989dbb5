"""What errors show of texts that come from files."""

import json
import shutil
from pathlib import Path

import pytest
from shipped import ADDSUB
from typer.testing import CliRunner

from mathllm.cli.main import app
from mathllm.errors import UsageError, complain, visible
from mathllm.tasks import get_tasks

ESCAPES = "\x1b[31mred\x07\x9b1m\u202e\udc80\r"


def test_control_characters_are_written_out_and_letters_stay() -> None:
    assert visible(ESCAPES) == r"\x1b[31mred\x07\x9b1m\u202e\udc80\r"
    assert visible("rün−×\nsecond line") == "rün−×\nsecond line"
    error = UsageError(f"bad {ESCAPES}", f"hint {ESCAPES}")
    assert "\x1b" not in f"{error}{error.message}{error.hint}"


def test_they_reach_no_terminal_from_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / f"checkpoints/{ESCAPES[:-2]}"
    run.mkdir(parents=True)
    (run / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    said = json.loads((ADDSUB / "config.json").read_text())
    for change in ({"mathllm": ESCAPES, "checkpoint_format": 9}, {"data": said["data"] | {"task": ESCAPES}}):
        (run / "config.json").write_text(json.dumps(said | change))
        failed = CliRunner().invoke(app, ["solve", "--checkpoint", str(run), "1+1"]).exception
        assert isinstance(failed, Exception)
        complain(failed)  # type: ignore[arg-type]
        found = CliRunner().invoke(app, ["doctor"])
        assert found.exit_code == 0
        printed = found.output + "".join(capfd.readouterr())
        assert r"\x1b[31mred\x07" in printed
        assert not any(character in printed for character in "\x1b\x07\x9b\u202e")


def test_nor_from_the_names_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / f"checkpoints/{ESCAPES[:-2]}"
    damaged.mkdir(parents=True)
    (damaged / "model.safetensors").write_bytes(b"junk")
    shutil.copytree(ADDSUB, tmp_path / "checkpoints/\x1b[32mgreen")
    monkeypatch.chdir(tmp_path)
    green = "checkpoints/\x1b[32mgreen"
    for command in (["solve", "1+1"], ["chat"], ["eval", "--exhaustive", "1", "--checkpoint", green]):
        ended = CliRunner().invoke(app, command, input="1+1\n")
        assert ended.exit_code == 0, ended.output
        assert r"\x1b[32mgreen" in ended.output
        assert "\x1b" not in ended.output


def test_a_long_value_is_cut() -> None:
    with pytest.raises(UsageError) as caught:
        get_tasks("addition," * 100_000 + "addition")
    assert len(caught.value.message) < 1000
    assert caught.value.message.startswith("name each task once")
