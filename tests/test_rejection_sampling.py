"""Rejection sampling: a model learns from its own texts whose answers are right, and from nothing else."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Child, finished, group, records, same_run, tiny, weights
from trained import trained_checkpoint

from mathllm.config import Config, DataConfig, ModelConfig, build_config
from mathllm.errors import CheckpointError, UsageError
from mathllm.formats import Rendered
from mathllm.inference.engine import CUT, ENDED
from mathllm.inference.texts import Written
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.tasks.expressions import expressions, parse_expressions
from mathllm.tokenizer import END, decode, encode
from mathllm.training.objectives import Moment, make_objective
from mathllm.training.run import train
from mathllm.training.state import read_progress

TINY = ModelConfig(size="nano", layers=1, hidden=16, heads=2, feed_forward=32, max_length=64)
MOMENT = Moment(0, 0.0, torch.Generator().manual_seed(0))


class Scripted(MathModel):
    """Writes the given texts, of which `...` means that there was no room to finish."""

    device = torch.device("cpu")

    def __init__(self, format: str, *texts: str) -> None:
        super().__init__(Transformer.from_config(TINY), DataConfig(format=format))
        self.texts = texts

    def complete(self, texts: Rendered, **_: Any) -> Written:
        assert len(texts) == len(self.texts)
        rows = [encode(text.removesuffix("...")) for text in self.texts]
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), END, np.uint8)
        for row, text in zip(ids, rows, strict=True):
            row[: len(text)] = text
        reasons = np.array([CUT if text.endswith("...") else ENDED for text in self.texts], np.uint8)
        log_probs = np.zeros(ids.shape, np.float32)
        return Written(texts.problems, ids, lengths, texts.prompt_lengths, reasons, log_probs)


def test_it_keeps_the_right_texts_once_for_each_problem_as_they_were_drawn() -> None:
    objective = make_objective(build_config({"objective": {"name": "rejection-sampling"}}).objective)
    first, second = "1+2=<think>1+2=3</think>3<end>", "1+2=<think>2+1=3</think>3<end>"
    nine, two = "9+9=<think>9+9=18</think>18", "2+1=<think>2+1=3</think>3<end>"
    texts = (
        *(second, first, second, "1+2=<think>1+2=3</think>4<end>"),
        *(f"{nine}...", f"{nine}<end>", "9+9=18<end>", "9+9=<think>9+9=18</think>1+8<end>"),
        *("5+5=<think>5+5=10</think>0<end>", "5+5=<end>", "5+5=<think>5+5=10", "5+5=..."),
        *(two, two, two, two),
    )
    lesson = objective.prepare(
        Scripted("column", *texts), parse_expressions(["1+2", "9+9", "5+5", "2+1"]), MOMENT
    )
    rendered = lesson.rendered
    kept = [decode(ids[:length]) for ids, length in zip(rendered.ids, rendered.lengths, strict=True)]
    assert sorted(kept) == sorted([first, second, f"{nine}<end>", two])
    # each beside its problem; what is learned is what follows `=`, with `<end>`
    for text, expression in zip(kept, expressions(rendered.problems), strict=True):
        assert text.startswith(f"{expression}=")
    scored = objective.scored(rendered)
    assert (scored.sum(1) == rendered.lengths - 4).all()
    assert all(rendered.ids[row, np.flatnonzero(scored[row])[-1]] == END for row in range(4))
    # right among the drawn, repetitions counted; problems with any of these
    assert lesson.metrics == {"accepted": 8 / 16, "solved": 3 / 4}


# --- on models ---

HALF: dict[str, dict[str, Any]] = {
    "model": {"size": "nano", "layers": 2, "hidden": 48, "heads": 3, "feed_forward": 96},
    "data": {"max_digits": 2, "format": "reversed", "sampling": "uniform"},
    "optim": {"muon_learning_rate": 0.05, "learning_rate": 0.01, "schedule": "constant", "warmup_steps": 10},
    "train": {"batch_size": 64, "max_steps": 500, "eval_steps": 10, "eval_examples": 500, "threads": 1},
}


@pytest.mark.slow
def test_it_raises_exact_match_of_a_half_trained_model(tmp_path: Path) -> None:
    """From about 40% to about 70, by the model's own answers; draws without learning change nothing."""
    stop = {"train": {"output_dir": str(tmp_path / "half"), "target_exact_match": 0.4}}
    half = finished(build_config(HALF, stop)).outcome.best_exact_match
    assert 0.3 < half < 0.6
    reached = {}
    for rate in (0.005, 0.0):
        more = {
            "objective": {"name": "rejection-sampling"},
            "optim": {"muon_learning_rate": rate, "learning_rate": rate / 5},
            "train": {
                "init": str(tmp_path / "half"),
                "max_steps": 40 if rate else 10,
                "eval_steps": 40 if rate else 10,
                "output_dir": str(tmp_path / f"{rate}"),
            },
        }
        reached[rate] = finished(build_config(HALF, more)).outcome.best_exact_match
    assert reached[0.005] > half + 0.2
    assert reached[0.0] == half
    solved, accepted = (records(tmp_path / "0.005", f"train/{name}") for name in ("solved", "accepted"))
    assert accepted[40] > accepted[10] + 0.05
    assert all(0 < accepted[step] <= solved[step] <= 1 for step in solved)


