"""The directory of a run: what is in the way, what is damaged, which data it goes on with, what is never deleted."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runs import finished, records, state_bytes, tiny

from mathllm.config import Config, DataConfig
from mathllm.data.files import fingerprint, generate_dataset, read_problems
from mathllm.errors import CheckpointError, MathLLMError, UsageError
from mathllm.finding import step_checkpoints
from mathllm.tasks.splits import hash_problems
from mathllm.training.run import train
from mathllm.training.state import mark_best, read_progress

SAVING = ("train.save_steps=5", "train.keep=3", "train.eval_steps=10")


def talk_of(config: Config, **how: bool) -> str:
    """What a run says."""
    talk = StringIO()
    train(config, console=Console(file=talk, width=999), **how)
    return talk.getvalue()


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; leave it as it is."""
    run = tmp_path_factory.mktemp("runs") / "run"
    finished(tiny(run, *SAVING))
    return run


@pytest.fixture
def run(a_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(a_run, tmp_path / "run", symlinks=True))


def everything(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# --- damage ---


@pytest.mark.parametrize("name", ["training_state.json", "training_state.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_skipped_and_made_anew(run: Path, name: str) -> None:
    before, whole = state_bytes(run / "checkpoint-20"), records(run, "train/loss")
    (run / "checkpoint-20" / name).write_bytes(b"{")
    said = talk_of(tiny(run, *SAVING), resume=True)
    assert f"checkpoint-20/{name} cannot be read" in said
    assert f"going on from {run / 'checkpoint-15'}" in said
    assert state_bytes(run / "checkpoint-20") == before
    assert records(run, "train/loss") == whole


def test_a_damaged_checkpoint_costs_no_whole_one(run: Path) -> None:
    (run / "checkpoint-20" / "training_state.json").write_text("{")
    shutil.rmtree(run / "checkpoint-10")  # so that the best one is gone
    result = finished(tiny(run, "train.save_steps=1", "train.keep=1", "train.max_steps=18"), resume=True)
    assert [path.name for path in step_checkpoints(run)] == ["checkpoint-18", "checkpoint-20"]
    assert result.test is not None
    assert result.test["checkpoint"] == "checkpoint-18"


def test_a_run_without_a_whole_checkpoint_says_so(run: Path) -> None:
    for path in step_checkpoints(run):
        (path / "training_state.json").write_text("{")
    before = everything(run)
    with pytest.raises(CheckpointError, match=r"checkpoint-20/training_state\.json cannot be read") as caught:
        finished(tiny(run), resume=True)
    assert "--overwrite" in (caught.value.hint or "")
    assert everything(run) == before


def without_a_width(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["model"]["hidden"] = "wide"
    (checkpoint / "config.json").write_text(json.dumps(config))


def without_the_weights_in_training(checkpoint: Path) -> None:
    (checkpoint / "training_weights.safetensors").unlink()


@pytest.mark.parametrize("spoil", [without_a_width, without_the_weights_in_training])
def test_so_is_one_that_lacks_something(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    run, averaged = tmp_path / "run", ("train.save_steps=1", "train.max_steps=2", "optim.ema_decay=0.5")
    finished(tiny(run, *averaged))
    before = state_bytes(run / "checkpoint-2")
    spoil(run / "checkpoint-2")
    assert f"going on from {run / 'checkpoint-1'}" in talk_of(tiny(run, *averaged), resume=True)
    assert state_bytes(run / "checkpoint-2") == before


@pytest.mark.parametrize("name", ["training_state.json", "model.safetensors", "config.json"])
def test_a_checkpoint_that_may_not_be_read_is_neither_skipped_nor_replaced(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == run / "checkpoint-20" / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    read = Path.open  # what all of them open files with; root may read everything
    before = everything(run)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        finished(tiny(run, *SAVING), resume=True)
    monkeypatch.undo()
    assert caught.value.hint == f"if it is yours: chmod -R u+rwX {run / 'checkpoint-20'}"
    assert everything(run) == before


# --- what no run has written ---


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("best/keep.txt", {}, "best holds no model.safetensors"),
        ("best/config.json", {}, "best holds no model.safetensors"),
        ("checkpoint-7", {}, "checkpoint-7 is a file"),
        ("checkpoint-7/notes.txt", {"overwrite": True}, "checkpoint-7 holds notes.txt"),
        ("checkpoint-7/data/train.jsonl", {"overwrite": True}, "checkpoint-7 holds data"),
        ("metrics.jsonl", {"overwrite": True}, "metrics.jsonl, but no training_config.json"),
        ("logs/training.log", {"overwrite": True}, "logs/training.log, but no training_config.json"),
        ("metadata.json", {}, "holds a dataset"),
        ("train.jsonl", {"overwrite": True}, "holds a dataset"),
        ("model.safetensors", {"overwrite": True}, "is a checkpoint, not the directory of a run"),
    ],
)
def test_what_is_in_the_way_is_told_before_anything_happens(
    tmp_path: Path, name: str, how: dict[str, Any], said: str
) -> None:
    put(tmp_path / "run" / name)
    with pytest.raises(UsageError, match=said) as refused:
        finished(tiny(tmp_path / "run"), **how)
    assert "choose another --output-dir" in (refused.value.hint or "")
    assert everything(tmp_path / "run") == {name: b"mine"}


@pytest.mark.parametrize(("name", "step"), [("best", 20), ("checkpoint-25", 20), ("checkpoint-20", -1)])
def test_links_of_others_are_left_alone(run: Path, tmp_path: Path, name: str, step: int) -> None:
    put(tmp_path / "elsewhere" / "model.safetensors")
    if (run / name).is_dir() and not (run / name).is_symlink():
        shutil.move(run / name, tmp_path / "moved")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{name} is a link to"):
        finished(tiny(run, "train.max_steps=30"), **({"resume": True} if step == 20 else {"overwrite": True}))
    assert (run / name).readlink() == tmp_path / "elsewhere"


def test_a_checkpoint_with_notes_in_it_is_not_pruned(run: Path) -> None:
    put(run / "checkpoint-10" / "notes.txt")
    (run / "checkpoint-15").rename(run / "elsewhere")
    (run / "checkpoint-15").symlink_to("elsewhere")
    finished(tiny(run, "train.save_steps=5", "train.keep=1", "train.max_steps=30"), resume=True)
    assert (run / "checkpoint-10" / "notes.txt").is_file()
    assert (run / "elsewhere").is_dir()
    assert not (run / "checkpoint-20").exists()


def test_a_copy_with_its_links_followed_is_a_run_like_any_other(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert (copy / "best").is_dir()
    assert not (copy / "best").is_symlink()
    finished(tiny(copy, *SAVING, "train.max_steps=25"), resume=True)
    assert (copy / "best").is_symlink()
    put(copy / "checkpoint-25" / "notes.txt")
    (copy / "best").unlink()
    put(copy / "best" / "keep.txt")
    with pytest.raises(MathLLMError, match=r"best holds no model\.safetensors"):
        mark_best(copy, copy / "checkpoint-25")


# --- data ---


def test_a_run_whose_rows_have_changed_half_way_goes_on(run: Path) -> None:
    """As an earlier version let them: the average is that of no number of processes."""
    state = run / "checkpoint-20" / "training_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "rows": 10 * 8 + 10 * 16}))
    finished(tiny(run, *SAVING, "train.max_steps=21"), resume=True)
    assert read_progress(run / "checkpoint-21")[0].rows == 240 + 8


def dataset(directory: Path, seed: int = 0) -> Path:
    generate_dataset(DataConfig(max_digits=1, train_ratio=0.7, val_ratio=0.15), 200, seed, directory)
    return directory


def test_a_run_does_not_go_on_with_other_files(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    run, setting = tmp_path / "run", f"data.data_dir={data}"
    finished(tiny(run, setting, "train.max_steps=3"))
    before = everything(run)
    shutil.move(data, tmp_path / "moved")
    dataset(data, seed=7)
    with pytest.raises(UsageError, match="holds other problems than this run was started on"):
        finished(tiny(run, setting, "train.max_steps=6"), resume=True)
    assert everything(run) == before
    # the same ones elsewhere are the same
    finished(tiny(run, f"data.data_dir={tmp_path / 'moved'}", "train.max_steps=6"), resume=True)
    assert json.loads((run / "training_config.json").read_text())["data"]["data_dir"] == str(
        tmp_path / "moved"
    )
    # an earlier version did not say which problems they were
    state = run / "checkpoint-6" / "training_state.json"
    saved = json.loads(state.read_text())
    del saved["data"]
    state.write_text(json.dumps(saved))
    with pytest.raises(UsageError, match=r"started with data\.data_dir"):
        finished(tiny(run, setting, "train.max_steps=9"), resume=True)
    finished(tiny(run, f"data.data_dir={tmp_path / 'moved'}", "train.max_steps=9"), resume=True)
    assert read_progress(run / "checkpoint-9")[0].data


def test_a_run_whose_products_had_no_signs_does_not_go_on_with_signed_ones(tmp_path: Path) -> None:
    settings = "data.task=multiplication,subtraction", "data.second_digits=1", "model.max_length=64"
    for signed in ("false", "true"):
        run = tmp_path / signed
        config = tiny(run, *settings, f"data.signed={signed}", "train.max_steps=4")
        finished(tiny(run, *settings, f"data.signed={signed}", "train.max_steps=2"))
        saved = json.loads((run / "training_config.json").read_text())
        del saved["data"]["second_digits"]  # as an earlier version wrote it
        (run / "training_config.json").write_text(json.dumps(saved))
        if signed == "true":
            with pytest.raises(UsageError, match="products have had no signs in this run"):
                finished(config, resume=True)
        else:
            assert finished(config, resume=True).outcome.step == 4


def test_a_run_finds_its_data_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    run, named = Path("checkpoints/mine"), "data.data_dir=data"
    home.mkdir()
    monkeypatch.chdir(home)
    dataset(Path("data"))
    finished(tiny(run, named, "train.max_steps=3"))
    shutil.move(home, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "moved" / run
    finished(tiny(run, named, "train.max_steps=6"), resume=True)
    for path in (run / "training_config.json", run / "best" / "config.json", run / "best" / "README.md"):
        assert str(tmp_path) not in path.read_text().replace(str(run), ""), "it may be moved again"
    assert json.loads((run / "training_config.json").read_text())["data"]["data_dir"] == "data"
    shutil.move(tmp_path / "moved" / "data", tmp_path / "moved" / "away")
    with pytest.raises(UsageError, match=r"the data of this run, data, lie neither here nor") as refused:
        finished(tiny(run, named, "train.max_steps=9"), resume=True)
    assert "--data-dir" in (refused.value.hint or "")


def test_other_data_of_that_name_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    monkeypatch.chdir(home)
    dataset(Path("data"))
    finished(tiny(Path("run"), "data.data_dir=data", "train.max_steps=3"))
    here.mkdir()
    monkeypatch.chdir(here)
    generate_dataset(DataConfig(max_digits=3), 200, 0, Path("data"))
    again = tiny(home / "run", "data.data_dir=data", "train.max_steps=4")
    assert finished(again, resume=True).outcome.step == 4


def test_problems_of_the_test_that_were_trained_on_are_told(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    shutil.copy(data / "train.jsonl", data / "test.jsonl")
    said = talk_of(tiny(tmp_path / "run", f"data.data_dir={data}", "train.max_steps=2"))
    assert "note: 140 problems of test.jsonl are in train.jsonl too" in said
    assert "val.jsonl" not in said
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    tested = fingerprint(hash_problems(read_problems(data / "test.jsonl")))
    assert (results["in_training"], results["problems"]) == (140, tested)
    assert "of 140 problems, of which 140 were trained on" in (tmp_path / "run/best/README.md").read_text()


def test_sizes_that_make_little_sense_get_a_note(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    odd = ("train.batch_size=150", "train.max_steps=3", "optim.warmup_steps=100")
    said = talk_of(tiny(tmp_path / "run", f"data.data_dir={data}", *odd))
    assert "note: a step of 150 rows takes the 140 there are more than once" in said
    assert (
        "note: 100 steps of warm-up (--warmup-steps): in 3 the learning rate never gets to its peak" in said
    )
    assert "note" not in talk_of(tiny(tmp_path / "other", "train.max_steps=3"))
