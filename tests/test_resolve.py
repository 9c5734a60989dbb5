"""The one judge: what goes together is completed, and what does not is refused with a reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from mathllm.api import generate_data
from mathllm.config import DataConfig, build_config
from mathllm.data.files import generate_dataset, import_dataset
from mathllm.data.sources import format_of
from mathllm.errors import UsageError
from mathllm.resolve import resolve, resolve_data


def test_it_completes_what_is_left_open_and_then_has_nothing_to_do() -> None:
    config = build_config({"data": {"task": "addition,subtraction", "max_digits": 20}})
    settled = resolve(config)
    assert settled.model.max_length >= 64
    assert settled.model.max_length % 8 == 0
    assert settled.train.threads >= 1
    assert settled.train.output_dir == "checkpoints/addition-subtraction-small"
    assert resolve(settled) == settled
    settled = resolve_data(config.data)
    assert resolve_data(settled) == settled
    assert replace(settled, format="") == config.data, "what data are is all there, but for the format"


@pytest.mark.parametrize(
    ("settings", "format"),
    [
        ((), "column"),
        (
            ("data.task=addition,subtraction,multiplication", "data.signed=true", "data.second_digits=1"),
            "column",
        ),
        (("data.task=multiplication", "data.zero_pad=true", "data.second_digits=1"), "column"),
        (("data.task=chain",), "steps"),
        (("data.thought_length=5",), "slots"),
        (("objective.name=gumbel",), "slots"),
        (("data.task=chain", "objective.name=gumbel"), "steps"),
        (("data.task=chain", "objective.name=rejection-sampling"), "steps"),
        (("data.task=chain", "data.format=plain"), "plain"),
    ],
)
def test_the_format_follows_task_and_objective(settings: tuple[str, ...], format: str) -> None:
    config = build_config(assignments=settings)
    assert resolve(config).data.format == format
    if config.objective.name == "teacher-forcing":
        assert format_of(config.data).name == resolve_data(config.data).format == format


def test_data_made_without_a_format_say_which_they_have(tmp_path: Path) -> None:
    assert generate_data(tmp_path / "chains", 100, task="chain")["data"]["format"] == "steps"
    (tmp_path / "mine.txt").write_text("".join(f"{n}+1={n + 1}\n" for n in range(50)))
    said = import_dataset(tmp_path / "mine.txt", DataConfig(), tmp_path / "mine")
    assert said["data"]["format"] == "column"


def test_a_data_directory_says_what_its_problems_are(tmp_path: Path) -> None:
    generate_dataset(DataConfig(task="subtraction", max_digits=2, signed=True), 100, 0, tmp_path / "made")
    said = resolve_data(DataConfig(data_dir=str(tmp_path / "made"), format="plain"))
    assert (said.task, said.max_digits, said.signed, said.format) == ("subtraction", 2, True, "plain")
    # of problems that are there already, nothing is drawn
    (tmp_path / "mine.txt").write_text("".join(f"{n}+1={n + 1}\n" for n in range(50)))
    import_dataset(tmp_path / "mine.txt", DataConfig(), tmp_path / "mine")
    assert resolve_data(DataConfig(data_dir=str(tmp_path / "mine"), sampling="none at all")).max_digits == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"signed": True}, "only subtraction or multiplication has signed numbers"),
        ({"second_digits": 1}, "only multiplication, division or remainder has a second number to bound"),
        ({"task": "division", "second_digits": 4}, "second_digits 4 is more than max_digits 3"),
        (
            {"task": "subtraction", "max_operands": 3},
            "only addition, multiplication or arithmetic takes more than two operands",
        ),
        ({"task": "chain", "format": "steps", "sampling": "digits,balanced"}, "no balanced sampling of task"),
        ({"sampling": "evenly"}, "unknown sampling 'evenly'"),
        ({"max_digits": 0}, "max_digits must be at least 1"),
        ({"train_ratio": 1.5}, "shares of a whole"),
        ({"task": "chain", "format": "column"}, "task 'chain'"),
        ({"task": "chain", "zero_pad": True}, "no padding"),
        ({"format": "steps"}, "no thought for task 'addition'"),
        ({"task": "chain", "format": "plain", "zero_pad": True}, "no padding"),
        ({"format": "column", "thought_length": 3}, "a length of their own"),
        ({"task": "addition,minus"}, "unknown task 'minus'"),
    ],
)
def test_problems_and_texts_that_cannot_be(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        generate_data(tmp_path / "data", num_examples=10, **settings)
    assert not (tmp_path / "data").exists()
    with pytest.raises(UsageError, match=reason):
        resolve(build_config({"data": settings}))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("model.position=coupled", "data.format=plain"), "cannot tell the places"),
        (("model.position=abacus",), "is not its place"),
        (("model.max_length=20",), "take up to 37 tokens"),
        (("model.position=coupled", "model.random_start=90", "model.max_length=64"), "places up to 97"),
        (("objective.name=gumbel", "data.format=column"), "no thought of a known length"),
        (("objective.name=gumbel", "train.compile=true"), "nothing to compile"),
    ],
)
def test_models_and_objectives_that_cannot_be(settings: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve(build_config(assignments=settings))
