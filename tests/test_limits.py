"""A few bytes never ask for more memory or time than a machine has: all sizes are looked at first."""

import json
import os
import shutil
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from shipped import ADDSUB, ANY_LENGTH
from trained import parrot
from typer.testing import CliRunner

from mathllm.checkpoint import load_checkpoint
from mathllm.cli.main import app
from mathllm.config import build_config, load_recipe
from mathllm.data.importing import read_problems
from mathllm.errors import CheckpointError, DataError, UsageError
from mathllm.evaluation.grid import evaluate_grid
from mathllm.evaluation.lengths import draw_length
from mathllm.inference import engine
from mathllm.resolve import resolve
from mathllm.study import load_study
from mathllm.tasks import TASKS
from mathllm.tasks.expressions import alike, read_expressions
from mathllm.training.state import Progress, read_progress

MIB = 2**20


def foreign(directory: Path, **model: Any) -> Path:
    """A copy of a checkpoint that ships, whose config.json says something else of its model."""
    shutil.copytree(ADDSUB, directory)
    config = directory / "config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    said["model"] |= model
    config.write_text(json.dumps(said), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"layers": 1_000_000_000}),
        ("model", {"loops": 1_000_000_000}),
        ("model", {"layers": 200, "loops": 200}),
        ("model", {"hidden": 10**400}),
        ("model", {"hidden": 16384, "heads": 4}),
        ("model", {"position": "learned", "hidden": 256, "max_length": 1 << 20}),
        ("model", {"position": "coupled-bias", "bias_near": 10**9}),
        ("data", {"max_digits": 1_000_000_000}),
        ("data", {"max_operands": 1_000_000_000}),
        ("data", {"num_examples": 10**18}),
        ("data", {"num_examples": 10**9}),
        ("train", {"batch_size": 100_000_000}),
        ("train", {"batch_size": 10_000_000}),
        ("train", {"eval_examples": 10_000_000}),
        ("train", {"threads": 10**6}),
        ("train", {"max_steps": 10**30}),
        ("optim", {"warmup_steps": 10**400}),
        ("objective", {"name": "rejection-sampling", "samples": 10**9}),
    ],
)
def test_settings_are_bounded(section: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"must be at most|too large to hold|too many to hold|has room for"):
        resolve(build_config({section: values}))


@pytest.mark.parametrize(
    "values",
    [
        {"layers": 200},
        {"layers": 1_000_000},
        {"loops": 1_000_000_000},
        {"hidden": 4096},
        {"max_length": 1 << 20},
    ],
)
def test_a_checkpoint_is_measured_before_its_model_is_made(tmp_path: Path, values: dict[str, int]) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"must be at most|has room for|parameters or more, and model.safetensors has 15|does not fit its",
    ):
        load_checkpoint(foreign(tmp_path / "foreign", **values))


def test_weights_of_two_hundred_gigabytes_are_not_read(tmp_path: Path) -> None:
    directory = foreign(tmp_path / "foreign")
    os.truncate(directory / "model.safetensors", 200 * 2**30)  # a sparse file, which takes no room
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(directory)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = foreign(tmp_path / "foreign")
    weights = load_file(directory / "model.safetensors")
    save_file({name: tensor.int() for name, tensor in weights.items()}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="it holds I32, and weights are F32, BF16, F16 or F64"):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    directory = foreign(tmp_path / "foreign")
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(CheckpointError):
        load_checkpoint(directory)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, " " * (17 * MIB), "1" * 10_000])
def test_documents_that_are_too_deep_or_too_large(tmp_path: Path, text: str) -> None:
    directory = foreign(tmp_path / "foreign")
    for name in ("config.json", "training_state.json"):
        (directory / name).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_checkpoint(directory)
    with pytest.raises(CheckpointError, match=r"training_state.json cannot be read"):
        read_progress(directory)


def test_progress_below_zero_is_damage(tmp_path: Path) -> None:
    state = {**asdict(Progress(step=-1)), "scaler": {}}
    (tmp_path / "training_state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(CheckpointError, match="step is '-1'"):
        read_progress(tmp_path)


def test_a_long_row_among_many_short_ones_is_refused_in_little_memory(tmp_path: Path) -> None:
    long = "9" * 3999
    path = tmp_path / "sums.txt"
    path.write_text("1+1=2\n" * 20_000 + f"{long}+0={long}\n" + "1+1=2\n" * 20_000, encoding="ascii")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="would take too much memory"):
            read_problems(path)
        assert tracemalloc.get_traced_memory()[1] < 300 * MIB
    finally:
        tracemalloc.stop()


