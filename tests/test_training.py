"""Training: the loss is what it should be, models learn, and runs end when and as they should."""

import json
import math
import os
import sys
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from runs import finished, records, tiny, weights

from mathllm.checkpoint import load_checkpoint
from mathllm.config import DataConfig, ObjectiveConfig, build_config
from mathllm.data.batches import Batch, make_batch, micro_batches
from mathllm.data.files import generate_dataset
from mathllm.data.sources import ProblemStream
from mathllm.errors import DeviceError, TrainingError, UsageError
from mathllm.evaluation.exact_match import judge
from mathllm.formats import Rendered, get_format
from mathllm.model.transformer import Transformer
from mathllm.tasks.expressions import parse_expressions
from mathllm.tasks.splits import TEST, VAL, SplitRatios, split_of
from mathllm.training.hooks import start_wandb
from mathllm.training.objectives import Moment, make_objective
from mathllm.training.optim import make_optimizers, make_schedule
from mathllm.training.run import count_steps, load_splits, train
from mathllm.training.trainer import Trainer, compiled

CPU = torch.device("cpu")


def model_and_rows(count: int = 40) -> tuple[Transformer, Rendered]:
    config = build_config(
        {"model": {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32, "max_length": 64}}
    )
    model = Transformer.from_config(config.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, get_format("column").render(ProblemStream(config.data, 0).problems(0, count))


def teacher_forcing(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return make_objective(ObjectiveConfig()).loss(model, batch, Moment(0, 0.0, torch.Generator()))["loss"]


def mean_loss(model: Transformer, rendered: Rendered) -> float:
    """The mean cross entropy over all tokens of all completions, one row and one token at a time."""
    losses = []
    for ids, length, prompt in zip(rendered.ids, rendered.lengths, rendered.prompt_lengths, strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[None, :length].astype(np.int64)))[0].double()
        for place in range(prompt, length):
            losses.append(float(logits[place - 1].logsumexp(0) - logits[place - 1, ids[place]]))
    return sum(losses) / len(losses)


def test_the_loss_counts_the_tokens_of_the_completion_and_no_others() -> None:
    model, rendered = model_and_rows()
    batch = make_batch(rendered, np.arange(len(rendered)), CPU)
    tokens = int((rendered.lengths - rendered.prompt_lengths).sum())
    assert int(rendered.loss_mask.sum()) == tokens
    assert teacher_forcing(model, batch).item() / tokens == pytest.approx(
        mean_loss(model, rendered), rel=1e-5
    )


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(1000, 1), (1000, 100), (7, 10**6), (3, 60)])
def test_micro_batches_change_no_gradient(max_rows: int, max_tokens: int) -> None:
    model, rendered = model_and_rows()
    gradients = []
    for limits in ((1000, 10**6), (max_rows, max_tokens)):
        model.zero_grad()
        for batch in micro_batches(rendered, np.arange(len(rendered)), *limits, CPU):
            teacher_forcing(model, batch).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_the_reported_loss_is_the_mean_over_completion_tokens(tmp_path) -> None:
    config = tiny(tmp_path / "run", "train.save_steps=4", "train.max_steps=5")
    finished(config)
    losses = records(tmp_path / "run", "train/loss")
    assert losses[1] == pytest.approx(math.log(16)), "a new model thinks all tokens equally likely"
    # the batch of step 5 (4, counted from 0), seen by the model that stands at its beginning
    problems = ProblemStream(config.data, config.train.seed).problems(4, config.train.batch_size)
    before = load_checkpoint(tmp_path / "run" / "checkpoint-4").model
    assert losses[5] == pytest.approx(mean_loss(before, get_format("column").render(problems)), rel=1e-5)


def test_logged_losses_are_means_over_the_steps_since_the_last_line(tmp_path) -> None:
    finished(tiny(tmp_path / "one"))
    finished(tiny(tmp_path / "five", "train.logging_steps=5"))
    each = records(tmp_path / "one", "train/loss")
    means = {last: sum(each[step] for step in range(last - 4, last + 1)) / 5 for last in (5, 10, 15, 20)}
    assert records(tmp_path / "five", "train/loss") == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulated_batches_are_one_larger_batch(tmp_path, optimizer: str) -> None:
    shared = (f"optim.optimizer={optimizer}", "train.max_steps=6")
    finished(tiny(tmp_path / "large", "train.batch_size=24", *shared))
    finished(tiny(tmp_path / "parts", "train.batch_size=6", "train.grad_accumulation=4", *shared))
    one, other = (weights(tmp_path / name / "checkpoint-6") for name in ("large", "parts"))
    # Muon rounds to bf16, which makes more of a difference in the last bit
    tolerance = 1e-5 if optimizer == "adamw" else 1e-3
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=tolerance, atol=tolerance)
    large, parts = (records(tmp_path / name, "train/loss") for name in ("large", "parts"))
    assert parts == pytest.approx(large, rel=1e-4)


