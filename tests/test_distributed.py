"""Several processes, one model: law 3 (two with half the batch are one with all of it), and nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import Child, finished, group, records, tiny, weights

from mathllm.config import Config
from mathllm.model.checkpoint import load_checkpoint
from mathllm.tasks import Problems
from mathllm.training.distributed import join, leave
from mathllm.training.run import load_splits, train
from mathllm.training.trainer import Trainer

CPU = torch.device("cpu")


def together(function: object, *arguments: object, files: Path, count: int = 2) -> list[Child]:
    """The same call in several processes, as `torchrun` would start them."""
    children = []
    for rank, environment in enumerate(group(count)):
        environment["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
        children.append(
            Child(function, *arguments, files=files, name=f"rank{rank}", environment=environment)  # type: ignore[arg-type]
        )
    return children


def close(one: Path, other: Path, tolerance: float) -> None:
    """Asserts that two checkpoints hold nearly the same weights."""
    first, second = weights(one), weights(other)
    assert list(first) == list(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


SETTINGS = ("optim.optimizer=adamw", "train.max_steps=8", "train.save_steps=4", "train.eval_steps=4")


@pytest.mark.parametrize(
    ("count", "more"),
    [
        (2, ()),
        (2, ("train.grad_accumulation=3",)),
        # texts of many lengths: the processes make different numbers of micro-batches of their rows
        (3, ("data.max_digits=3", "model.max_length=64", "train.batch_size=16", "train.grad_accumulation=4")),
    ],
    ids=["two", "accumulating", "three-uneven"],
)
def test_processes_with_a_part_of_the_batch_are_one_with_all(
    tmp_path: Path, count: int, more: tuple[str, ...]
) -> None:
    parts = tiny(tmp_path / "parts", *SETTINGS, *more)
    whole = tiny(tmp_path / "whole", *SETTINGS, *more, f"train.batch_size={parts.train.batch_size * count}")
    children = together(train, parts, files=tmp_path, count=count)
    finished(whole)
    assert [child.wait() for child in children] == [0] * count, children[0].err + children[1].err
    for name in ("checkpoint-4", "checkpoint-8"):
        close(tmp_path / "parts" / name, tmp_path / "whole" / name, 1e-5)
    one, other = (records(tmp_path / name, "train/loss") for name in ("whole", "parts"))
    assert other == pytest.approx(one, rel=1e-4)
    assert records(tmp_path / "whole", "val/exact_match") == records(tmp_path / "parts", "val/exact_match")
    # the first speaks for all of them, and its names are those of the plain model
    assert "exact match" in children[0].err
    assert children[1].err == ""
    assert not any(name.startswith("module.") for name in weights(tmp_path / "parts" / "best"))


def test_torchrun_with_muon_stops_and_resumes(tmp_path: Path) -> None:
    """The real thing once: `torchrun -m mathllm train`, SIGTERM to it, --resume."""
    flags = []
    config = tiny(tmp_path / "run")
    for section, values in config.to_dict().items():
        for key, value in values.items():
            if section != "data" or key != "data_dir":
                flags += ["--set", f"{section}.{key}={value}"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        _port(),
    ]
    command += ["-m", "mathllm", "train", *flags]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--max-steps", "100000"], stdout=file, stderr=file, cwd=tmp_path
        )
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert "stopped and saved at step" in log.read_text()
    assert "Traceback" not in log.read_text().split("SignalException")[0].split("torch/distributed")[0]
    stopped = load_checkpoint(tmp_path / "run").path
    step = json.loads((stopped / "training_state.json").read_text())["step"]
    done = subprocess.run(
        [*command, "--max-steps", str(step + 2), "--resume"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"from step {step}" in done.stderr
    assert done.stdout.count("best checkpoint") == 1
    assert max(records(tmp_path / "run", "train/loss")) == step + 2


def _port() -> str:
    return group(1)[0]["MASTER_PORT"]


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


class SignalledSource:
    """A source that sends a signal to its own process, if that is the unlucky one, in the middle of a step."""

    def __init__(self, config: Config, rank: int, step: int) -> None:
        self.source, self.rank, self.step = load_splits(config).source, rank, step

    def problems(self, step: int, n: int) -> Problems:
        if step == self.step and os.environ["RANK"] == str(self.rank):
            signal.raise_signal(signal.SIGTERM)
        return self.source.problems(step, n)


def train_with_a_signal(config: Config, rank: int, step: int) -> None:
    processes, device = join(CPU)
    Path(config.train.output_dir).mkdir(exist_ok=True)
    source, validation = SignalledSource(config, rank, step), load_splits(config).validation
    outcome = Trainer(config, source, validation, config.train.max_steps, device, processes).run()
    print(json.dumps([outcome.reason, outcome.step, outcome.signal]))
    leave()


@pytest.mark.parametrize(("rank", "step"), [(0, 6), (1, 6), (1, 7), (1, 19)])
def test_a_signal_to_one_process_stops_all_of_them(tmp_path: Path, rank: int, step: int) -> None:
    """In a step that would report nothing, in one that would evaluate (8), and in the last one."""
    config = tiny(tmp_path / "run", "train.logging_steps=5", "train.eval_steps=8")
    children = together(train_with_a_signal, config, rank, step, files=tmp_path)
    assert [child.wait() for child in children] == [0, 0], children[0].err + children[1].err
    for child in children:
        assert json.loads(child.out) == ["signal", step + 1, signal.SIGTERM]
    assert (tmp_path / "run" / f"checkpoint-{step + 1}").is_dir()


@pytest.mark.parametrize(
    ("settings", "reason", "step"),
    [
        (
            ("train.patience=2", "train.eval_steps=2", "optim.learning_rate=0", "optim.muon_learning_rate=0"),
            "patience",
            6,
        ),
        (("train.target_exact_match=1e-9", "train.eval_steps=3"), "finished", 20),
    ],
)
def test_all_processes_end_together(
    tmp_path: Path, settings: tuple[str, ...], reason: str, step: int
) -> None:
    config = tiny(tmp_path / "run", *settings)
    children = together(train_and_tell, config, files=tmp_path)
    assert [child.wait() for child in children] == [0, 0], children[0].err + children[1].err
    assert [json.loads(child.out) for child in children] == [[reason, step]] * 2


def train_and_tell(config: Config) -> None:
    outcome = train(config).outcome
    print(json.dumps([outcome.reason, outcome.step]))


def test_a_loss_that_is_no_number_ends_all_processes(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", "optim.learning_rate=1e38", "train.save_steps=2", "train.logging_steps=7")
    children = together(train, config, files=tmp_path)
    assert [child.wait() for child in children] == [1, 1]
    for child in children:
        assert "TrainingError" in child.err


def test_a_directory_that_holds_a_run_is_refused_by_all_processes(tmp_path: Path) -> None:
    finished(tiny(tmp_path / "run", "train.max_steps=2"))
    children = together(train, tiny(tmp_path / "run"), files=tmp_path)
    assert [child.wait() for child in children] == [1, 1]
    for child in children:
        assert "already holds a run" in child.err


def test_without_torchrun_there_is_one_process() -> None:
    assert "RANK" not in os.environ
    processes, device = join(CPU)
    assert (processes.rank, processes.world, processes.main, device) == (0, 1, True, CPU)
    assert processes.highest(3) == 3
    assert processes.sum(1.5) == 1.5
    processes.wait()
    leave()
