"""Thoughts that only the answer is scored for."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import TINY, finished, records, same_run, tiny
from shipped import OWN_THOUGHTS

from mathllm.checkpoint import load_checkpoint
from mathllm.config import DataConfig, ObjectiveConfig, build_config
from mathllm.data.sources import ProblemStream
from mathllm.errors import UsageError
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.lengths import draw_length
from mathllm.formats import get_format
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.tasks import TASKS, Problems
from mathllm.tokenizer import END_THINK, THINK
from mathllm.training.objectives import Lesson, Moment, Room, gumbel, make_objective

CPU = torch.device("cpu")


def objective(**settings):
    """Thoughts of the model's own, with these settings."""
    return make_objective(ObjectiveConfig("gumbel", settings))


KINDS = [("chain", "steps", "coupled-bias"), ("chain", "steps", "rope"), ("addition", "slots", "rope")]
every_kind = pytest.mark.parametrize(("task", "format", "position"), KINDS)


def setting(task: str, format: str, position: str, rows: int = 512, seed: int = 0):
    """An untrained model whose output is no constant, its notation, and rows of a stream."""
    config = build_config(
        TINY,
        {
            "model": {"position": position, "layers": 2, "max_length": 48},
            "data": {"task": task, "format": format, "max_digits": 4},
        },
    )
    model = Transformer.from_config(config.model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    notation = get_format(format)
    return model, notation, ProblemStream(config.data, 0).problems(0, rows)


def batches(notation, problems: Problems, axes):
    rendered = notation.render(problems)
    lesson = Lesson(rendered, coordinates=notation.coordinates(problems, rendered.ids, axes))
    return list(objective().batches(lesson, np.arange(len(problems)), Room(1000, 10**6, CPU)))


def moment(progress: float = 1.0, step: int = 0, seed: int = 0) -> Moment:
    return Moment(step, progress, torch.Generator().manual_seed(seed))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_one_hot_thoughts_its_logits_are_those_of_teacher_forcing(
    task, format, position, dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, notation, problems = setting(task, format, position)
    given: list[torch.Tensor] = []  # the thoughts that the text has, one slot after the other
    seen: list[torch.Tensor] = []  # logits, as they were computed
    monkeypatch.setattr(gumbel, "emit", lambda logits, *_: F.one_hot(given.pop(0), 10).to(logits.dtype))
    read = gumbel.GumbelThoughts._read

    def watched(*arguments):
        seen.append(read(*arguments))
        return seen[-1]

    monkeypatch.setattr(gumbel.GumbelThoughts, "_read", staticmethod(watched))
    for batch in batches(notation, problems, model.axes):
        given[:], seen[:] = list(batch.thoughts.T), []
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):  # as a GPU would have it
            objective().loss(model, batch, moment())
            assert not given
            ids = torch.cat([batch.prompt, batch.thoughts, batch.rest], 1)
            expected = model(ids, batch.coordinates)
        # bf16 keeps three digits, and a cache adds them up in another order
        close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
        torch.testing.assert_close(torch.cat(seen, 1), expected, **close)


def test_thoughts_are_embedded_as_tokens_are_also_in_half_precision() -> None:
    model, _, _ = setting("chain", "steps", "rope")
    ids = torch.arange(10)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gumbel.embed(torch.eye(10), model.embedding.weight), model.embedding(ids))


@every_kind
@pytest.mark.parametrize("estimator", ["straight-through", "soft"])
def test_the_gradient_reaches_the_first_thought(task, format, position, estimator, monkeypatch) -> None:
    model, notation, problems = setting(task, format, position)
    seen: list[torch.Tensor] = []

    def watched(logits: torch.Tensor, *rest):
        logits.retain_grad()
        seen.append(logits)
        return emit(logits, *rest)

    emit = gumbel.emit
    monkeypatch.setattr(gumbel, "emit", watched)
    (batch, *_) = (b for b in batches(notation, problems, model.axes) if b.thoughts.shape[1] > 2)
    for slots, reached in ((0, [True] * batch.thoughts.shape[1]), (1, None)):
        seen.clear()
        chosen = objective(estimator=estimator, gradient_slots=slots)
        chosen.loss(model, batch, moment(0.0))["loss"].backward()
        flows = [logits.grad is not None and bool(logits.grad.abs().sum() > 0) for logits in seen]
        assert flows == (reached or [False] * (len(seen) - 1) + [True])