def test_schedules() -> None:
    for name in ("linear", "cosine", "constant"):
        factor = make_schedule(name, warmup_steps=4, total_steps=12)
        assert [factor(step) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]
        assert factor(4) == 1
    linear, cosine, constant = (make_schedule(name, 4, 12) for name in ("linear", "cosine", "constant"))
    assert [linear(step) for step in (5, 8, 11, 12, 99)] == [0.875, 0.5, 0.125, 0, 0]
    assert [cosine(step) for step in (6, 8, 10, 12, 99)] == pytest.approx(
        [0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0, 0]
    )
    assert {constant(step) for step in range(4, 100)} == {1.0}
    assert make_schedule("linear", 0, 10)(0) == 1
    assert make_schedule("linear", 50, 10)(9) == 10 / 51, "a run shorter than its warm-up"


def test_the_learning_rate_follows_the_schedule(tmp_path) -> None:
    finished(tiny(tmp_path / "run", "optim.learning_rate=0.01", "optim.schedule=cosine"))
    rates = records(tmp_path / "run", "train/learning_rate")
    factor = make_schedule("cosine", 2, 20)
    assert rates == pytest.approx({step + 1: 0.01 * factor(step) for step in range(20)})


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model, _ = model_and_rows()
    muon, adamw = make_optimizers(model, "muon", 0.1, 0.2, 0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(of[0] + of[1]) == sorted(names.values())
    assert all(name.startswith("blocks.") and name.count(".") > 2 for name in of[0])
    assert {"embedding.weight", "head.weight", "final_norm.weight"} <= set(of[1])
    assert [muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]] == [0.2, 0.1]
    (alone,) = make_optimizers(model, "adamw", 0.1, 0.2, 0.3)
    decayed = {names[id(p)]: group["weight_decay"] for group in alone.param_groups for p in group["params"]}
    assert {name for name, decay in decayed.items() if decay} == set(of[0])


def test_gradients_are_clipped(tmp_path) -> None:
    """One step of plain momentum-free size: with a tiny limit the weights hardly move under weight-wise rates."""
    losses = {}
    for clip in ("1.0", "0", "1e-12"):
        run = tmp_path / clip
        # eps of AdamW is 1e-8: gradients far below it give next to no update
        finished(tiny(run, f"optim.grad_clip={clip}", "optim.optimizer=adamw", "train.max_steps=10"))
        losses[clip] = records(run, "train/loss")[10]
    assert losses["1e-12"] > losses["1.0"] + 0.005
    assert losses["0"] < losses["1e-12"]


# --- what a run leaves and says ---


def test_a_run_says_what_it_does_and_leaves_all_its_files(tmp_path) -> None:
    talk = StringIO()
    config = tiny(tmp_path / "run", "train.eval_steps=10", "train.save_steps=10", "train.logging_steps=5")
    result = train(config, console=Console(file=talk, width=200))
    run = tmp_path / "run"
    assert result.run == run
    assert result.outcome.reason == "finished"
    assert result.outcome.step == 20
    assert {path.name for path in run.iterdir()} == {
        *("checkpoint-10", "checkpoint-20", "best", "logs", "metrics.jsonl"),
        *("training_config.json", "test_results.json"),
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 10, 15, 20, 20]
    training = {"step", "train/loss", "train/learning_rate", "perf/tokens_per_second"}
    assert set(lines[0]) == training
    assert set(lines[2]) == {"step", "val/exact_match", "val/token_accuracy", "perf/seconds"}
    assert all(line["perf/tokens_per_second"] > 0 for line in lines if "train/loss" in line)
    log = (run / "logs" / "training.log").read_text()
    assert "W&B is off" in log
    assert "val/exact_match=" in log
    said = talk.getvalue()
    assert "2,608 parameters" in said
    assert "addition, up to 1 digit, format column: an endless stream" in said
    assert "20 steps of 8 rows" in said
    assert said.count("W&B is off") == 1


