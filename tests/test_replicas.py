"""Threads that learn side by side: the gradients of one, the same bits every time, and exact after a resume."""

from pathlib import Path

import pytest
import torch
from runs import finished, records, same_run, tiny, weights
from test_training import CPU, model_and_rows, teacher_forcing

from mathllm.data.batches import make_batch
from mathllm.device import sensible_threads
from mathllm.training.replicas import Replicas

SETTINGS = ("train.batch_size=30", "optim.optimizer=adamw", "train.save_steps=10")


@pytest.mark.parametrize("count", [2, 3])
def test_their_gradients_add_up_to_those_of_one(count: int) -> None:
    model, rendered = model_and_rows()
    whole = make_batch(rendered, torch.arange(40).numpy(), CPU)
    teacher_forcing(model, whole).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    replicas = Replicas(model, count)

    def learn(twin: torch.nn.Module, number: int) -> float:
        part = make_batch(rendered, torch.arange(number, 40, count).numpy(), CPU)
        loss = teacher_forcing(twin, part)
        loss.backward()
        return loss.item()

    assert sum(replicas.run(learn)) == pytest.approx(teacher_forcing(model, whole).item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)
    for twin in replicas.models[1:]:
        assert all(parameter.grad is None for parameter in twin.parameters()), "they would count twice"
    with torch.no_grad():
        next(iter(model.parameters())).add_(1)
    for twin in replicas.models[1:]:
        for own, original in zip(twin.parameters(), model.parameters(), strict=True):
            assert torch.equal(own, original), "a twin has weights of its own"


def test_three_threads_learn_what_one_learns(tmp_path: Path) -> None:
    finished(tiny(tmp_path / "one", *SETTINGS, "train.threads=1"))
    finished(tiny(tmp_path / "three", *SETTINGS, "train.threads=3"))
    one, three = (weights(tmp_path / name / "checkpoint-20") for name in ("one", "three"))
    assert list(one) == list(three)
    for name in one:
        torch.testing.assert_close(three[name], one[name], rtol=1e-3, atol=1e-4)
    losses = records(tmp_path / "one", "train/loss")
    assert records(tmp_path / "three", "train/loss") == pytest.approx(losses, rel=1e-4)


def test_the_same_number_of_threads_gives_the_same_bits_and_so_does_a_resumed_run(tmp_path: Path) -> None:
    shared = (*SETTINGS, "train.threads=3", "train.eval_steps=10", "optim.schedule=constant")
    for name in ("whole", "again"):
        finished(tiny(tmp_path / name, *shared))
    same_run(tmp_path / "whole", tmp_path / "again", 20)
    finished(tiny(tmp_path / "run", *shared, "train.max_steps=10"))
    finished(tiny(tmp_path / "run", *shared), resume=True)
    same_run(tmp_path / "whole", tmp_path / "run", 20)


def test_a_number_that_was_not_chosen_is_that_of_the_machine() -> None:
    assert torch.get_num_threads() == 1
    assert sensible_threads(256) == 1
    torch.set_num_threads(4)  # the next test has one again
    assert [sensible_threads(rows) for rows in (256, 40, 8)] == [4, 2, 1]
