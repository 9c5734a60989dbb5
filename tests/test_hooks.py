"""The moments of a run: what hangs there is asked in order, in good time, and to the end."""

import copy
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from runs import records, tiny, weights
from trained import trained_checkpoint

from mathllm.config import Config
from mathllm.data.sources import ProblemStream
from mathllm.evaluation.exact_match import Verdicts
from mathllm.resolve import resolve
from mathllm.training.hooks import shown, standard_hooks
from mathllm.training.run import load_splits
from mathllm.training.trainer import Hook, Outcome, Trainer

QUIET = Console(file=StringIO())


class Diary(Hook):
    """Writes down each moment, and ends the run at an evaluation if it is told why."""

    def __init__(self, reason: str = "", broken: str = "") -> None:
        self.moments: list[str] = []
        self.reason, self.broken = reason, broken

    def note(self, moment: str) -> None:
        self.moments.append(moment)
        if moment == self.broken:
            raise RuntimeError(f"broken at {moment}")

    def built(self, trainer: Trainer) -> None:
        self.note("built")

    def started(self, trainer: Trainer) -> None:
        self.note("started")

    def stepped(self, trainer: Trainer) -> None:
        self.note(f"step {trainer.progress.step}")

    def logged(self, trainer: Trainer, values: Any) -> None:
        self.note(" ".join(name for name in values if not name.startswith("perf/")))

    def evaluated(self, trainer: Trainer, verdicts: Verdicts) -> str:
        self.note(f"evaluated {len(verdicts)}")
        return self.reason

    def saved(self, trainer: Trainer, checkpoint: Path) -> None:
        assert (checkpoint / "model.safetensors").is_file()
        self.note(checkpoint.name)

    def ended(self, trainer: Trainer, error: BaseException | None) -> None:
        self.note(f"ended {error}")


def run(config: Config, *hooks: Hook) -> Outcome:
    config = resolve(config)
    Path(config.train.output_dir).mkdir(parents=True)
    source, validation = ProblemStream(config.data, 0), load_splits(config).validation
    steps, device = config.train.max_steps, torch.device("cpu")
    return Trainer(
        config, source, validation, total_steps=steps, device=device, console=QUIET, hooks=hooks
    ).run()


SETTINGS = ("train.max_steps=3", "train.eval_steps=2", "train.save_steps=3", "train.logging_steps=2")


def test_a_hook_is_told_of_every_moment_in_order(tmp_path: Path) -> None:
    diary = Diary()
    assert run(tiny(tmp_path / "run", *SETTINGS), diary).reason == "finished"
    numbers, right = "train/loss train/learning_rate", "val/exact_match val/token_accuracy"
    assert diary.moments == [
        *("built", "started", "step 1"),
        *("step 2", numbers, right, "checkpoint-2", "evaluated 4"),
        *("step 3", numbers, right, "checkpoint-3", "evaluated 4"),
        "ended None",
    ]


def test_a_hook_can_end_a_run_and_all_others_are_asked_too(tmp_path: Path) -> None:
    first, second = Diary("enough"), Diary("bored")
    outcome = run(tiny(tmp_path / "run", *SETTINGS), first, second)
    assert (outcome.reason, outcome.step) == ("enough", 2)
    assert second.moments[-2:] == ["evaluated 4", "ended None"]


def test_who_has_started_is_told_of_an_error_and_who_has_not_is_not(tmp_path: Path) -> None:
    first, second, third = Diary(), Diary(broken="started"), Diary()
    with pytest.raises(RuntimeError, match="broken"):
        run(tiny(tmp_path / "early", *SETTINGS), first, second, third)
    assert first.moments == ["built", "started", "ended broken at started"]
    assert second.moments == ["built", "started"]
    assert third.moments == ["built"]
    late = Diary(broken="step 2")
    with pytest.raises(RuntimeError, match="broken"):
        run(tiny(tmp_path / "late", *SETTINGS), *standard_hooks(tiny(tmp_path)), late)
    assert late.moments[-1] == "ended broken at step 2"
    assert "RuntimeError: broken at step 2" in (tmp_path / "late" / "logs" / "training.log").read_text()


def test_a_trainer_without_hooks_trains_and_saves_and_tells_nobody(tmp_path: Path) -> None:
    assert run(tiny(tmp_path / "run", *SETTINGS)).step == 3
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert (tmp_path / "run" / "best").resolve().name == "checkpoint-3"


class Ruined(Hook):
    """Keeps a model that answers nothing, in place of the one in training."""

    def built(self, trainer: Trainer) -> None:
        trainer.kept = copy.deepcopy(trainer.model)
        for parameter in trainer.kept.parameters():
            torch.nn.init.zeros_(parameter)


def test_the_model_that_a_hook_keeps_is_the_one_that_is_evaluated_and_saved(tmp_path: Path) -> None:
    shape = ("layers=1", "hidden=64", "heads=4", "feed_forward=128", "max_length=32", "position=learned")
    able = (*(f"model.{one}" for one in shape), f"train.init={trained_checkpoint()}")
    for name, hooks in (("able", ()), ("ruined", (Ruined(),))):
        outcome = run(tiny(tmp_path / name, *able, *SETTINGS, "optim.learning_rate=1e-9"), *hooks)
        assert (outcome.best_exact_match > 0.5) == (name == "able")
    saved = weights(tmp_path / "ruined" / "best")
    assert all(not tensor.any() for tensor in saved.values())


class Service:
    """Stands in for a W&B run."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.exit_code: int | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.setdefault(step, {}).update(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_w_and_b_gets_what_metrics_jsonl_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setattr("mathllm.training.hooks.start_wandb", lambda *_: (service, "W&B logs to a test"))
    config = tiny(tmp_path / "run", *SETTINGS)
    run(config, *standard_hooks(config))
    for name in ("train/loss", "val/exact_match", "perf/tokens_per_second"):
        assert {step: row[name] for step, row in service.rows.items()} == records(tmp_path / "run", name)
    assert service.exit_code == 0
    with pytest.raises(RuntimeError):
        run(tiny(tmp_path / "broken", *SETTINGS), *standard_hooks(config), Diary(broken="step 3"))
    assert service.exit_code == 1


def test_the_progress_bar_has_room_for_an_objectives_own_numbers() -> None:
    latest = {"train/loss": 0.25, "train/accepted": 0.5, "train/learning_rate": 0.01, "val/exact_match": 1.0}
    assert shown(latest) == "loss 0.2500 match 100.00% lr 1e-02 accepted 0.5"
    assert "match 99.995%" in shown({"val/exact_match": 19_999 / 20_000})