def test_the_best_checkpoint_is_tested_on_problems_of_the_test_split(tmp_path) -> None:
    config = tiny(tmp_path / "run", "train.eval_steps=10")
    result = finished(config)
    written = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert result.test == written
    assert written["checkpoint"] == (tmp_path / "run" / "best").resolve().name
    best = load_checkpoint(tmp_path / "run")
    problems = load_splits(config).test
    ratios = SplitRatios(config.data.train_ratio, config.data.val_ratio)
    assert (split_of(problems, ratios) == TEST).all()
    assert (split_of(load_splits(config).validation, ratios) == VAL).all()
    verdicts = judge(best, problems)
    assert written["correct"] == int(verdicts.answer_correct.sum())
    hits = int(verdicts.token_hits.sum())
    assert hits > 0, "of answers so few are right that any model would do"
    assert written["token_accuracy"] == hits / int(verdicts.token_counts.sum())
    assert written["num_examples"] == len(problems)
    low, high = written["exact_match_ci95"]
    assert 0 <= low <= written["exact_match"] <= high <= 1
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert f"{written['correct']} of {len(problems)} problems never trained on" in card


def test_the_command_on_the_card_makes_the_same_model(tmp_path) -> None:
    from mathllm.training.card import command

    config = tiny(tmp_path / "run", "optim.optimizer=adamw", "train.seed=5", "data.zero_pad=true")
    words = command(config).split()
    assert words[:2] == ["mathllm", "train"]
    again = build_config(*(_assignment(word) for word in words[3::2]))
    assert again.model == config.model
    assert again.data == config.data
    assert again.optim == config.optim
    finished(config)
    assert f"`{command(config)}`" in (tmp_path / "run" / "best" / "README.md").read_text()


def _assignment(text: str) -> dict[str, dict[str, str]]:
    name, _, value = text.partition("=")
    section, _, key = name.partition(".")
    return {section: {key: value}}


def test_epochs_are_counted_in_rows_of_all_processes() -> None:
    config = build_config({"train": {"num_epochs": 3, "batch_size": 10, "grad_accumulation": 2}})
    assert count_steps(config, epoch=101) == 16  # 303 rows, 20 at a time
    assert count_steps(config, epoch=101, processes=2) == 8
    assert count_steps(build_config({"train": {"max_steps": 7}}), epoch=101) == 7


def test_a_few_hundred_steps_teach_addition(tmp_path) -> None:
    config = build_config(
        {
            "model": {"layers": 2, "hidden": 48, "heads": 3, "feed_forward": 96},
            "data": {"max_digits": 2, "sampling": "uniform"},
            "optim": {"muon_learning_rate": 0.08, "learning_rate": 0.02, "warmup_steps": 10},
            "train": {
                "batch_size": 64,
                "max_steps": 200,
                "eval_steps": 40,
                "eval_examples": 200,
                "target_exact_match": 0.9,
                "output_dir": str(tmp_path / "run"),
            },
        }
    )
    result = finished(config)
    assert result.outcome.reason == "target"
    assert result.outcome.best_exact_match >= 0.9
    matches = records(tmp_path / "run", "val/exact_match")
    assert matches[40] < 0.9 <= matches[result.outcome.step]
    assert result.test is not None
    assert result.test["exact_match"] > 0.8
    # and it knows what it has not been shown
    best = load_checkpoint(tmp_path / "run")
    verdicts = judge(best, parse_expressions(["58+67", "7+3", "90+9", "44+44", "12+80"]))
    assert verdicts.answer_correct.sum() >= 4


# --- how runs end ---


def test_patience_ends_a_run_that_gets_no_better(tmp_path) -> None:
    # a rate of next to nothing: exact match stays at 0
    settings = (
        "train.patience=3",
        "train.eval_steps=2",
        "optim.learning_rate=1e-9",
        "optim.muon_learning_rate=1e-9",
    )
    result = finished(tiny(tmp_path / "run", *settings))
    assert result.outcome.reason == "patience"
    assert result.outcome.step == 8, "the first evaluation is the best; three more are not better"
    assert result.outcome.best_step == 8, "of equals, the later one"
    assert result.test is not None


@pytest.mark.parametrize(("save_steps", "last_good"), [(3, "checkpoint-3"), (1000, None)])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, save_steps: int, last_good: str | None) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=3", f"train.save_steps={save_steps}", "train.eval_steps=1000"))
    if last_good is None:
        for path in run.glob("checkpoint-*"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    broken = tiny(run, "optim.learning_rate=1e38", f"train.save_steps={save_steps}", "train.logging_steps=4")
    with pytest.raises(TrainingError, match=r"at step \d") as caught:
        finished(broken, resume=True)
    expected = f"the last good checkpoint is {run / last_good}" if last_good else "there is no checkpoint yet"
    assert expected in caught.value.message
    assert "--learning-rate" in (caught.value.hint or "")
    for path in run.glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(path).values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path) -> None:
    """The loss of a step is counted before its update: it says nothing about what the update made of the weights."""
    rates = ("optim.learning_rate=1e38", "optim.warmup_steps=0")
    config = tiny(tmp_path / "run", "train.save_steps=1", "train.logging_steps=1000", *rates)
    with pytest.raises(TrainingError):
        finished(config)
    for path in (tmp_path / "run").glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(path).values())