@every_kind
def test_without_noise_its_thoughts_are_those_of_greedy_decoding(task, format, position, monkeypatch) -> None:
    model, notation, problems = setting(task, format, position)
    chosen: list[torch.Tensor] = []

    def watched(*arguments):
        thought = emit(*arguments)
        chosen.append(thought.argmax(-1))
        return thought

    emit = gumbel.emit
    monkeypatch.setattr(gumbel, "emit", watched)
    writer = MathModel(model, DataConfig(task=task, format=format))
    written = writer.complete(notation.render(problems), limits=np.full(len(problems), 12))
    thoughts = {}  # of each prompt, with <think> and </think>
    for ids, start in zip(written.ids, written.prompt_lengths, strict=True):
        end = int((ids == END_THINK).argmax()) + 1
        thoughts[ids[:start].tobytes()] = ids[start:end].tolist()
    for batch in batches(notation, problems, model.axes):
        chosen.clear()
        objective().loss(model, batch, moment(0.8))  # from here on there is no noise
        prompts = batch.prompt[:, :-1].numpy().astype(np.uint8)  # without <think>
        drawn = torch.stack(chosen, 1).tolist() if chosen else [[] for _ in prompts]
        for prompt, thought in zip(prompts, drawn, strict=True):
            assert thoughts[prompt.tobytes()] == [THINK, *thought, END_THINK]


@every_kind
@pytest.mark.parametrize("estimator", ["straight-through", "soft", "argmax", "exact"])
def test_the_loss_does_not_know_the_texts_own_thought(task, format, position, estimator) -> None:
    model, notation, problems = setting(task, format, position)
    chosen = objective(estimator=estimator)
    for batch in batches(notation, problems, model.axes):
        other = dataclasses.replace(batch, thoughts=(batch.thoughts + 3) % 10)
        losses = [chosen.loss(model, each, moment(0.0))["loss"].item() for each in (batch, other)]
        assert losses[0] == losses[1]


def test_the_exact_estimator_is_the_sum_over_all_values_of_the_last_thought() -> None:
    model, notation, problems = setting("chain", "steps", "coupled-bias")
    chosen = objective(estimator="exact", noise=0.0)
    for batch in batches(notation, problems, model.axes):
        if batch.thoughts.shape[1] != 1:
            continue
        read = {axis: known[:, : batch.prompt.shape[1]] for axis, known in batch.coordinates.items()}
        before = model(batch.prompt, read)[:, -1, :10].log_softmax(-1)
        likelihood = torch.zeros(len(batch.prompt))
        for value in range(10):
            thought = torch.full((len(batch.prompt), 1), value)
            ids = torch.cat([batch.prompt, thought, batch.rest], 1)
            after = model(ids, batch.coordinates)[:, -batch.rest.shape[1] :].log_softmax(-1)
            answer = after.gather(-1, batch.targets[..., None])[..., 0].sum(1)
            likelihood += (before[:, value] + answer).exp()
        loss = chosen.loss(model, batch, moment())["loss"]
        assert loss.item() == pytest.approx(-likelihood.log().sum().item(), rel=1e-5)
        return
    raise AssertionError("no chain of one step")


def test_the_straight_through_gradient_is_the_softmaxs_times_the_temperature_squared() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    for temperature in (0.5, 1.0, 2.0):
        thought = gumbel.emit(logits, torch.zeros(5, 10), temperature, "straight-through")
        torch.testing.assert_close(thought.detach(), F.one_hot(logits.argmax(-1), 10).float())
        (slope,) = torch.autograd.grad((thought * weights).sum(), logits)
        soft = (logits / temperature).softmax(-1)
        (expected,) = torch.autograd.grad((soft * weights).sum(), logits)
        torch.testing.assert_close(slope, expected * temperature**2)
    assert not gumbel.emit(logits, torch.zeros(5, 10), 1.0, "argmax").requires_grad


def test_gumbel_noise_draws_tokens_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0]).expand(40_000, 3)
    noise = gumbel.gumbel(logits.shape, torch.Generator().manual_seed(0))
    drawn = gumbel.emit(logits, noise, 3.0, "argmax").mean(0)
    torch.testing.assert_close(drawn, logits[0].softmax(-1), atol=0.01, rtol=0)


