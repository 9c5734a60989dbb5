"""Several processes, one model: law 3 (two with half the batch are one with all of it), and nobody waits for ever."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Child, finished, group, records, tiny, weights

from mathllm.config import Config, build_config
from mathllm.data.batches import micro_batches
from mathllm.data.files import generate_dataset
from mathllm.data.sources import ProblemStream
from mathllm.errors import UsageError
from mathllm.formats import get_format
from mathllm.locks import LOCK, locked
from mathllm.tasks import Problems
from mathllm.training.distributed import join, leave
from mathllm.training.run import check_same_rows, load_splits, train
from mathllm.training.state import Progress
from mathllm.training.trainer import MICRO_BATCH_TOKENS, Trainer

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


UNEVEN = ("data.max_digits=3", "model.max_length=64", "train.batch_size=60")


@pytest.mark.parametrize("more", [("train.grad_accumulation=3",), UNEVEN], ids=["accumulating", "uneven"])
def test_two_processes_with_half_the_batch_are_one_with_all_of_it(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    halves = tiny(tmp_path / "halves", *SETTINGS, *more)
    whole = tiny(tmp_path / "whole", *SETTINGS, *more, f"train.batch_size={2 * halves.train.batch_size}")
    children = together(train, halves, files=tmp_path)
    finished(whole)
    assert [child.wait() for child in children] == [0, 0], children[0].err + children[1].err
    for name in ("checkpoint-4", "checkpoint-8"):
        close(tmp_path / "halves" / name, tmp_path / "whole" / name, 1e-5)
    one, other = (records(tmp_path / name, "train/loss") for name in ("whole", "halves"))
    assert other == pytest.approx(one, rel=1e-4)
    assert records(tmp_path / "whole", "val/exact_match") == records(tmp_path / "halves", "val/exact_match")
    # the first speaks for both, and its names are those of the plain model
    assert "exact match" in children[0].err
    assert children[1].err == ""
    assert not any(name.startswith("module.") for name in weights(tmp_path / "halves" / "best"))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    # a shifted beginning shows in a file only: a stream has problems of its own for each step
    generate_dataset(build_config({"data": {"max_digits": 2}}).data, 300, 0, tmp_path / "data")
    settings = [*SETTINGS, "train.grad_accumulation=2", "optim.schedule=constant", "model.max_length=40"]
    settings += [f"data.data_dir={tmp_path / 'data'}"]
    finished(tiny(tmp_path / "whole", *settings))
    finished(tiny(tmp_path / "parts", *settings, "train.max_steps=4"))
    same = tiny(tmp_path / "parts", *settings)  # 8 rows, twice
    refused = together(train, same, True, files=tmp_path)
    assert [child.wait() for child in refused] == [1, 1]
    for child in refused:
        assert "2 processes of 16 rows make steps of 32, and this run's have 16" in child.err
    children = together(
        train, tiny(tmp_path / "parts", *settings, "train.batch_size=4"), True, files=tmp_path
    )
    assert [child.wait() for child in children] == [0, 0], children[0].err + children[1].err
    close(tmp_path / "parts" / "checkpoint-8", tmp_path / "whole" / "checkpoint-8", 1e-5)
    one, other = (records(tmp_path / name, "train/loss") for name in ("whole", "parts"))
    assert other == pytest.approx(one, rel=1e-4)
    with pytest.raises(UsageError, match="these settings make steps of 8, and this run's have 16"):
        finished(tiny(tmp_path / "parts", *settings, "train.batch_size=4"), resume=True)
    finished(tiny(tmp_path / "parts", *settings), resume=True)


@pytest.mark.parametrize(
    ("rows", "processes", "accumulation", "hint"),
    [
        (128, 2, 1, "--batch-size 64"),
        (128, 4, 2, "--batch-size 16"),
        (30, 3, 4, "--batch-size 10 --grad-accumulation 1"),
        (30, 4, 1, "as many processes as divide 30: 1, 2, 3, 5, 6, 10, 15, 30"),
    ],
)
def test_who_goes_on_with_other_rows_is_told_what_to_type(
    rows: int, processes: int, accumulation: int, hint: str
) -> None:
    train_settings = {"batch_size": 7, "grad_accumulation": accumulation}
    config, progress = build_config({"train": train_settings}), Progress(step=10, rows=10 * rows)
    with pytest.raises(UsageError, match=f"and this run's have {rows}") as refused:
        check_same_rows(config, progress, processes=processes, each=rows)
    assert refused.value.hint == hint
    # of an earlier version, which let them change: an average
    check_same_rows(config, Progress(step=10, rows=1001), processes=processes, each=1)
    check_same_rows(config, progress, processes=processes, each=2 * rows)


def test_some_of_those_steps_take_one_process_more_micro_batches_than_the_other(tmp_path: Path) -> None:
    config = tiny(tmp_path, *UNEVEN)
    uneven = 0
    for step in range(8):
        rendered = get_format("column").render(ProblemStream(config.data, 0).problems(step, 120))
        first, second = (
            len(list(micro_batches(rendered, np.arange(rank, 120, 2), 60, MICRO_BATCH_TOKENS["cpu"], CPU)))
            for rank in (0, 1)
        )
        uneven += first != second
    assert uneven > 0


def torchrun(*arguments: str) -> None:
    from torch.distributed.run import main  # what the command of that name calls

    main(list(arguments))


def test_torchrun_trains_and_stops_on_a_signal(tmp_path: Path) -> None:
    """The real thing once: `torchrun --nproc-per-node 2 -m mathllm train`, and SIGTERM to it."""
    shared = ("optim.optimizer=adamw", "optim.schedule=constant")
    config = tiny(tmp_path / "run", *shared, "train.max_steps=100000")
    words = [
        f"{s}.{k}={v}" for s, values in config.to_dict().items() for k, v in values.items() if k != "data_dir"
    ]
    flags = [word for setting in words for word in ("--set", setting)]
    port = group(1)[0]["MASTER_PORT"]
    start = ("--nproc-per-node", "2", "--master-port", port, "-m", "mathllm", "train")
    child = Child(torchrun, *start, *flags, files=tmp_path)
    child.stop_after(1, tmp_path / "run" / "metrics.jsonl", signal.SIGTERM)
    assert child.wait() != 0
    assert child.err.count("stopped and saved at step") == 1, "one of them speaks"
    (saved,) = (tmp_path / "run").glob("checkpoint-*")
    steps = int(saved.name.removeprefix("checkpoint-"))
    finished(tiny(tmp_path / "whole", *shared, "train.batch_size=16", f"train.max_steps={steps}"))
    close(saved, tmp_path / "whole" / saved.name, 1e-4)


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
    steps = config.train.max_steps
    trainer = Trainer(config, source, validation, total_steps=steps, device=device, processes=processes)
    outcome = trainer.run()
    print(json.dumps([outcome.reason, outcome.step, outcome.signal]))
    leave()


@pytest.mark.parametrize(("rank", "step"), [(1, 6), (1, 7)])
def test_a_signal_to_one_process_stops_all_of_them(tmp_path: Path, rank: int, step: int) -> None:
    """In a step that would report nothing, and in one that evaluates (8, counted from 1)."""
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


def test_a_directory_that_is_locked_is_refused_by_all_processes(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "a training"):
        children = together(train, tiny(tmp_path / "run"), files=tmp_path)
        assert [child.wait() for child in children] == [1, 1]
        for child in children:
            assert f"a training is running in {tmp_path / 'run'} (process {os.getpid()} on" in child.err
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_without_torchrun_there_is_one_process() -> None:
    assert "RANK" not in os.environ
    processes, device = join(CPU)
    assert (processes.rank, processes.world, processes.main, device) == (0, 1, True, CPU)
    assert processes.highest(3) == 3
    assert processes.sum(1.5) == 1.5
    processes.wait()
    leave()
