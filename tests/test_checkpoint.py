"""Checkpoints: they load with nothing beside them, and no signal, kill or full disk costs more than the last steps."""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Child, command_line, finished, records, same_run, state_bytes, tiny, weights
from safetensors.torch import load_file, save_file

from mathllm import __version__
from mathllm.checkpoint import load_checkpoint, read_scope, save_model
from mathllm.config import Config, build_config
from mathllm.data.files import generate_dataset
from mathllm.errors import CheckpointError, UsageError
from mathllm.files import new_directory, write_bytes
from mathllm.finding import find_checkpoint, step_checkpoints
from mathllm.inference.engine import as_tensors
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.resolve import resolve
from mathllm.tasks import Problems
from mathllm.tasks.expressions import parse_expression
from mathllm.tokenizer import encode
from mathllm.training.hooks import standard_hooks
from mathllm.training.run import load_splits, train
from mathllm.training.state import newest, read_progress
from mathllm.training.trainer import Trainer

CPU = torch.device("cpu")
FIXTURES = Path(__file__).parent / "fixtures"
IDS = torch.arange(12)[None]

# checkpoints written by an earlier version, a problem, the beginning of its text, and the logits of the ten digits
# behind that as that version computed them
OF_FORMAT_2 = [
    (
        "addsub-3digit",
        ("658+189", "658+189=<think>8+9=17"),
        [0.8418, 0.8567, -5.035, -1.3618, 2.6531, 27.0391, -0.3561, -6.8456, -10.6088, -4.3307],
    ),
    (
        "add-any-length",
        ("658+189", "856+981=74"),
        [-10.1284, 0.8734, 3.3743, -3.8891, 0.6067, -2.1011, -7.9166, 4.1359, 18.2122, 2.8326],
    ),
    (
        "own-thoughts",
        ("3+4*7", "3+4*7=<think>7"),
        [0.9399, 1.0754, -11.0947, -2.183, -4.8253, -1.1122, 1.0192, 3.7922, -2.8162, 11.0209],
    ),
]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> Path:
    """A finished run; leave it as it is."""
    run = tmp_path_factory.mktemp("runs") / "run"
    finished(tiny(run, "train.save_steps=5", "train.keep=3", "train.eval_steps=10"))
    return run


@pytest.fixture
def run(a_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(a_run, tmp_path / "run", symlinks=True))


# --- what is in it, and how it is found ---