def test_noise_fades_and_temperature_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, notation, problems = setting("chain", "steps", "coupled-bias")
    seen: list[tuple[float, float]] = []

    def watched(logits, noise, temperature, estimator):
        seen.append((float(noise.abs().mean()), temperature))
        return emit(logits, noise, temperature, estimator)

    emit = gumbel.emit
    monkeypatch.setattr(gumbel, "emit", watched)
    chosen = objective(temperature=4.0, temperature_end=1.0)
    (batch, *_) = (b for b in batches(notation, problems, model.axes) if b.thoughts.shape[1] == 1)
    for progress in (0.0, 0.4, 0.8, 1.0):
        chosen.loss(model, batch, moment(progress))
    noises, temperatures = zip(*seen, strict=True)
    assert noises[0] > 0
    assert noises == pytest.approx((noises[0], noises[0] / 2, 0, 0))
    assert temperatures == pytest.approx((4, 2, 1, 1))


def test_supervision_is_for_the_first_thoughts_and_ends() -> None:
    model, notation, problems = setting("chain", "steps", "coupled-bias")
    chosen = objective(supervised=1, warmup_steps=10)
    (batch, *_) = (b for b in batches(notation, problems, model.axes) if b.thoughts.shape[1] == 3)
    first = dataclasses.replace(batch, thoughts=(batch.thoughts + torch.tensor([1, 0, 0])) % 10)
    later = dataclasses.replace(batch, thoughts=(batch.thoughts + torch.tensor([0, 1, 1])) % 10)
    early = [chosen.loss(model, each, moment(step=9))["loss"].item() for each in (batch, first, later)]
    assert early[0] == early[2] != early[1]
    after = [chosen.loss(model, each, moment(step=10))["loss"].item() for each in (batch, first, later)]
    assert after[0] == after[1] == after[2]


CHAINS = (
    "data.task=chain",
    "data.format=steps",
    "data.max_digits=3",
    "model.position=coupled-bias",
    "model.max_length=32",
    "objective.name=gumbel",
)


def test_a_run_learns_and_one_that_was_stopped_draws_the_same_noise(tmp_path: Path) -> None:
    shared = (*CHAINS, "train.batch_size=64", "train.save_steps=10")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        assert finished(tiny(run, *shared)).test["num_examples"] > 0
    same_run(whole, stopped, 20)
    losses = list(records(whole, "train/loss").values())
    assert losses[-1] < losses[0]
    # as if it had been killed after step 10
    (stopped / "best").unlink()
    shutil.rmtree(stopped / "checkpoint-20")
    finished(tiny(stopped, *shared), resume=True)
    same_run(whole, stopped, 20)


def test_the_truth_is_a_draft_where_the_model_thinks_it_and_verdicts_are_those_of_decoding() -> None:
    loaded = load_checkpoint(OWN_THOUGHTS, CPU)
    problems = draw_length(TASKS[3], 6, "random", 200)
    quick, greedy = (judge(loaded, problems, draft=draft) for draft in (True, False))
    assert quick.decoded.sum() < 20
    assert greedy.decoded.all()
    assert quick.answer_correct.sum() >= 198
    assert (quick.answer_correct == greedy.answer_correct).all()
    assert (quick.written.ids == greedy.written.ids).all()
    assert (quick.token_hits == greedy.token_hits).all()


def test_evaluation_holds_thoughts_to_their_length() -> None:
    model, notation, problems = setting("chain", "steps", "coupled-bias", rows=200)
    verdicts = judge(MathModel(model, DataConfig(task="chain", format="steps")), problems)
    assert verdicts.decoded.mean() > 0.9, "it would be the gold texts otherwise"
    ends = (notation.render(problems).ids == END_THINK).argmax(1)
    assert ((verdicts.written.ids == END_THINK).argmax(1) == ends).all()


def test_formats_without_room_for_thoughts_are_refused(tmp_path: Path) -> None:
    for format in ("plain", "column", "reversed"):
        with pytest.raises(UsageError, match="no thought of a known length"):
            finished(tiny(tmp_path / format, f"data.format={format}", "objective.name=gumbel"))
    with pytest.raises(UsageError, match="nothing to compile"):
        finished(tiny(tmp_path / "compiled", *CHAINS, "train.compile=true"))
    with pytest.raises(UsageError, match="belong together"):
        ObjectiveConfig("gumbel", {"supervised": 2})