def test_half_precision_skips_a_step_that_overflows_and_spoils_nothing(tmp_path) -> None:
    """A gradient that is no number in a matrix of Muon must not reach AdamW's weights by way of clipping."""
    config = tiny(tmp_path / "run")
    trainer = Trainer(
        config, ProblemStream(config.data, 0), load_splits(config).validation, total_steps=20, device=CPU
    )
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    trainer.train_step(0)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    scale = trainer.scaler.get_scale()
    for name, parameter in trainer.model.named_parameters():
        bad = name == "blocks.0.attention.qkv.weight"
        parameter.grad = torch.full_like(parameter, math.nan if bad else 1.0)
    trainer._update(1)
    assert trainer.scaler.get_scale() == scale / 2
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    trainer.train_step(1)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_a_compiled_model_is_saved_as_itself(tmp_path) -> None:
    with torch.compiler.set_stance("force_eager"):  # the wrapper without the minute that a compiler takes
        talk = StringIO()
        train(
            tiny(tmp_path / "compiled", "train.max_steps=3", "train.compile=true"), console=Console(file=talk)
        )
    assert "compiling: the first steps take long" in talk.getvalue()
    with warnings.catch_warnings(record=True) as told:
        compiled(torch.nn.Linear(1, 1))
        warnings.warn("Torchinductor does not support code generation for complex operators.", stacklevel=1)
    assert told == []
    finished(tiny(tmp_path / "plain", "train.max_steps=3"))
    one, other = (weights(tmp_path / name / "checkpoint-3") for name in ("plain", "compiled"))
    assert list(one) == list(other)
    assert all(torch.equal(other[name], one[name]) for name in one)


@pytest.mark.gpu
@pytest.mark.parametrize("setting", ["precision=fp32", "precision=fp16", "precision=bf16", "compile=true"])
def test_a_gpu_trains_in_every_precision(tmp_path, setting: str) -> None:
    result = finished(tiny(tmp_path / "run", "train.device=cuda", f"train.{setting}", "train.max_steps=60"))
    assert result.outcome.reason == "finished"
    losses = records(tmp_path / "run", "train/loss")
    assert losses[60] < 0.9 * losses[1]
    finished(
        tiny(tmp_path / "run", "train.device=cuda", f"train.{setting}", "train.max_steps=70"), resume=True
    )
    assert records(tmp_path / "run", "train/loss")[70] < 0.9 * losses[1]


def test_w_and_b_without_a_key_is_off_and_never_asks(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    for setting, words in (("auto", "not logged in"), ("off", "W&B is off")):
        wandb_run, line = start_wandb(setting, tmp_path, {})
        assert wandb_run is None
        assert words in line
        assert "\n" not in line
    with pytest.raises(UsageError, match="not logged in") as caught:
        finished(tiny(tmp_path / "run", "train.wandb=on"))
    assert "wandb login" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists(), "nothing has happened yet"


def test_what_cannot_work_is_said_before_an_earlier_run_is_deleted(tmp_path, monkeypatch) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=2"))
    before = sorted(path.name for path in run.iterdir())
    wrong = (
        ("train.precision=fp16", UsageError),
        ("train.wandb=on", UsageError),
        ("data.task=minus", UsageError),
    )
    wrong += (("data.train_ratio=1.5", UsageError),)
    if not torch.cuda.is_available():
        wrong += (("train.device=cuda", DeviceError),)
    for setting, kind in wrong:
        with pytest.raises(kind):
            finished(tiny(run, setting), overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == before


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.save_steps=5"))
    mine = [run / name for name in ("notes.txt", "logs/mine.log", "checkpoint-notes/a", "checkpoint-old.zip")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (run / ".checkpoint-7.tmp-123").mkdir()
    finished(tiny(run, "train.max_steps=3"), overwrite=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert sorted(path.name for path in run.glob("checkpoint-?*") if path.name[11:].isdecimal()) == [
        "checkpoint-3"
    ]
    assert sorted(records(run, "train/loss")) == [1, 2, 3]
    assert not list(run.glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names of foreign bytes")
def test_the_card_names_a_dataset_whose_name_is_no_text(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"data-\xff")
    generate_dataset(DataConfig(max_digits=1), 90, 0, data)
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=1", f"data.data_dir={data}"))
    assert "data-\\udcff" in (run / "best" / "README.md").read_text(encoding="utf-8")