def test_lines_of_all_sizes_are_answered_in_little_memory() -> None:
    model = load_checkpoint(ADDSUB)
    texts = ["1+1", "+".join("1" * 100), "9" * 2000 + "+1", "12-34", "5" * 4001 + "+1"] * 10
    tracemalloc.start()
    try:
        outcomes = model.try_many(texts)
        assert tracemalloc.get_traced_memory()[1] < 300 * MIB
    finally:
        tracemalloc.stop()
    assert list(map(str, outcomes[:5])) == [str(model.try_many([text])[0]) for text in texts[:5]]


def test_groups_of_like_size_hold_every_row_once() -> None:
    texts = ["1+1", "9" * 3000 + "+1", "+".join("1" * 90), "2-1"] * 40
    groups = alike(texts)
    assert len(groups) > 1
    assert sorted(row for group in groups for row in group) == list(range(len(texts)))
    for group in groups:
        problems, good = read_expressions([texts[row] for row in group])
        assert good.all()
        assert problems.operands.size <= 1 << 22


def test_groups_see_the_operators_that_word_processors_make() -> None:
    long = "1" * 4000 + "＋" + "2" * 4000
    assert alike(["＋".join("1" * 100)] + [long] * 520) == alike(["+".join("1" * 100)] + [long] * 520)


def test_a_grid_is_measured_before_it_is_drawn() -> None:
    shipped, any_length = load_checkpoint(ADDSUB), load_checkpoint(ANY_LENGTH)
    with pytest.raises(UsageError, match="this model writes at most 64"):
        evaluate_grid(shipped, TASKS[0], 10**9)
    with pytest.raises(UsageError, match="too many to hold at once"):
        evaluate_grid(any_length, TASKS[0], 1000)
    with pytest.raises(UsageError, match="too many to hold at once"):
        draw_length(TASKS[0], 10, "random", 10**12)


@pytest.mark.parametrize(
    "options",
    [
        "eval --checkpoint addsub-3digit --grid 1000",
        "eval --checkpoint add-any-length --grid 20 --per-cell 1000000000",
        "eval --checkpoint add-any-length --digits 10 --max-examples 1000000000",
        "eval --checkpoint add-any-length --seed 1 --max-examples 1000000000",
        "thoughts --checkpoint own-thoughts --examples 1000000000",
        "thoughts --checkpoint own-thoughts --steps 1000000000",
        "demo --output-dir out --limit 1000000000",
    ],
)
def test_large_numbers_on_the_command_line(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, options.split())
    assert isinstance(result.exception, UsageError)
    assert not list(tmp_path.iterdir())


def test_a_text_without_an_end_is_cut_long_before_the_model_has_no_room_left() -> None:
    solution = parrot("9", max_length=1 << 20, format="plain").solve("1+1")
    assert solution.reason == "length"
    assert len(solution.text) < 100


def test_what_an_answer_takes_is_known_before_it_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CACHE_BYTES", 30 * load_checkpoint(ADDSUB).model.cache_bytes)
    model = load_checkpoint(ADDSUB)
    good, bad = model.try_many(["1+1", "999+999"])
    assert good.correct
    with pytest.raises(UsageError, match="and this model has room for 30"):
        raise bad


def test_what_was_possible_before_still_is() -> None:
    for tables in (
        {"data": {"num_examples": 7_000_000, "max_digits": 10}},
        {"data": {"max_digits": 4000}, "train": {"batch_size": 4}},
        {
            "model": {"size": "medium", "position": "coupled-bias", "max_length": 200_000},
            "data": {"format": "reversed"},
        },
    ):
        resolve(build_config(tables))


@pytest.mark.parametrize("entry", ["seeds = 1000000000", "examples = 1000000000000", "digits = [1000000000]"])
def test_a_study_is_bounded(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'recipe = "demo"\n{entry}\n[variants]\na = []\n', encoding="utf-8")
    with pytest.raises(UsageError):
        load_study(str(path)).runs(tmp_path, [0])


def test_recipes_are_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text in ("a = " + "[" * 10_000, ".".join("a" * 120_000) + " = 1"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=r"mine\.toml is n(ested|ot)"):
            load_recipe(str(path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UsageError):
        load_recipe(str(path))


def test_a_line_of_a_data_file_is_read_up_to_a_length(tmp_path: Path) -> None:
    for name, first in (
        ("sums.txt", "1+1=2"),
        ("sums.csv", "equation"),
        ("sums.jsonl", '{"expression": "1+1", "answer": 2}'),
    ):
        path = tmp_path / name
        path.write_text(f"{first}\n", encoding="ascii")
        os.truncate(path, 200 * 2**30)  # a sparse file, which takes no room
        with pytest.raises(DataError, match=r":2: this line has more than"):
            read_problems(path)


def test_a_checkpoint_is_found_in_a_directory_whose_name_is_no_text(tmp_path: Path) -> None:
    directory = foreign(tmp_path / os.fsdecode(b"caf\xe9"))
    assert load_checkpoint(directory).solve("12+34").correct