def test_a_checkpoint_loads_with_nothing_beside_it(a_run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "model"
    alone.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(a_run / "best" / name, alone)
    loaded, original = load_checkpoint(alone), load_checkpoint(a_run)
    assert torch.equal(loaded.model(IDS), original.model(IDS))
    assert loaded.data == original.data
    assert loaded.data.max_digits == 1
    assert loaded.format.name == "column"
    assert not loaded.model.training


def test_a_checkpoint_has_all_its_files_and_no_pickle(a_run: Path) -> None:
    for path in step_checkpoints(a_run):
        assert {file.name for file in path.iterdir()} == {
            *("model.safetensors", "config.json", "tokenizer.json", "README.md", "training_config.json"),
            *("training_state.safetensors", "training_state.json"),
        }
    files = [path for path in a_run.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl", ".md", ".log"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def test_names_of_weights_have_no_prefix(a_run: Path) -> None:
    names = set(load_checkpoint(a_run).model.state_dict())
    assert set(load_file(a_run / "best" / "model.safetensors")) == names
    assert not any(name.startswith(("module.", "_orig_mod.")) for name in names)


@pytest.mark.parametrize(("name", "asked", "expected"), OF_FORMAT_2)
def test_checkpoints_of_format_2_compute_what_they_always_did(
    name: str, asked: tuple[str, str], expected: list[float], tmp_path: Path
) -> None:
    directory, (expression, text) = FIXTURES / "format-2" / name, asked
    said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert said["checkpoint_format"] == 2
    old = load_checkpoint(directory)
    problem, ids = old.ask(expression).problems, encode(text)[None]

    def logits(model: MathModel) -> torch.Tensor:
        told = as_tensors(model.format.coordinates(problem, ids, model.model.axes), CPU)
        with torch.no_grad():
            return model.model(torch.from_numpy(ids).long(), told)[0]

    torch.testing.assert_close(logits(old)[-1, :10], torch.tensor(expected), atol=2e-3, rtol=0)
    assert old.solve(expression).correct
    # written anew, it is of format 4 and the same to the last bit
    save_model(tmp_path, old.model, build_config({"model": said["model"]}).model, old.data)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["checkpoint_format"] == 4
    new = load_checkpoint(tmp_path)
    before, after = old.model.state_dict(), new.model.state_dict()
    assert before.keys() == after.keys() == load_file(tmp_path / "model.safetensors").keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(new), logits(old))
    assert (new.data, new.path) == (old.data, tmp_path)
    assert new.solve(expression) == old.solve(expression)


def test_a_checkpoint_of_format_3_has_learned_products_by_one_digit_alone(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(FIXTURES / "format-3" / "times-one-digit", tmp_path / "model"))
    assert load_checkpoint(directory).solve("9*9").correct
    said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert said["checkpoint_format"] == 3
    said["data"]["max_digits"] = 3
    (directory / "config.json").write_text(json.dumps(said))
    scope = read_scope(directory)
    assert scope.data.second_digits == 1
    assert scope.unseen(parse_expression("123*4")) == []
    assert [what for what, _ in scope.unseen(parse_expression("12*34"))] == ["a factor of more than 1 digit"]


@pytest.mark.parametrize("version", [1, 5, "2", 2.0, None])
def test_another_format_is_refused_and_named(version: object, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(FIXTURES / "format-2" / "addsub-3digit", tmp_path / "model"))
    config = directory / "config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**said, "checkpoint_format": version}))
    with pytest.raises(CheckpointError, match=f"has checkpoint format {version}, and this .* reads 2 to 4"):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["addsub-3digit", "add-any-length", "own-thoughts"])
def test_a_run_may_begin_with_weights_of_format_2(name: str, tmp_path: Path) -> None:
    start = FIXTURES / "format-2" / name
    said = json.loads((start / "config.json").read_text(encoding="utf-8"))
    train = {"init": str(start), "output_dir": str(tmp_path / "run"), "threads": 1}
    config = resolve(build_config({"model": said["model"], "data": said["data"], "train": train}))
    source = load_splits(config).source
    model = Trainer(config, source, source.problems(0, 1), total_steps=1, device=CPU).model
    expected = load_checkpoint(start).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_it_is_found_as_directory_file_or_run(a_run: Path) -> None:
    best = (a_run / "best").resolve()
    assert best.name == "checkpoint-20"
    assert find_checkpoint(a_run).resolve() == best
    assert find_checkpoint(str(a_run / "best" / "model.safetensors")).resolve() == best
    assert find_checkpoint(a_run / "checkpoint-10") == a_run / "checkpoint-10"
    assert find_checkpoint(a_run / "checkpoint-10" / "config.json") == a_run / "checkpoint-10"


def test_a_run_without_a_best_gives_its_newest(run: Path) -> None:
    (run / "best").unlink()
    assert find_checkpoint(run) == run / "checkpoint-20"
    shutil.rmtree(run / "checkpoint-20")
    (run / "best").symlink_to("checkpoint-20")  # it points at nothing
    assert find_checkpoint(run) == run / "checkpoint-15"


