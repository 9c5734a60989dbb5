"""Tiny training runs, in this process or in another one, for every test that needs them.

run = finished(tiny(tmp_path / "run", "train.max_steps=20"))
child = Child(train, tiny(tmp_path / "run"))  # a process of its own: it may be killed, or run out of disk
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from mathllm.config import Config, build_config
from mathllm.training.run import TrainResult, train

# one digit only, so that a step takes milliseconds; a large validation share of the few problems there are
TINY: dict[str, dict[str, Any]] = {
    "model": {"size": "nano", "layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32, "max_length": 24},
    "data": {"max_digits": 1, "train_ratio": 0.7, "val_ratio": 0.15},
    "optim": {"warmup_steps": 2},
    "train": {
        "batch_size": 8,
        "max_steps": 20,
        "eval_steps": 1000,
        "save_steps": 1000,
        "logging_steps": 1,
        "eval_examples": 20,
    },
}


def tiny(run: Path, *settings: str) -> Config:
    """The settings of a run that takes a fraction of a second."""
    return build_config(TINY, {"train": {"output_dir": str(run)}}, *map(_table, settings))


def _table(setting: str) -> dict[str, dict[str, str]]:
    name, _, value = setting.partition("=")
    section, _, key = name.partition(".")
    return {section: {key: value}}


def finished(config: Config, **how: bool) -> TrainResult:
    """The result of a run that says nothing."""
    return train(config, console=Console(file=StringIO()), **how)


def records(run: Path, name: str) -> dict[int, float]:
    """One of the metrics of a run, by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    return {row["step"]: row[name] for row in rows if name in row}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def state_bytes(checkpoint: Path) -> tuple[bytes, bytes]:
    """Weights and optimizer state, to the last bit."""
    names = ("model.safetensors", "training_state.safetensors")
    first, second = ((checkpoint / name).read_bytes() for name in names)
    return first, second


def same_run(one: Path, other: Path, step: int) -> None:
    """Asserts that two runs have come to the same state on the same way."""
    assert state_bytes(one / f"checkpoint-{step}") == state_bytes(other / f"checkpoint-{step}")
    assert records(one, "train/loss") == records(other, "train/loss")
    assert records(one, "val/exact_match") == records(other, "val/exact_match")


# a server with torch in memory, from which children are forked: so each takes milliseconds, not seconds, to start
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["mathllm.cli.main", "mathllm.training.run", "torch._dynamo", "torch.distributed"]
)


class Child:
    """A process that calls a function with arguments; what it prints goes to `out` and `err`."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        files: Path,
        name: str = "child",
        environment: dict[str, str] | None = None,
    ) -> None:
        self._out, self._err = files / f"{name}.out", files / f"{name}.err"
        todo = (function, arguments, str(files), str(self._out), str(self._err), environment or {})
        self.process = _processes.Process(target=_run, args=todo)
        self.process.start()

    def wait(self, seconds: float = 120) -> int:
        """The exit code; minus the signal's number if one has ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s:\n{self.err}")
        return self.process.exitcode

    def stop_after(self, lines: int, metrics: Path, number: int, seconds: float = 300) -> None:
        """Sends a signal as soon as so many lines of metrics are there."""
        end = time.monotonic() + seconds
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert self.process.is_alive(), f"it has ended:\n{self.err}"
            assert time.monotonic() < end, f"no metrics after {seconds} s:\n{self.err}"
            time.sleep(0.01)
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")


def _run(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    cwd: str,
    out: str,
    err: str,
    environment: dict[str, str],
) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)


def command_line(*arguments: str) -> None:
    """What the console script does."""
    from mathllm.cli.main import main

    sys.argv = ["mathllm", *arguments]
    main()


def group(count: int) -> list[dict[str, str]]:
    """The environments that `torchrun` gives to so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(count)]
