"""Locks: one process at a time writes into a directory, and what dead ones leave is no obstacle."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest
from runs import Child, finished, state_bytes, tiny

from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset
from mathllm.errors import MathLLMError, UsageError
from mathllm.files import write_bytes
from mathllm.locks import LOCK, locked


def test_a_second_one_is_told_who_is_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "run"
    with locked(place, "a training"):
        with pytest.raises(MathLLMError) as refused, locked(place, "another"):
            pass
        assert refused.value.message.startswith(
            f"a training is running in {place} (process {os.getpid()} on "
        )
        assert f"kill {os.getpid()}" in (refused.value.hint or "")
        assert (place / LOCK).is_file()
        said = json.loads((place / LOCK).read_text())
        (place / LOCK).write_text(json.dumps({**said, "host": "elsewhere"}))
        with pytest.raises(MathLLMError, match="on elsewhere, since") as refused, locked(place, "another"):
            pass
        assert refused.value.hint == "wait for its end, or choose another --output-dir", (
            "kill is for this one"
        )
    assert not (tmp_path / "new").exists(), "it was made for the lock, and nothing came into it"
    with locked(place, "a training"):
        (place / "file").touch()
    assert [path.name for path in place.iterdir()] == ["file"]
    with pytest.raises(UsageError, match="is not a directory"), locked(place / "file", "a training"):
        pass


def lock_and_die(place: str, fork: bool) -> None:
    with locked(Path(place), "a training"):
        if fork and os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("fork", [False, True])
def test_what_a_dead_process_leaves_is_no_obstacle(tmp_path: Path, fork: bool) -> None:
    """Even where a process forked from it lives on."""
    place = tmp_path / "run"
    assert Child(lock_and_die, str(place), fork, files=tmp_path).wait() == -signal.SIGKILL
    assert (place / LOCK).is_file()
    with locked(place, "a training"):
        pass
    assert not (place / LOCK).exists()


def test_without_locks_there_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".file.tmp-123").touch()  # perhaps somebody is writing it
    with locked(tmp_path, "a training"):
        write_bytes(tmp_path / "file", b"new")
    assert f"note: {tmp_path} is on a disk without locks" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.tmp-123", "file"]


def test_a_running_training_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=2"))
    before = state_bytes(run / "checkpoint-2"), (run / "metrics.jsonl").read_bytes()
    with locked(run, "a training"):
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(MathLLMError, match="a training is running in"):
                finished(tiny(run, "train.max_steps=3"), **how)
        assert (state_bytes(run / "checkpoint-2"), (run / "metrics.jsonl").read_bytes()) == before
    assert finished(tiny(run, "train.max_steps=3"), resume=True).outcome.step == 3
    assert not (run / LOCK).exists()


def test_a_running_gen_data_is_left_alone(tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        (unfinished,) = tmp_path.glob(".unfinished-*")
        with pytest.raises(MathLLMError, match="mathllm gen-data is running in"):
            generate_dataset(DataConfig(), 50, 1, tmp_path, overwrite=True)
        assert unfinished.is_dir()

    generate_dataset(DataConfig(), 50, 0, tmp_path, progress=second)


def test_files_that_dead_processes_left_half_written_go_with_the_next_of_that_name(tmp_path: Path) -> None:
    left, other, mine = (tmp_path / name for name in (".a.json.tmp-1", ".b.json.tmp-1", ".a.json.tmp-mine"))
    living = tmp_path / ".a.json.tmp-2"
    for path in (left, other, mine, living):
        path.touch()
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_bytes(tmp_path / "a.json", b"new")
    assert [path.exists() for path in (left, other, mine, living)] == [False, True, True, True]
    assert (tmp_path / "a.json").read_bytes() == b"new"
