"""Hard problems: searched for in training, learned from, never those of validation or test, and the same ones again
after a resume."""

from pathlib import Path

import numpy as np
import pytest
from runs import finished, records, same_run, tiny

from mathllm.checkpoint import load_checkpoint
from mathllm.config import build_config
from mathllm.data.sources import ProblemStream, ratios
from mathllm.errors import UsageError
from mathllm.prove.hunt import smallest_leads
from mathllm.resolve import resolve
from mathllm.tasks.expressions import expressions
from mathllm.tasks.splits import TRAIN, split_of
from mathllm.training.hard import HardProblems
from mathllm.training.state import read_progress

HUNTING = (
    "data.max_digits=2",
    "model.max_length=64",
    "train.hunt_steps=4",
    "train.max_steps=10",
    "train.hunt_share=0.5",
)
TASKS = "addition,subtraction"


@pytest.mark.parametrize(("stop", "ema"), [(4, "0.9"), (6, "0"), (8, "0.9")])  # at a search, and between two
def test_a_resumed_run_goes_on_with_the_same_hard_problems(tmp_path: Path, ema: str, stop: int) -> None:
    how = (
        *HUNTING,
        "optim.schedule=constant",
        f"train.save_steps={stop}",
        f"train.eval_steps={stop}",
        f"optim.ema_decay={ema}",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    finished(tiny(one, *how))
    finished(tiny(two, *how, f"train.max_steps={stop}"))
    finished(tiny(two, *how), resume=True)
    same_run(one, two, 10)
    hard = [read_progress(run / "checkpoint-10")[0].hard for run in (one, two)]
    assert hard[0] == hard[1] != ""


def test_they_are_of_the_training_split_and_harder_than_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny(run, *HUNTING, f"data.task={TASKS}", "train.max_steps=8", "train.save_steps=8")
    finished(config)
    model = load_checkpoint(run / "checkpoint-8")
    hard = HardProblems(config, ProblemStream(config.data, 0), read_progress(run / "checkpoint-8")[0].hard)
    assert hard.known is not None
    assert (split_of(hard.known, ratios(config.data)) == TRAIN).all()
    assert set(hard.known.task.tolist()) == {0, 1}
    drawn = ProblemStream(config.data, 1).problems(0, 500)
    assert np.median(smallest_leads(model, hard.known)) < np.median(smallest_leads(model, drawn))


def test_a_share_of_the_rows_is_of_them() -> None:
    config = build_config({"train": {"hunt_steps": 1, "hunt_share": 0.25}})
    stream = ProblemStream(config.data, 0)
    known = ["1+1", "999+999"]
    source = HardProblems(config, stream, "\n".join(known))
    problems = source.problems(3, 40)
    assert len(problems) == 40
    assert expressions(problems[np.arange(30)]) == expressions(stream.problems(3, 40)[np.arange(30)])
    assert set(expressions(problems[np.arange(30, 40)])) == set(known)
    assert expressions(problems) == expressions(source.problems(3, 40))
    # before any is known
    assert expressions(HardProblems(config, stream).problems(3, 40)) == expressions(stream.problems(3, 40))


def test_no_run_searches_unless_it_is_asked_to(tmp_path: Path) -> None:
    finished(tiny(tmp_path / "run"))
    assert not records(tmp_path / "run", "hunt/wrong")
    with pytest.raises(UsageError, match="beside the 100"):
        resolve(tiny(tmp_path / "run", "train.hunt_steps=1", "data.num_examples=100"))
    own = ("data.format=slots", "objective.name=gumbel", "model.max_length=64")
    with pytest.raises(UsageError, match="needs texts that are the truth"):
        resolve(tiny(tmp_path / "run", "train.hunt_steps=1", *own))
    for wrong in ("train.hunt_steps=-1", "train.hunt_share=1.5"):
        with pytest.raises(UsageError, match="hunt_s"):
            tiny(tmp_path / "run", wrong)


@pytest.mark.parametrize("known", ["99999999+1", "garbage", "1+", "", "5*5", "1+1\n\n=", "+" * 1000])
def test_what_is_no_problem_to_train_on_is_left_out(known: str) -> None:
    config = build_config({"train": {"hunt_steps": 1}})
    source = HardProblems(config, ProblemStream(config.data, 0), known)
    assert len(source.problems(0, 8)) == 8
    assert source.known is None or expressions(source.known) == ["1+1"]
