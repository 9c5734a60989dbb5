"""Dataset directories: what is in the files, and what can go wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import Child
from strategies import ALL_FORMATS, Question, ask, format_id

from mathllm.config import DataConfig
from mathllm.data.files import FILES, generate_dataset, read_metadata
from mathllm.data.sources import rows_at_once
from mathllm.errors import DataError, UsageError
from mathllm.formats import Format
from mathllm.resolve import resolve_data
from mathllm.tasks import SAMPLINGS, Sampling
from mathllm.tasks.expressions import parse_expressions
from mathllm.training.run import read_split

ALL_FILES = (*FILES, "metadata.json")
BOTH = DataConfig(task="addition,subtraction", signed=True, max_operands=3)


def rows_of(directory: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (directory / f"{split}.jsonl").read_text().splitlines()]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def canonical(expression: str) -> tuple[Any, ...]:
    """What makes two expressions one problem, in plain Python."""
    question = ask(expression)
    operands = sorted(question.operands) if question.symbol == "+" else question.operands
    return (question.symbol, *operands)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 rows of both tasks, with everything that makes them difficult."""
    directory = tmp_path_factory.mktemp("dataset")
    generate_dataset(BOTH, 4000, 7, directory)
    return directory


# what is in the files


def test_rows_are_json_with_expression_answer_and_text(dataset: Path) -> None:
    for name in FILES:
        for line in (dataset / name).read_text().splitlines():
            row = json.loads(line)
            assert list(row) == ["expression", "answer", "text"]
            assert json.dumps(row) == line
            assert re.fullmatch(r"\d+(\+\d+){1,2}|\d+-\d+", row["expression"])
            assert int(row["answer"]) == ask(row["expression"]).answer
            assert str(int(row["answer"])) == row["answer"]