OWN = ("objective.name=rejection-sampling", "objective.temperature=3")


def learning(run: Path, *settings: str, objective: tuple[str, ...] = OWN) -> Config:
    """A run that goes on from a model of one-digit sums, hot enough to be wrong now and then."""
    own = ("layers=1", "hidden=64", "heads=4", "feed_forward=128", "max_length=32", "position=learned")
    shape = [f"model.{setting}" for setting in own]
    start = ("optim.optimizer=adamw", "train.max_steps=8", f"train.init={trained_checkpoint()}")
    return tiny(run, *shape, *objective, *start, *settings)


def test_stopped_and_resumed_it_is_not_stopped_at_all_and_init_is_no_longer_asked_for(tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(trained_checkpoint(), start)
    settings = ("train.save_steps=4", "train.threads=2", f"train.init={start}", "optim.ema_decay=0.5")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        finished(learning(run, *settings))
    (stopped / "best").unlink()
    shutil.rmtree(stopped / "checkpoint-8")
    shutil.rmtree(start)
    finished(learning(stopped, *settings), resume=True)
    same_run(whole, stopped, 8)
    assert records(whole, "train/accepted") == records(stopped, "train/accepted")
    assert len(set(records(whole, "train/accepted").values())) > 1


def test_a_step_that_keeps_nothing_changes_no_weight_and_is_counted(tmp_path: Path) -> None:
    # new, so that it hardly ever writes even a number
    run = tmp_path / "run"
    finished(tiny(run, "objective.name=rejection-sampling", "train.max_steps=3", "train.save_steps=1"))
    assert records(run, "train/accepted") == records(run, "train/solved") == {1: 0.0, 2: 0.0, 3: 0.0}
    assert records(run, "train/loss") == {}, "there is none"
    one, other = weights(run / "checkpoint-2"), weights(run / "checkpoint-3")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_progress(run / "checkpoint-3")[0].rows == 24


def test_every_step_draws_anew(tmp_path: Path) -> None:
    same = ("data.num_examples=1", "optim.learning_rate=0")
    finished(learning(tmp_path / "run", *same))
    assert len(set(records(tmp_path / "run", "train/accepted").values())) > 2


@pytest.mark.parametrize("rows", [8, 1])
def test_two_processes_with_half_the_batch_are_one_with_all_of_it(tmp_path: Path, rows: int) -> None:
    """Also where so little is kept that one of them has no text of its own, or neither has."""
    few = ("objective.samples=1",) if rows == 1 else ()
    settings = (*few, "train.save_steps=4", f"train.batch_size={rows}")
    halves = learning(tmp_path / "halves", *settings)
    environments = group(2)
    children = [
        Child(train, halves, files=tmp_path, name=f"rank{rank}", environment=environments[rank])
        for rank in range(2)
    ]
    finished(learning(tmp_path / "whole", *settings, f"train.batch_size={2 * rows}"))
    assert [child.wait() for child in children] == [0, 0], children[0].err + children[1].err
    for step in (4, 8):
        one, other = (weights(tmp_path / name / f"checkpoint-{step}") for name in ("halves", "whole"))
        for name in one:
            # sums in another order; a step of Muon moves weights by 2e-2
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=5e-5)
    for name in ("train/loss", "train/accepted"):
        one, other = (records(tmp_path / run, name) for run in ("halves", "whole"))
        assert one == pytest.approx(other, rel=1e-4)
    if rows == 1:
        assert set(records(tmp_path / "whole", "train/accepted").values()) >= {0.0, 0.5}


# --- train.init ---


def test_a_run_begins_with_the_weights_it_is_given(tmp_path: Path) -> None:
    still = ("optim.learning_rate=0", "train.max_steps=1")
    finished(learning(tmp_path / "run", *still, objective=()))
    given, kept = weights(trained_checkpoint()), weights(tmp_path / "run" / "checkpoint-1")
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert records(tmp_path / "run", "val/exact_match")[1] == 1.0


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("model.layers=2", "layers 1, not 2"),
        ("model.activation=relu2", "activation 'gelu', not 'relu2'"),
        ("model.max_length=40", "max_length 32, not 40"),
    ],
)
def test_weights_of_another_shape_are_refused_before_anything_is_deleted(
    tmp_path: Path, setting: str, why: str
) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=2"))
    with pytest.raises(UsageError, match=why) as caught:
        finished(learning(run, setting), overwrite=True)
    assert "--set model." in (caught.value.hint or "")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        finished(learning(run, f"train.init={tmp_path / 'nothing'}"), overwrite=True)
    assert (run / "checkpoint-2").is_dir()
