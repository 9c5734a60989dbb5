"""`mathllm doctor`: what it finds, and that nothing it finds can stop it."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from trained import trained_checkpoint
from typer.testing import CliRunner

import mathllm
from mathllm.cli.main import app
from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def doctor(*options: str) -> str:
    result = CliRunner().invoke(app, ["doctor", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_empty_directory() -> None:
    found = json.loads(doctor("--json"))
    assert found["versions"]["mathllm"] == mathllm.__version__
    for package in ("torch", "numpy", "safetensors", "typer", "rich", "wandb"):
        assert found["versions"][package] == version(package)
    assert "CPU" in found["devices"]["used"] or "CUDA" in found["devices"]["used"]
    assert "threads" in found["devices"]["used"] or "CUDA" in found["devices"]["used"]
    assert list(found["checkpoints"]) == ["taken"]
    assert "arithmetic" in found["checkpoints"]["taken"], "the one that ships"
    assert found["data"]["data"].startswith("none")
    assert found["extras"]["plots"] in ("installed", "not installed: pip install 'mathllm[plots]'")


def test_text_for_a_bug_report_says_the_same() -> None:
    text, found = doctor(), json.loads(doctor("--json"))
    lines = [line.strip() for line in text.splitlines()]
    for part, values in found.items():
        assert part in lines
        for name, value in values.items():
            assert any(re.fullmatch(rf"{re.escape(name)}\s+{re.escape(value)}", line) for line in lines), name
    assert "\x1b" not in text


def test_what_was_trained_and_made_is_found() -> None:
    shutil.copytree(trained_checkpoint(), "checkpoints/mine")
    generate_dataset(DataConfig(max_digits=2), 100, 0, Path("data"))
    Path("checkpoints/empty").mkdir()
    found = json.loads(doctor("--json"))
    assert "column" in found["checkpoints"]["checkpoints/mine"]
    assert found["checkpoints"]["taken"].startswith("checkpoints/mine: ")
    assert "holds no model.safetensors" in found["checkpoints"]["checkpoints/empty"]
    assert re.match(r"\d+ rows: mathllm gen-data .*--max-digits 2", found["data"]["data"])


def test_what_is_damaged_is_said() -> None:
    shutil.copytree(trained_checkpoint(), "checkpoints/mine")
    Path("checkpoints/mine/config.json").write_text("{")
    Path("data").mkdir()
    Path("data/metadata.json").write_text("{")
    found = json.loads(doctor("--json"))
    assert "cannot be read" in found["checkpoints"]["checkpoints/mine"]
    assert "not valid JSON" in found["data"]["data"]
    assert json.loads(doctor("--json", "--checkpoint", "nowhere"))["checkpoints"]["taken"].startswith(
        "none: "
    )
