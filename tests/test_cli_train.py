"""`mathllm train`: which settings count, what it says, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from runs import Child, command_line, records, same_run, state_bytes

from mathllm.cli.main import main
from mathllm.cli.train import report
from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset
from mathllm.finding import find_checkpoint, step_checkpoints
from mathllm.locks import locked
from mathllm.training.run import TrainResult
from mathllm.training.trainer import Outcome

# what makes any run last a fraction of a second
SMALL = (
    "--model-size",
    "nano",
    "--set",
    "model.layers=1",
    "--set",
    "model.hidden=16",
    "--set",
    "model.heads=2",
)
SMALL += ("--set", "model.feed_forward=32", "--set", "train.eval_examples=20", "--batch-size", "8")
QUICK = (*SMALL, "--max-digits", "1", "--set", "data.train_ratio=0.7", "--set", "data.val_ratio=0.15")


class Ended(NamedTuple):
    """How a command went."""

    code: Any
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs `mathllm train ...` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def command(*options: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mathllm", "train", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code or 0, *capfd.readouterr())

    return command


def settings(directory: str) -> dict[str, Any]:
    """The settings that a run was made with, all sections in one."""
    tables = json.loads(Path(directory, "training_config.json").read_text(encoding="utf-8"))
    return {
        f"{section}.{name}": value for section, values in tables.items() for name, value in values.items()
    }


def test_the_result_goes_to_stdout_and_talk_to_stderr(run: Any) -> None:
    ended = run(*QUICK, "--max-steps", "4", "--output-dir", "out")
    assert ended.code == 0
    first, second = ended.out.splitlines()
    assert first.startswith("test exact match 0.00% (0 of ")
    assert second == "best checkpoint out/best"
    for words in (
        "2,608 parameters",
        "W&B is off",
        "finished after 4 steps",
        "mathllm chat --checkpoint out",
    ):
        assert words in ended.err
    assert "\x1b" not in ended.err, "no colours where there is no terminal"


def test_without_a_flag_for_it_the_run_gets_a_name_of_its_own(run: Any) -> None:
    assert run(*QUICK, "--task", "addition,subtraction", "--max-steps", "2").code == 0
    assert find_checkpoint() == Path("checkpoints/addition-subtraction-nano/best")


def test_every_flag_is_a_setting(run: Any) -> None:
    flags = {
        "--position": ("model.position", "learned"),
        "--max-length": ("model.max_length", 44),
        "--task": ("data.task", "addition,subtraction"),
        "--format": ("data.format", "reversed"),
        "--max-digits": ("data.max_digits", 2),
        "--max-operands": ("data.max_operands", 3),
        "--sampling": ("data.sampling", "uniform,balanced"),
        "--train-ratio": ("data.train_ratio", 0.8),
        "--val-ratio": ("data.val_ratio", 0.1),
        "--batch-size": ("train.batch_size", 6),
        "--grad-accumulation": ("train.grad_accumulation", 2),
        "--learning-rate": ("optim.learning_rate", 0.01),
        "--weight-decay": ("optim.weight_decay", 0.1),
        "--optimizer": ("optim.optimizer", "adamw"),
        "--schedule": ("optim.schedule", "cosine"),
        "--warmup-steps": ("optim.warmup_steps", 3),
        "--num-epochs": ("train.num_epochs", 5),
        "--max-steps": ("train.max_steps", 3),
        "--target-exact-match": ("train.target_exact_match", 0.75),
        "--patience": ("train.patience", 9),
        "--output-dir": ("train.output_dir", "out"),
        "--seed": ("train.seed", 7),
        "--device": ("train.device", "cpu"),
        "--precision": ("train.precision", "fp32"),
        "--eval-batch-size": ("train.eval_batch_size", 10),
        "--eval-steps": ("train.eval_steps", 2),
        "--save-steps": ("train.save_steps", 2),
        "--logging-steps": ("train.logging_steps", 1),
    }
    words = [word for flag, (_, value) in flags.items() for word in (flag, str(value))]
    assert run(*SMALL, *words, "--no-wandb", "--no-compile", "--signed", "--zero-pad").code == 0
    made = settings("out")
    assert {name: made[name] for name, _ in flags.values()} == dict(flags.values())
    assert (made["train.wandb"], made["train.compile"]) == ("off", False)
    assert (made["data.signed"], made["data.zero_pad"]) == (True, True)


def test_a_switch_can_be_turned_off_again(run: Any) -> None:
    Path("mine.toml").write_text('[data]\ntask = "subtraction"\nsigned = true\nzero_pad = true\n')
    off = ("--recipe", "mine.toml", "--no-signed", "--no-zero-pad", "--max-steps", "1", "--output-dir", "out")
    assert run(*SMALL, *off).code == 0
    assert (settings("out")["data.signed"], settings("out")["data.zero_pad"]) == (False, False)


def test_the_result_as_json(run: Any) -> None:
    ended = run(*QUICK, "--max-steps", "2", "--output-dir", "out", "--json")
    assert ended.code == 0
    document = json.loads(ended.out)
    assert (document["run"], document["best"]) == ("out", "out/best")
    assert (document["reason"], document["step"]) == ("finished", 2)
    assert document["test"] == json.loads(Path("out/test_results.json").read_text())
    assert "finished after 2 steps" in ended.err


def test_almost_all_is_not_said_to_be_all(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome("finished", step=9, best_step=9, best_exact_match=1.0, seconds=1.0)
    result = TrainResult(Path("out"), outcome, {"correct": 19_999, "num_examples": 20_000})
    report(result, as_json=False)
    assert capsys.readouterr().out.startswith(
        "test exact match 99.995% (19,999 of 20,000; 95% interval 99.97% to "
    )


def test_flags_beat_set_and_set_beats_the_recipe_and_that_the_size(run: Any) -> None:
    Path("mine.toml").write_text(
        '[model]\nsize = "nano"\nlayers = 1\nhidden = 32\n[data]\nmax_digits = 1\ntrain_ratio = 0.7\n'
        "val_ratio = 0.15\n[train]\nbatch_size = 4\nmax_steps = 9\neval_examples = 5\nseed = 3\n"
    )
    options = (
        "--set",
        "model.hidden=16",
        "--set",
        "train.batch_size=5",
        "--batch-size",
        "6",
        "--max-steps",
        "2",
    )
    assert run("--recipe", "mine.toml", *options, "--output-dir", "out").code == 0
    made = settings("out")
    assert (made["model.size"], made["model.heads"], made["model.layers"], made["model.hidden"]) == (
        "nano",
        4,
        1,
        16,
    )
    assert (made["train.batch_size"], made["train.max_steps"], made["train.seed"]) == (6, 2, 3)


# --- data ---


def make_data(directory: str, **options: Any) -> None:
    data = DataConfig(**{"max_digits": 2, "task": "subtraction", "format": "reversed", **options})
    generate_dataset(data, 400, 0, Path(directory))


def test_data_is_found_and_says_what_it_is(run: Any) -> None:
    make_data("data")
    ended = run(*SMALL, "--max-steps", "2", "--output-dir", "out")
    assert "360 rows of data" in ended.err
    made = settings("out")
    assert (made["data.data_dir"], made["data.task"], made["data.format"]) == (
        "data",
        "subtraction",
        "reversed",
    )
    assert made["data.max_digits"] == 2
    # another notation of the same problems
    assert run(*SMALL, "--max-steps", "2", "--format", "column", "--output-dir", "other").code == 0
    made = settings("other")
    assert (made["data.data_dir"], made["data.format"]) == ("data", "column")


def test_epochs_of_a_file_are_counted_in_its_rows(run: Any) -> None:
    make_data("mine")
    ended = run(
        *SMALL, "--data-dir", "mine", "--batch-size", "100", "--num-epochs", "2", "--output-dir", "out"
    )
    assert "finished after 8 steps" in ended.err
    some = (
        "--set",
        "data.num_examples=150",
        "--num-epochs",
        "2",
        "--batch-size",
        "100",
        "--output-dir",
        "part",
    )
    ended = run(*SMALL, "--data-dir", "mine", *some)
    assert "150 rows of mine" in ended.err
    assert "finished after 3 steps" in ended.err


def test_a_stream_is_taken_where_one_is_asked_for(run: Any) -> None:
    make_data("data")
    ended = run(*QUICK, "--max-steps", "2", "--output-dir", "out")
    assert "an endless stream" in ended.err
    assert settings("out")["data.data_dir"] == ""


@pytest.mark.parametrize(
    "option",
    [("--task", "addition"), ("--max-digits", "3"), ("--set", "data.sampling=uniform"), ("--no-signed",)],
)
def test_files_and_a_stream_exclude_each_other(run: Any, option: tuple[str, ...]) -> None:
    make_data("mine")
    ended = run(*SMALL, "--data-dir", "mine", *option)
    assert ended.code == 2
    assert "stream" in ended.err
    assert "hint: " in ended.err


def test_a_file_with_larger_problems_than_its_metadata_says_is_refused(run: Any) -> None:
    make_data("mine")
    with Path("mine/val.jsonl").open("a") as file:
        file.write('{"expression": "123-45", "answer": "78", "text": "321-54=87<end>"}\n')
    ended = run(*SMALL, "--data-dir", "mine", "--max-steps", "2")
    assert ended.code == 1
    assert "mine/val.jsonl has a problem with 2 operands or 3 digits" in ended.err


def test_the_loss_mask_is_shown(run: Any) -> None:
    ended = run(*QUICK, "--show-loss-mask", "--num-workers", "4")
    assert ended.code == 0
    assert ended.err.startswith("note: --num-workers is not needed any more: problems are drawn far faster")
    lines = ended.out.splitlines()
    assert len(lines) == 6
    for text, marks in zip(lines[::2], lines[1::2], strict=True):
        prompt, _, completion = text.partition("=")
        assert marks == " " * (len(prompt) + 1) + re.sub("[^ ]", "^", completion)
        assert text.endswith("<end>")
    assert not Path("checkpoints").exists()
    make_data("data")
    shown = run(*SMALL, "--show-loss-mask").out.splitlines()[0]
    assert shown in Path("data/train.jsonl").read_text(), "a row of the data"


def test_a_number_of_epochs_counts_more_than_the_steps_of_a_recipe(run: Any) -> None:
    Path("mine.toml").write_text('[model]\nsize = "nano"\n[data]\nformat = "plain"\n[train]\nmax_steps = 3\n')
    make_data("data")
    data = ("--data-dir", "data", "--recipe", "mine.toml")
    ended = run(*SMALL, *data, "--num-epochs", "2", "--batch-size", "90", "--output-dir", "out")
    assert "finished after 8 steps" in ended.err
    assert settings("out")["data.format"] == "plain", "a recipe says more about the format than the data do"
    ended = run(*SMALL, *data, "--num-epochs", "2", "--max-steps", "1", "--output-dir", "both")
    assert "finished after 1 step," in ended.err


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (("--task", "subtraction"), "data.task 'addition', not 'subtraction'"),
        (("--format", "plain"), "data.format 'column', not 'plain'"),
        (("--seed", "9"), "train.seed 0, not 9"),
        (("--batch-size", "9"), "steps of 9, and this run's have 8\nhint: --batch-size 8"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(run: Any, other: tuple[str, ...], said: str) -> None:
    assert run(*QUICK, "--max-steps", "2", "--output-dir", "out").code == 0
    before = state_bytes(Path("out/checkpoint-2"))
    ended = run(*QUICK, *other, "--max-steps", "4", "--output-dir", "out", "--resume")
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert state_bytes(Path("out/checkpoint-2")) == before
    assert not Path("out/checkpoint-4").exists()


def test_the_demo_replaces_its_own_run_only(
    run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*QUICK, "--max-steps", "2", "--output-dir", "out").code == 0
    monkeypatch.setattr(sys, "argv", ["mathllm", "demo", "--output-dir", "out", "--max-steps", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    hint = "--overwrite starts anew, --output-dir writes elsewhere"  # it has no --resume
    assert capfd.readouterr().err == f"error: out already holds a run\nhint: {hint}\n"
    assert sorted(path.name for path in Path("out").glob("checkpoint-*")) == ["checkpoint-2"]
    assert not Path("out/data").exists()


def test_the_demo_leaves_a_dataset_and_a_running_training_alone(
    run: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def demo() -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["mathllm", "demo", "--output-dir", "data", "--overwrite"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capfd.readouterr().err

    make_data("data")
    before = sorted(Path("data").iterdir())
    code, said = demo()
    assert (code, "data holds a dataset" in said) == (2, True)
    ended = run(*QUICK, "--output-dir", "data")
    assert (ended.code, "data holds a dataset" in ended.err) == (2, True)
    assert sorted(Path("data").iterdir()) == before
    with locked(Path("data"), "a training"):
        code, said = demo()
    assert (code, "a training is running in data" in said) == (1, True)


def test_the_log_tells_the_whole_run(run: Any) -> None:
    assert run(*QUICK, "--max-steps", "2", "--output-dir", "out").code == 0
    log = Path("out/logs/training.log").read_text(encoding="utf-8")
    for words in (
        "2,608 parameters",
        "W&B is off",
        "step 2: exact match",
        "finished after 2 steps",
        "test exact",
    ):
        assert words in log
    ended = run(*QUICK, "--set", "optim.learning_rate=1e38", "--max-steps", "20", "--output-dir", "bad")
    assert ended.code == 1
    assert "the loss is nan" in Path("bad/logs/training.log").read_text(encoding="utf-8")


# --- directories that hold a run ---


def test_a_run_is_never_overwritten_by_accident(run: Any) -> None:
    assert run(*QUICK, "--max-steps", "2", "--output-dir", "out").code == 0
    before = state_bytes(Path("out/checkpoint-2"))
    ended = run(*QUICK, "--max-steps", "3", "--output-dir", "out")
    assert ended.code == 2
    assert "out already holds a run" in ended.err
    assert "--resume" in ended.err
    assert "--overwrite" in ended.err
    assert state_bytes(Path("out/checkpoint-2")) == before
    assert run(*QUICK, "--output-dir", "out", "--resume", "--overwrite").code == 2
    Path("out/notes.txt").write_text("mine")
    assert run(*QUICK, "--max-steps", "3", "--output-dir", "out", "--overwrite").code == 0
    assert [path.name for path in step_checkpoints(Path("out"))] == ["checkpoint-3"]
    assert Path("out/notes.txt").read_text() == "mine"


def test_resume_keeps_the_settings_of_the_run(run: Any) -> None:
    assert (
        run(*QUICK, "--seed", "5", "--schedule", "constant", "--max-steps", "3", "--output-dir", "out").code
        == 0
    )
    make_data("data")  # not what this run was started on
    ended = run("--resume", "--output-dir", "out", "--max-steps", "5")
    assert ended.code == 0
    assert "from step 3" in ended.err
    made = settings("out")
    assert (made["train.seed"], made["optim.schedule"], made["model.hidden"]) == (5, "constant", 16)
    assert (made["data.data_dir"], made["data.max_digits"], made["train.max_steps"]) == ("", 1, 5)
    whole = (*QUICK, "--seed", "5", "--schedule", "constant", "--max-steps", "5", "--output-dir", "whole")
    assert run(*whole).code == 0
    assert state_bytes(Path("out/checkpoint-5")) == state_bytes(Path("whole/checkpoint-5"))


def test_resume_finds_the_run_by_the_same_flags(run: Any) -> None:
    options = (*QUICK, "--task", "subtraction")
    assert run(*options, "--max-steps", "2").code == 0
    assert "from step 2" in run(*options, "--max-steps", "3", "--resume").err


def test_resume_goes_on_with_its_run_whatever_data_lies_about(run: Any) -> None:
    own = ("--task", "addition", *QUICK, "--learning-rate", "0.0123", "--set", "optim.schedule=constant")
    assert run(*own, "--max-steps", "2").code == 0
    others = DataConfig(task="subtraction", max_digits=2, train_ratio=0.7, val_ratio=0.15)
    generate_dataset(others, 300, 0, Path("data"))
    assert run("--resume", "--model-size", "nano", "--max-steps", "4").code == 0
    said = settings("checkpoints/addition-nano")
    assert (said["optim.learning_rate"], said["optim.schedule"]) == (0.0123, "constant")
    assert (said["train.max_steps"], said["data.task"], said["data.data_dir"]) == (4, "addition", "")


def test_a_warm_up_by_flag_leaves_what_a_recipe_supervises(run: Any) -> None:
    Path("mine.toml").write_text(
        '[data]\ntask = "chain"\nformat = "steps"\n'
        '[objective]\nname = "gumbel"\nsupervised = 3\nwarmup_steps = 10\n'
    )
    for warmup, supervised in ((2, 3), (0, 0)):
        directory = f"run-{warmup}"
        ended = run(
            *("--recipe", "mine.toml", *SMALL, "--max-digits", "3", "--max-steps", "1"),
            *("--thought-warmup", str(warmup), "--output-dir", directory),
        )
        assert ended.code == 0, ended.err
        said = settings(directory)
        assert (said["objective.warmup_steps"], said["objective.supervised"]) == (warmup, supervised)


def test_there_must_be_a_run_to_resume(run: Any) -> None:
    ended = run(*QUICK, "--resume", "--output-dir", "nothing")
    assert ended.code == 2
    assert "nothing holds no run to resume" in ended.err
    assert not Path("nothing").exists()


def test_damaged_settings_of_a_run_are_named(run: Any) -> None:
    assert run(*QUICK, "--max-steps", "2", "--output-dir", "out").code == 0
    for text in ("{", "[]", '{"model": 3}'):
        Path("out/training_config.json").write_text(text)
        ended = run("--resume", "--output-dir", "out")
        assert ended.code == 2
        assert "out/training_config.json cannot be read" in ended.err


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model-size", "smal"), "did you mean 'small'?"),
        (("--position", "ropes"), "did you mean 'rope'?"),
        (("--task", "adition"), "did you mean 'addition'?"),
        (("--format", "colum"), "did you mean 'column'?"),
        (("--optimizer", "adam"), "did you mean 'adamw'?"),
        (("--schedule", "linar"), "did you mean 'linear'?"),
        (("--precision", "fp61"), "did you mean 'fp16'?"),
        (("--device", "cudda"), "did you mean 'cuda'?"),
        (("--recipe", "addsub-3digits"), "did you mean 'addsub-3digit'?"),
        (("--set", "optim.learning_rat=1"), "did you mean 'learning_rate'?"),
        (("--set", "modell.layers=1"), "did you mean 'model'?"),
        (("--set", "data.sampling=balance"), "did you mean 'balanced'?"),
        (("--set", "layers=1"), "section.key=value"),
        (("--set", "model.layers=many"), "whole number"),
        (("--batch-size", "0"), "at least 1"),
        (("--max-steps", "0"), "--max-steps must be at least 1, not 0"),
        (("--output-dir", ""), "an empty text names no place"),
        (("--data-dir", ""), "an empty text names no place"),
        (("--learning-rate", "-1"), "at least 0"),
        (("--learning-rate", "nan"), "a number, not nan"),
        (("--target-exact-match", "99"), "from 0 to 1"),
        (("--max-length", "12"), "--max-length"),
        (("--fp16", "--precision", "bf16"), "exclude each other"),
        (("--recipe", "nothing.toml"), "there is no recipe file"),
        (("--no-such-flag",), "No such option"),
        (("--max-steps", "ten"), "integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_an_error_of_usage(run: Any, options: tuple[str, ...], words: str) -> None:
    ended = run(*options)
    assert ended.code == 2
    assert words in " ".join(ended.err.replace("│", " ").split())
    assert ended.out == ""
    assert not Path("checkpoints").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_request_for_cuda_without_cuda_is_an_error(run: Any) -> None:
    ended = run(*QUICK, "--device", "cuda")
    assert ended.code == 1
    assert ended.err == (
        "error: CUDA was asked for, but this machine or this PyTorch has none\nhint: use --device cpu\n"
    )
    assert run(*QUICK, "--fp16").code == 2, "half precision needs CUDA"
    assert not Path("checkpoints").exists()


def test_an_output_directory_that_cannot_be_is_an_error(run: Any) -> None:
    Path("file").write_text("mine")
    ended = run(*QUICK, "--output-dir", "file")
    assert ended.code == 2
    assert "file is not a directory" in ended.err
    ended = run(*QUICK, "--output-dir", "file/below")
    assert ended.code == 1
    assert "cannot write file/below: Not a directory" in ended.err


def test_thoughts_of_the_models_own_by_flags(run: Any) -> None:
    chains = (*SMALL, "--task", "chain", "--format", "steps", "--max-steps", "3", "--use-gumbel")
    flags = ("--gumbel-temperature", "2", "--gumbel-temperature-end", "0.5", "--estimator", "soft")
    assert run(*chains, *flags, "--thought-warmup", "2", "--output-dir", "run").code == 0
    objective = json.loads(Path("run/training_config.json").read_text())["objective"]
    assert objective == {
        "name": "gumbel",
        "estimator": "soft",
        "temperature": 2.0,
        "temperature_end": 0.5,
        "noise": 1.0,
        "gradient_slots": 0,
        "supervised": 1,
        "warmup_steps": 2,
    }
    shown = run(*chains, "--show-loss-mask").out.splitlines()
    text, marks = shown[0], shown[1]
    scored = "".join(c for c, mark in zip(text, marks.ljust(len(text)), strict=True) if mark == "^")
    assert scored == text.partition("</think>")[2], "the answer and its end alone"
    again = (
        *SMALL,
        "--resume",
        "--output-dir",
        "run",
        "--max-steps",
        "4",
        "--format",
        "steps",
        "--task",
        "chain",
    )
    assert run(*again, "--use-gumbel").code == 0, "what the run was started with is still said"
    three = ("--thought-warmup", "2", "--set", "objective.supervised=3", "--output-dir", "three")
    assert run(*chains, *three).code == 0
    assert json.loads(Path("three/training_config.json").read_text())["objective"]["supervised"] == 3
    controls = ("--recipe", "chain-thoughts", "--no-gumbel", "--format", "filler", "--max-steps", "1")
    assert run(*controls, "--batch-size", "64", "--output-dir", "control").code == 0
    named = (*SMALL, "--task", "chain", "--format", "steps", "--max-steps", "1", "--objective", "gumbel")
    assert run(*named, "--output-dir", "named").code == 0
    assert settings("named")["objective.name"] == "gumbel"
    assert "exclude each other" in run(*named, "--no-gumbel").err
    assert "did you mean 'gumbel'?" in run(*SMALL, "--objective", "gumble").err
    original = ("--use-gumbel", "--gumbel-temperature", "1.0", "--max-steps", "1", "--max-digits", "1")
    assert run(*QUICK, *original, "--output-dir", "original").code == 0
    assert settings("original")["data.format"] == "slots"
    make_data("data")
    assert run(*SMALL, *original[:-2], "--output-dir", "of-data").code == 0
    said = settings("of-data")
    assert (said["data.data_dir"], said["data.format"]) == ("data", "slots"), "not the column of the files"
    again = ("--resume", "--data-dir", "data", "--output-dir", "of-data", "--max-steps", "2")
    assert run(*SMALL, *again).code == 0
    for given in (("--format", "column"), ("--set", "data.format=column")):
        ended = run(*SMALL, *original[:-2], *given, "--output-dir", "other")
        assert (ended.code, "no thought of a known length" in ended.err) == (2, True)
    for flag in ("--estimator", "--gumbel-temperature"):
        ended = run(*SMALL, flag, "soft" if flag == "--estimator" else "2", "--output-dir", "other")
        assert ended.code == 2
        assert "does nothing without --use-gumbel" in ended.err


def test_a_curriculum_trains_on_a_stream_whatever_lies_about(run: Any) -> None:
    generate_dataset(DataConfig(max_digits=2), 200, 0, Path("data"))
    curriculum = (*SMALL, "--max-steps", "3", "--set", "data.curriculum_steps=2")
    assert run(*curriculum, "--output-dir", "run").code == 0
    assert settings("run")["data.data_dir"] == ""
    ended = run(*curriculum, "--data-dir", "data")
    assert "a curriculum over length needs an endless stream" in ended.err


def test_a_data_directory_that_is_none_is_an_error(run: Any) -> None:
    ended = run(*SMALL, "--data-dir", "nowhere")
    assert ended.code == 1
    assert "there is no directory nowhere" in ended.err
    assert "mathllm gen-data --output-dir nowhere" in ended.err


def test_w_and_b_without_a_key_is_an_error_if_asked_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(*QUICK, "--wandb")
    assert ended.code == 2
    assert "WANDB_MODE" in ended.err
    monkeypatch.delenv("WANDB_MODE")
    ended = run(*QUICK, "--wandb")
    assert ended.code == 2
    assert "W&B is not logged in" in ended.err
    assert "wandb login" in ended.err
    assert run(*QUICK, "--max-steps", "2").err.count("W&B is off (not logged in)") == 1


# --- signals ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_command_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    options = (*QUICK, "--logging-steps", "1", "--schedule", "constant", "--output-dir", "out dir")
    child = Child(command_line, "train", *options, "--max-steps", "100000", files=tmp_path)
    child.stop_after(3, tmp_path / "out dir" / "metrics.jsonl", number)
    assert child.wait() == code
    assert "mathllm train --resume --output-dir 'out dir'" in child.err
    assert child.out == ""
    (saved,) = step_checkpoints(tmp_path / "out dir")
    step = int(saved.name[11:])
    assert f"stopped and saved at step {step:,}" in child.err
    assert child.err.count("stopping after this step; again to stop now") == 1
    assert max(records(tmp_path / "out dir", "train/loss")) == step
    more = ("--max-steps", str(step + 3))
    resumed = Child(command_line, "train", "--resume", "--output-dir", "out dir", *more, files=tmp_path)
    assert resumed.wait() == 0, resumed.err
    whole = Child(command_line, "train", *options[:-1], "whole", *more, files=tmp_path)
    assert whole.wait() == 0, whole.err
    same_run(tmp_path / "out dir", tmp_path / "whole", step + 3)


# --- the console ---


def test_of_several_processes_the_first_tells_what_is_wrong(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others give it time: torchrun ends them when the first has failed; what is wrong with one alone is said."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for rank, times in (("0", 0), ("1", 1)):
        monkeypatch.setenv("RANK", rank)
        ended = run("--position", "ropes")
        assert (ended.code, len(waited)) == (2, times)
        assert ended.err.startswith("error: ")


def test_help_answers_without_torch_and_shows_every_default() -> None:
    code = "import sys; from mathllm.cli.main import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.replace("│", " ").split())
    for words in (
        "[default: small]",
        "[default: rope]",
        "[default: 128]",
        "[default: muon]",
        "[default: 0.003]",
    ):
        assert words in text
    assert "[dim]" not in text