def school_addition(question: Question) -> str:
    """The column format of a sum of two, in plain Python."""
    columns = [str(n).zfill(question.width)[::-1] for n in question.operands]
    steps, carry = [], 0
    for a, b in zip(*columns, strict=True):
        total = int(a) + int(b) + carry
        steps.append(f"{a}+{b}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return f"{question.text}=<think>{' '.join(steps)}</think>{question.answer}<end>"


def test_text_of_the_default_is_school_addition(tmp_path: Path) -> None:
    generate_dataset(DataConfig(max_digits=5), 500, 0, tmp_path)
    for split in ("train", "val", "test"):
        for row in rows_of(tmp_path, split):
            assert row["text"] == school_addition(ask(row["expression"]))


@pytest.mark.parametrize("notation", ALL_FORMATS, ids=format_id)
def test_every_format_writes_the_same_problems(notation: Format, dataset: Path, tmp_path: Path) -> None:
    generate_dataset(replace(BOTH, format=notation.name, zero_pad=notation.zero_pad), 400, 7, tmp_path)
    rows = rows_of(tmp_path, "train")
    expected = rows_of(dataset, "train")[: len(rows)]
    assert [row["expression"] for row in rows] == [row["expression"] for row in expected]
    assert [row["answer"] for row in rows] == [row["answer"] for row in expected]
    problems = parse_expressions([row["expression"] for row in rows])
    rendered = notation.render(problems)
    assert [row["text"] for row in rows] == notation.texts(problems, rendered.ids, rendered.lengths)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_very_long_numbers_are_right(sampling: str, tmp_path: Path) -> None:
    data = DataConfig(task="addition,subtraction", max_digits=150, max_operands=4, sampling=sampling)
    generate_dataset(data, 60, 0, tmp_path)
    rows = rows_of(tmp_path, "train")
    assert max(len(row["expression"]) for row in rows) > 300
    for row in rows:
        assert int(row["answer"]) == ask(row["expression"]).answer


# splits


def test_no_problem_is_in_two_splits_whatever_the_order_of_its_operands(dataset: Path) -> None:
    found = {
        s: [canonical(row["expression"]) for row in rows_of(dataset, s)] for s in ("train", "val", "test")
    }
    train, val, test = (set(found[s]) for s in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(found["val"]) == len(val)
    assert len(found["test"]) == len(test)
    # the check is worth something: the sampling does give problems more than once, and in both orders
    assert len(found["train"]) > len(train)
    orders = {row["expression"] for row in rows_of(dataset, "train")}
    assert any("+".join(reversed(text.split("+"))) in orders - {text} for text in orders)


def test_a_test_problem_is_never_in_the_training_file_of_another_dataset(
    dataset: Path, tmp_path: Path
) -> None:
    generate_dataset(replace(BOTH, format="plain", sampling="uniform", max_digits=2), 4000, 8, tmp_path)
    held_out = {canonical(row["expression"]) for s in ("val", "test") for row in rows_of(dataset, s)}
    train = {canonical(row["expression"]) for row in rows_of(tmp_path, "train")}
    assert held_out & {canonical(row["expression"]) for row in rows_of(tmp_path, "test")}
    assert not held_out & train


@pytest.mark.parametrize(
    ("n", "train", "val", "rows"),
    [
        (1000, 0.9, 0.05, [900, 50, 50]),
        (1000, 0.5, 0.1, [500, 100, 400]),
        (1001, 0.7, 0.2, [701, 200, 100]),
        (200, 0.8, 0.2, [160, 40, 0]),
        (200, 1.0, 0.0, [200, 0, 0]),
        (5, 0.5, 0.5, [2, 3, 0]),
        (3, 0.9, 0.05, [3, 0, 0]),
        (1, 0.9, 0.05, [1, 0, 0]),
    ],
)
def test_ratios(n: int, train: float, val: float, rows: list[int], tmp_path: Path) -> None:
    data = DataConfig(train_ratio=train, val_ratio=val, max_digits=6)
    metadata = generate_dataset(data, n, 0, tmp_path)
    assert [len(rows_of(tmp_path, split)) for split in ("train", "val", "test")] == rows
    assert [counts["rows"] for counts in metadata["counts"].values()] == rows
    empty = [split for split, count in zip(("train", "val", "test"), rows, strict=True) if not count]
    assert metadata["notes"] == [f"{split}.jsonl is empty" for split in empty]


def test_all_problems_of_a_small_space_end_up_in_the_files(tmp_path: Path) -> None:
    """There are 55 different sums of two digits, so val and test cannot have 500 each."""
    metadata = generate_dataset(DataConfig(max_digits=1), 10_000, 0, tmp_path)
    found = {
        s: {canonical(row["expression"]) for row in rows_of(tmp_path, s)} for s in ("train", "val", "test")
    }
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 55
    assert len(rows_of(tmp_path, "train")) == 9000
    for split in ("train", "val", "test"):
        assert metadata["counts"][split]["distinct_problems"] == len(found[split])
    assert [note.split(" ")[0] for note in metadata["notes"]] == ["val.jsonl", "test.jsonl"]
    assert "instead of 500 rows" in metadata["notes"][0]


def test_a_split_may_get_nothing_at_all(tmp_path: Path) -> None:
    data = DataConfig(max_digits=1, train_ratio=0.0001, val_ratio=0)
    metadata = generate_dataset(data, 10_000, 0, tmp_path)
    assert (tmp_path / "train.jsonl").read_bytes() == b""
    assert "train.jsonl has 0 instead of 1 rows" in metadata["notes"][0]


# reproducible


def test_the_same_options_give_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    generate_dataset(BOTH, 4000, 7, tmp_path / "deep" / "again")
    assert contents(tmp_path / "deep" / "again") == contents(dataset)
    generate_dataset(BOTH, 4000, 8, tmp_path / "other")
    assert contents(tmp_path / "other")["train.jsonl"] != contents(dataset)["train.jsonl"]


def test_a_longer_dataset_begins_with_the_shorter_one(dataset: Path, tmp_path: Path) -> None:
    generate_dataset(BOTH, 1000, 7, tmp_path)
    for name in FILES:
        assert contents(dataset)[name].startswith(contents(tmp_path)[name])


def test_long_and_short_chunks_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many chunks: nothing is lost, repeated or mixed up between them."""
    monkeypatch.setattr("mathllm.data.files._CHUNK_ROWS", 64)
    metadata = generate_dataset(DataConfig(max_digits=2), 3000, 0, tmp_path)
    assert [counts["rows"] for counts in metadata["counts"].values()] == [2700, 150, 150]
    for split in ("val", "test"):
        assert len({canonical(row["expression"]) for row in rows_of(tmp_path, split)}) == 150
    # every chunk is drawn anew
    assert Counter(row["expression"] for row in rows_of(tmp_path, "train")).most_common(1)[0][1] < 200


# nothing is lost


def test_an_existing_dataset_is_kept_unless_told_otherwise(dataset: Path, tmp_path: Path) -> None:
    generate_dataset(DataConfig(), 50, 0, tmp_path)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes").mkdir()
    before = contents_of_files(tmp_path)
    with pytest.raises(UsageError, match=r"already holds train\.jsonl, val\.jsonl") as refused:
        generate_dataset(BOTH, 4000, 7, tmp_path)
    assert "--overwrite" in str(refused.value.hint)
    assert contents_of_files(tmp_path) == before
    generate_dataset(BOTH, 4000, 7, tmp_path, overwrite=True)
    assert contents_of_files(tmp_path) == {**contents(dataset), "README.md": b"mine"}
    assert (tmp_path / "notes").is_dir()


def contents_of_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ALL_FILES)
def test_somebody_elses_file_of_the_same_name_is_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"already holds {name}"):
        generate_dataset(DataConfig(), 50, 0, tmp_path)
    assert contents(tmp_path) == {name: b"mine"}
    # nor does a metadata.json of any kind say that it is ours
    (tmp_path / "metadata.json").write_text("mine")
    with pytest.raises(UsageError, match="is no file of a dataset"):
        generate_dataset(DataConfig(), 50, 0, tmp_path, overwrite=True)
    assert contents(tmp_path) == {name: b"mine", "metadata.json": b"mine"}


def test_somebody_elses_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-thesis").mkdir()
    (tmp_path / ".unfinished-thesis" / "chapter").write_text("mine")
    generate_dataset(DataConfig(), 50, 0, tmp_path)
    assert (tmp_path / ".unfinished-thesis" / "chapter").read_text() == "mine"


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_directory_in_the_place_of_a_file_is_found_before_anything_is_replaced(
    name: str, tmp_path: Path
) -> None:
    generate_dataset(DataConfig(), 50, 0, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    before = contents_of_files(tmp_path)
    with pytest.raises(UsageError, match=f"{name} is a directory"):
        generate_dataset(BOTH, 4000, 7, tmp_path, overwrite=True)
    assert contents_of_files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL_FILES)


@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupted_run_leaves_nothing(existed: bool, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    if existed:
        generate_dataset(DataConfig(), 50, 0, directory)
        before = contents(directory)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_dataset(BOTH, 4000, 7, directory, overwrite=True, progress=interrupt)
    assert contents(directory) == before if existed else not directory.exists()


def test_a_full_disk_is_an_error_and_the_old_dataset_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generate_dataset(DataConfig(), 50, 0, tmp_path)
    before = contents(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        generate_dataset(BOTH, 100, 7, tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moved", range(4))
def test_a_run_killed_while_it_replaces_files_leaves_no_mixture(
    moved: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generate_dataset(DataConfig(), 50, 0, tmp_path)
    real, calls = os.replace, []

    def replace_some(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > moved:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(BOTH, 100, 7, tmp_path, overwrite=True)
    with pytest.raises(DataError, match="holds no dataset"):
        read_metadata(tmp_path)
    monkeypatch.undo()
    generate_dataset(BOTH, 100, 7, tmp_path)  # nobody has to be told to overwrite what is none
    assert set(contents(tmp_path)) == set(ALL_FILES)


def generate_and_die(directory: Path) -> None:
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    generate_dataset(BOTH, 100, 7, directory)


def test_what_a_killed_run_leaves_is_cleared_by_the_next(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert Child(generate_and_die, directory, files=tmp_path).wait() == -signal.SIGKILL
    (left,) = directory.glob(".unfinished-*")
    with pytest.raises(DataError, match="holds no dataset"):
        read_metadata(directory)
    generate_dataset(BOTH, 100, 7, directory)
    assert set(contents(directory)) == set(ALL_FILES)
    assert not left.exists()
    assert read_metadata(directory)["seed"] == 7


def test_a_directory_that_is_a_link_to_another_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    def look(done: int, total: int) -> None:
        # nothing is ever written beside it: that may be another disk, or not ours
        assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}

    generate_dataset(DataConfig(), 50, 0, tmp_path / "link", progress=look)
    assert set(contents(tmp_path / "real")) == set(ALL_FILES)
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_progress_goes_up_to_the_number_of_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate_dataset(DataConfig(), 50_000, 0, tmp_path, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert seen[-1] == (50_000, 50_000)


# metadata


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("\x00", "not valid JSON"),
        ("[]", "lacks 'data', 'counts'"),
        ('{"data": {}}', "lacks 'counts'"),
        ('{"data": 1, "counts": {}}', "lacks 'data'"),
        ('{"data": {"colour": 1}, "counts": {}}', "does not know: colour"),
    ],
)
def test_damaged_metadata(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_metadata(tmp_path)


def test_metadata_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"data": {"task": "addition"}, "counts": {}, "longest_text": 9}')
    assert read_metadata(tmp_path)["data"] == {"task": "addition"}


def test_metadata_say_how_long_thoughts_are(tmp_path: Path) -> None:
    data = DataConfig(format="slots", thought_length=4)
    metadata = generate_dataset(data, 20, 0, tmp_path)
    assert DataConfig(**metadata["data"]).thought_length == 4
    assert "--thought-length 4" in metadata["command"]
    assert all("<think>0000</think>" in row["text"] for row in rows_of(tmp_path, "train"))
    assert "thought" not in generate_dataset(DataConfig(), 20, 0, tmp_path / "other")["command"]


def test_no_dataset_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    for directory, message in [
        (tmp_path, "holds no dataset"),
        (Path("data/missing"), "there is no directory"),
    ]:
        with pytest.raises(DataError, match=message) as refused:
            read_metadata(directory)
        assert f"mathllm gen-data --output-dir {directory}" in str(refused.value.hint)


# values that cannot be used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "adition"}, "unknown task 'adition'"),
        ({"task": "addition,addition"}, "each task once"),
        ({"format": "colum"}, "unknown format 'colum'"),
        ({"sampling": "digit"}, "unknown sampling 'digit'"),
        ({"max_digits": 0}, "max_digits must be at least 1"),
        ({"max_digits": -3}, "max_digits must be at least 1"),
        ({"max_digits": 1_000_000}, "max_digits must be at most"),
        ({"max_operands": 1}, "max_operands must be at least 2"),
        ({"max_operands": 1000}, "max_operands must be at most 100"),
        ({"train_ratio": 0.9, "val_ratio": 0.2}, "shares of a whole"),
        ({"train_ratio": 0.0}, "shares of a whole"),
        ({"val_ratio": -0.1}, "shares of a whole"),
        ({"train_ratio": float("nan")}, "shares of a whole"),
    ],
)
def test_values_that_cannot_be_used(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        generate_dataset(DataConfig(**settings), 100, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_cannot_be_used(tmp_path: Path) -> None:
    for n in (0, -5):
        with pytest.raises(UsageError, match=f"at least 1, not {n}"):
            generate_dataset(DataConfig(), n, 0, tmp_path / "out")
    with pytest.raises(UsageError, match="seed must be at least 0"):
        generate_dataset(DataConfig(), 10, -1, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is not a directory"):
        generate_dataset(DataConfig(), 10, 0, tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot write the dataset to .*below: Not a directory"):
        generate_dataset(DataConfig(), 10, 0, tmp_path / "file" / "below")


def test_datasets_of_before_have_products_by_one_digit_alone(tmp_path: Path) -> None:
    products = DataConfig(task="addition,multiplication", format="plain", second_digits=1)
    generate_dataset(products, 100, 0, tmp_path / "data")
    path = tmp_path / "data" / "metadata.json"
    said = json.loads(path.read_text())
    assert "--second-digits 1" in said["command"]
    del said["data"]["second_digits"]
    path.write_text(json.dumps(said))
    assert read_metadata(tmp_path / "data")["data"]["second_digits"] == 1
    path.write_text(json.dumps({**said, "from": "products.txt"}))
    assert "second_digits" not in read_metadata(tmp_path / "data")["data"]
    path.write_text(json.dumps({**said, "data": {**said["data"], "task": "addition"}}))
    assert "second_digits" not in read_metadata(tmp_path / "data")["data"]


def test_files_do_not_depend_on_how_many_rows_are_written_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    how = DataConfig(task="multiplication,division", format="column", max_digits=4)
    generate_dataset(how, 300, 0, tmp_path / "one")
    monkeypatch.setattr("mathllm.data.files._CHUNK_TOKENS", 500)
    generate_dataset(how, 300, 0, tmp_path / "two")
    for name in ("train.jsonl", "val.jsonl", "test.jsonl", "metadata.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_expressions_with_bounds_of_their_own_are_trained_on(tmp_path: Path) -> None:
    bounds = {"max_digits": 1, "expression_digits": 2, "expression_numbers": 4}
    data = resolve_data(DataConfig(task="addition,arithmetic", **bounds))
    generate_dataset(data, 400, 0, tmp_path / "data")
    read = resolve_data(DataConfig(data_dir=str(tmp_path / "data")))
    problems = read_split(read, "train.jsonl")
    assert problems.lengths.max() == 2
    assert problems.num_operands.max() == 4
    with pytest.raises(UsageError, match="at most 6 numbers, not 50"):
        resolve_data(DataConfig(task="arithmetic", expression_numbers=50))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"task": "multiplication", "format": "plain", "max_digits": 2500}, "too large to be read again"),
        ({"task": "multiplication", "format": "column", "max_digits": 660}, "too long for a line"),
        (
            {"task": "arithmetic", "expression_digits": 1500, "expression_numbers": 3},
            "together of at most 4,000",
        ),
    ],
)
def test_nothing_is_written_that_could_not_be_read(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        generate_dataset(resolve_data(DataConfig(**how)), 40, 0, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_few_are_drawn_at_a_time_where_expressions_are_long() -> None:
    long = Sampling(1, 2, expression_digits=4000, expression_numbers=6)
    assert rows_at_once(long) == rows_at_once(Sampling(4000, 6))