def test_without_a_path_the_newest_run_here_is_taken(a_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = Path(shutil.copytree(a_run, "checkpoints/z-first", symlinks=True))
    second = Path(shutil.copytree(a_run, "checkpoints/a-second", symlinks=True))
    for age, copy in ((100, first), (50, second)):
        for file in copy.rglob("*"):
            os.utime(file, times=(time.time() - age,) * 2)
    Path("checkpoints/notes").mkdir()
    Path("checkpoints/readme.txt").write_text("not a run")
    assert find_checkpoint() == second / "best"
    os.utime(first / "checkpoint-20" / "model.safetensors")
    assert find_checkpoint() == first / "best"


def test_every_damage_is_named(run: Path, tmp_path: Path) -> None:
    def error(path: str | Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert caught.value.exit_code == 1
        assert caught.value.hint
        return caught.value.message

    best = run / "checkpoint-20"
    model, config = best / "model.safetensors", best / "config.json"
    content, said = model.read_bytes(), json.loads(config.read_text())
    for broken in (content[: len(content) // 2], content[:4], b"", b"not a model" * 99):
        model.write_bytes(broken)
        assert "cannot be read" in error(best)
    model.write_bytes(content)

    def changed(**changes: object) -> str:
        config.write_text(json.dumps({**said, **changes}))
        return error(best)

    assert "feed_forward.down.weight should be [16, 48], found [16, 32]" in changed(
        model={**said["model"], "feed_forward": 48}
    )
    assert "blocks.1.attention.out.weight should be" in changed(model={**said["model"], "layers": 2})
    assert "head.weight should be nothing" in changed(model={**said["model"], "tie_embeddings": True})
    assert "another vocabulary" in changed(vocabulary=[*said["vocabulary"][:-1], "<eos>"])
    assert "another vocabulary" in changed(vocabulary=7)
    assert "does not describe a model" in changed(model={**said["model"], "rotary": 1})
    assert "does not describe a model" in changed(model={**said["model"], "heads": "two"})
    assert "does not describe a model" in changed(model=[])
    assert "does not describe a model" in changed(data={**said["data"], "format": "roman"})
    config.write_text(json.dumps({key: value for key, value in said.items() if key != "data"}))
    assert "'data' is missing" in error(best)
    for text in ('{"vocabulary": [', "", "[]", "\xff"):
        config.write_bytes(text.encode("latin-1"))
        assert "config.json" in error(best)
    config.write_text("[1, 2]")
    assert "names no vocabulary" in error(best)
    config.unlink()
    assert "config.json cannot be read" in error(best)
    assert "there is no checkpoint" in error(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no model.safetensors" in error(tmp_path / "empty")
    assert "is not a checkpoint" in error(best / "README.md")


def test_the_hint_of_another_version_names_both(run: Path) -> None:
    config = run / "checkpoint-20" / "config.json"
    said = json.loads(config.read_text())
    for version, hint in (
        ("9.9.9", f"it was written by mathllm 9.9.9, this is {__version__}"),
        (__version__, "it has been changed since it was written"),
    ):
        config.write_text(json.dumps({**said, "mathllm": version, "model": {**said["model"], "memory": 3}}))
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(run)
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    read = Path.open  # what all of them open files with; root may read everything
    monkeypatch.setattr(Path, "open", refused)
    said = rf"{name} cannot be read: Permission denied\nhint: if it is yours: chmod u\+r "
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(run)


def test_a_new_directory_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    for content in ("old", "new"):
        with new_directory(target) as directory:
            assert directory.parent == tmp_path
            (directory / "file").write_text(content)
        assert (target / "file").read_text() == content
    assert interrupted(target)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert (target / "file").read_text() == "new"
    # killed between the two renames, in some earlier process
    target.rename(tmp_path / ".thing.old-123")
    assert interrupted(target)
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def interrupted(target: Path) -> bool:
    """Is stopped in the middle of filling a directory."""
    try:
        with new_directory(target) as directory:
            (directory / "file").write_text("half")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return True


# --- which ones stay ---


def test_the_best_and_the_newest_stay(tmp_path: Path) -> None:
    # it learns all that it ever will in the first steps: after that the rate is next to nothing, or far too high
    run = tmp_path / "run"
    finished(tiny(run, "train.save_steps=2", "train.keep=2", "train.eval_steps=1000"))
    assert [path.name for path in step_checkpoints(run)] == ["checkpoint-18", "checkpoint-20"]


def test_an_older_best_checkpoint_is_never_pruned(run: Path) -> None:
    # the run has been better at step 10 than it will ever be again
    for path in step_checkpoints(run):
        state = json.loads((path / "training_state.json").read_text())
        state |= {"best_step": 10, "best_exact_match": 0.99}
        (path / "training_state.json").write_text(json.dumps(state))
    finished(
        tiny(run, "train.save_steps=5", "train.keep=2", "train.eval_steps=10", "train.max_steps=40"),
        resume=True,
    )
    names = [path.name for path in step_checkpoints(run)]
    assert names == ["checkpoint-10", "checkpoint-35", "checkpoint-40"]
    assert (run / "best").resolve() == run / "checkpoint-10", "a kill had kept it from being marked"
    assert read_progress(run / "checkpoint-40")[0].best_step == 10


# --- law 2: stopped and resumed is not stopped at all ---


def test_the_checkpoint_of_a_run_that_averages_is_the_average(tmp_path: Path) -> None:
    settings = ("train.save_steps=1", "train.keep=9", "train.max_steps=4")
    finished(tiny(tmp_path / "plain", *settings))
    finished(tiny(tmp_path / "averaged", *settings, "optim.ema_decay=0.3"))
    expected = None
    for step in range(1, 5):
        checkpoint = tmp_path / "averaged" / f"checkpoint-{step}"
        trained = load_file(checkpoint / "training_weights.safetensors")
        for name, tensor in weights(tmp_path / "plain" / f"checkpoint-{step}").items():
            assert torch.equal(trained[name], tensor), "training itself does not see the average"
        if expected is not None:
            decay = min(0.3, step / (9 + step))
            expected = {name: decay * mean + (1 - decay) * trained[name] for name, mean in expected.items()}
            for name, tensor in weights(checkpoint).items():
                torch.testing.assert_close(tensor, expected[name])
        expected = weights(checkpoint)
    for before, after in (("plain", "optim.ema_decay=0.3"), ("averaged", "optim.ema_decay=0")):
        with pytest.raises(UsageError, match="average"):
            finished(tiny(tmp_path / before, *settings, "train.max_steps=6", after), resume=True)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "averaged"])
@pytest.mark.parametrize("source", ["stream", "file", "fixed"])
def test_ten_steps_twice_are_twenty_steps(tmp_path: Path, optimizer: str, source: str) -> None:
    how = ["optim.ema_decay=0.9"] if optimizer == "averaged" else [f"optim.optimizer={optimizer}"]
    settings = [*how, "train.save_steps=10", "train.eval_steps=5"]
    if source == "file":
        generate_dataset(build_config({"data": {"max_digits": 2}}).data, 300, 0, tmp_path / "data")
        settings += [f"data.data_dir={tmp_path / 'data'}", "model.max_length=40", "train.batch_size=40"]
    if source == "fixed":
        settings += ["data.num_examples=50"]
    finished(tiny(tmp_path / "whole", *settings))
    stopped = tiny(tmp_path / "parts", *settings)
    outcome = stop_at(stopped, 10, signal.SIGTERM)
    assert outcome.reason == "signal"
    assert outcome.step == 10
    assert newest(tmp_path / "parts") == tmp_path / "parts" / "checkpoint-10"
    resumed = finished(stopped, resume=True)
    assert resumed.outcome.reason == "finished"
    same_run(tmp_path / "whole", tmp_path / "parts", 20)
    whole, parts = (read_progress(tmp_path / name / "checkpoint-20")[0] for name in ("whole", "parts"))
    assert whole.rows == parts.rows
    assert whole.best_step == parts.best_step


class StoppingSource:
    """Problems of a source, and a signal to this process when a step's are asked for."""

    def __init__(self, config: Config, last: int, number: int) -> None:
        self.source, self.last, self.number = load_splits(config).source, last, number

    def problems(self, step: int, n: int) -> Problems:
        if step == self.last - 1:
            signal.raise_signal(self.number)
        return self.source.problems(step, n)


def stop_at(config: Config, step: int, number: int):
    """Trains until a signal comes in the middle of a step."""
    Path(config.train.output_dir).mkdir()
    config = resolve(config)
    splits = load_splits(config)
    source, hooks = StoppingSource(config, step, number), standard_hooks(config)
    return Trainer(config, source, splits.validation, total_steps=20, device=CPU, hooks=hooks).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    outcome = stop_at(tiny(tmp_path / "run"), 7, number)
    assert (outcome.reason, outcome.signal, outcome.step) == ("signal", number, 7)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert newest(tmp_path / "run") == tmp_path / "run" / "checkpoint-7"
    assert sorted(records(tmp_path / "run", "train/loss")) == list(range(1, 8))
    finished(tiny(tmp_path / "run"), resume=True)
    finished(tiny(tmp_path / "whole"))
    same_run(tmp_path / "run", tmp_path / "whole", 20)


def test_a_finished_run_resumes_to_the_same_end(run: Path) -> None:
    before = state_bytes(run / "checkpoint-20")
    result = finished(tiny(run, "train.save_steps=5", "train.keep=3", "train.eval_steps=10"), resume=True)
    assert result.outcome.reason == "finished"
    assert result.outcome.step == 20
    assert result.test is not None
    assert state_bytes(run / "checkpoint-20") == before


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("model.activation=relu2", "activation 'gelu', not 'relu2'"),
        ("model.heads=4", "heads 2, not 4"),
        ("model.layers=2", "layers 1, not 2"),
        ("model.size=small", "size 'nano', not 'small'"),
        ("optim.optimizer=adamw", "AdamW and Muon"),
    ],
)
def test_a_run_does_not_go_on_as_another(run: Path, setting: str, why: str) -> None:
    before = state_bytes(run / "checkpoint-20")
    with pytest.raises(UsageError, match=why):
        finished(tiny(run, setting, "train.max_steps=30"), resume=True)
    assert state_bytes(run / "checkpoint-20") == before


def test_a_record_cut_short_is_forgotten(run: Path) -> None:
    whole = records(run, "train/loss")
    shutil.rmtree(run / "checkpoint-20")
    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(metrics[:-20])
    finished(tiny(run, "train.save_steps=5", "train.eval_steps=10"), resume=True)
    assert records(run, "train/loss") == whole


# --- kills and full disks ---

KILLED = ("train.save_steps=2", "train.eval_steps=3", "train.keep=1", "train.max_steps=12")


def train_and_die(run: str, moment: int, kind: str = "") -> None:
    """Trains; kills itself when it is about to do its `moment`-th thing (of a kind) to a file of the run."""
    done = 0

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        changes = event.startswith(("os.r", "os.mkdir", "os.symlink", "shutil.rmtree"))
        if event == "open":
            changes = bool(int(arguments[2]) & (os.O_WRONLY | os.O_RDWR))  # type: ignore[call-overload]
        # what is deleted with its directory has a name without one
        inside = run in str(arguments[0]) or event in ("os.remove", "os.rmdir") if arguments else False
        if changes and inside and event.startswith(kind):
            done += 1
            if done == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    config = tiny(Path(run), *KILLED)
    train(config, resume=(Path(run) / "training_config.json").exists())


def test_killed_at_any_moment_a_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    finished(tiny(tmp_path / "whole", *KILLED))
    run, kills = tmp_path / "run", 0
    chance = random.Random(os.environ.get("KILLS", "0"))
    # in the middle of a directory that is deleted, before one gets its name; then at some of the 200 moments of a life
    moments = itertools.chain(
        [(3, "os.remove"), (9, "os.rename")], ((chance.randrange(40, 100), "") for _ in itertools.count())
    )
    for moment, kind in moments:
        child = Child(train_and_die, str(run), moment, kind, files=tmp_path)
        code = child.wait()
        # whatever has a checkpoint's name is whole
        for path in run.glob("checkpoint-*"):
            assert read_progress(path)[0].step == int(path.name[11:])
            assert load_file(path / "training_state.safetensors")
            load_checkpoint(path)
        if step_checkpoints(run):
            load_checkpoint(run)
        if code == 0:
            break
        assert code == -signal.SIGKILL, child.err
        kills += 1
    assert kills > 2, "it was not killed often enough to tell anything"
    same_run(run, tmp_path / "whole", 12)
    assert [path.name for path in step_checkpoints(run)] == [
        path.name for path in step_checkpoints(tmp_path / "whole")
    ]
    assert os.readlink(run / "best") == os.readlink(tmp_path / "whole" / "best")
    leftovers = [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_what_a_kill_leaves_is_no_checkpoint_and_goes_at_the_next_start(run: Path) -> None:
    shutil.copytree(run / "checkpoint-20", run / ".checkpoint-25.tmp-4711")
    (run / ".checkpoint-15.old-4711").mkdir()
    (run / ".best.tmp-4711").symlink_to("checkpoint-25")
    (run / ".metrics.jsonl.tmp-4711").write_text("{")
    (run / ".mine.tmp-4711").write_text("somebody else's")
    assert find_checkpoint(run) == run / "best"
    assert newest(run) == run / "checkpoint-20"
    finished(tiny(run), resume=True)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [".mine.tmp-4711"]


def on_a_small_disk(limit: int, *arguments: str) -> None:
    # no file may grow beyond the limit: to whoever writes it, that is a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    command_line(*arguments)


def resume_on_a_small_disk(files: Path, run: Path, limit: int, steps: int) -> str:
    """What the command says when it has failed."""
    command = ("train", "--resume", "--output-dir", str(run), "--max-steps", str(steps))
    child = Child(on_a_small_disk, limit, *command, files=files)
    assert child.wait() == 1
    assert "error: cannot write" in child.err
    assert "File too large" in child.err
    assert "hint: " in child.err
    assert "Traceback" not in child.err
    return child.err


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("model.hidden=64", "train.save_steps=10", "train.max_steps=10", "optim.schedule=constant")
    finished(tiny(run, *small))
    before = state_bytes(run / "checkpoint-10")
    assert len(before[0]) > 60_000
    assert "model.safetensors" in resume_on_a_small_disk(tmp_path, run, limit=50_000, steps=20)
    assert [path.name for path in run.iterdir() if path.name.startswith((".", "check"))] == ["checkpoint-10"]
    assert state_bytes(run / "checkpoint-10") == before
    load_checkpoint(run)
    finished(tiny(run, *small, "train.max_steps=20"), resume=True)
    finished(tiny(tmp_path / "whole", *small, "train.max_steps=20"))
    assert state_bytes(run / "checkpoint-20") == state_bytes(tmp_path / "whole" / "checkpoint-20")


def test_a_log_that_cannot_be_written_is_an_error_with_a_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished(tiny(run, "train.max_steps=10"))
    assert "training.log" in resume_on_a_small_disk(tmp_path, run, limit=4000, steps=90)
    load_checkpoint(run)


def write_too_much(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # what it says has to fit, too
    write_bytes(Path(path), b"new" * 9000)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    child = Child(write_too_much, str(path), files=tmp_path)
    assert child.wait() == 1
    assert "cannot write" in child.err
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.glob(".file*"))


def test_weights_saved_are_weights_loaded(tmp_path: Path) -> None:
    """Also from a file that another program has written, in half precision."""
    config = tiny(tmp_path).model
    model = Transformer.from_config(config, seed=1).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # a new one says 0 of every token, whatever its other weights are
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_model(tmp_path, model, config, tiny(tmp_path).data)
    assert model(IDS).std() > 0.1
    assert torch.equal(load_checkpoint(tmp_path).model(IDS), model(IDS))
    half = {
        name: tensor.to(torch.bfloat16) for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(half, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path).model
    assert loaded.embedding.weight.dtype == torch.float32
    np.testing.assert_allclose(loaded(IDS).detach(), model(IDS).detach(), atol=0.1)
