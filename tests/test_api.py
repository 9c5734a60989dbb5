"""The Python API, as the README shows it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mathllm
from mathllm.config import build_config
from mathllm.errors import ExpressionError, UsageError
from mathllm.math_model import MathModel


def test_importing_it_is_quick_and_brings_no_torch() -> None:
    code = "import mathllm, sys; assert 'torch' not in sys.modules; print(sorted(mathllm.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "load" in done.stdout


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        mathllm.nothing  # noqa: B018


def test_the_whole_line_from_python(tmp_path: Path) -> None:
    data = tmp_path / "data"
    metadata = mathllm.generate_data(data, num_examples=400, max_digits=2, sampling="uniform")
    assert metadata["data"]["max_digits"] == 2
    train = {"output_dir": str(tmp_path / "run"), "max_steps": 4, "batch_size": 16, "eval_steps": 2}
    config = build_config(
        {"model": {"size": "nano"}, "data": {**metadata["data"], "data_dir": str(data)}, "train": train}
    )
    result = mathllm.train(config)
    assert result.outcome.step == 4
    assert result.test is not None
    model = mathllm.load(result.run, device="cpu")
    assert model.solve("1+2").expression == "1+2"
    assert [s.expression for s in model.generate(["1+2", "30+4"])] == ["1+2", "30+4"]
    report = model.evaluate(data / "test.jsonl")
    # after four steps no answer is right: what it makes of the tokens tells this model from another
    assert report.tokens.correct > 0
    for name in ("correct", "num_examples", "token_accuracy"):
        assert report.to_dict()[name] == result.test[name]
    assert model.evaluate(["1+2", "3+4"]).answers.num_examples == 2
    assert mathllm.evaluate(model, data / "test.jsonl").answers == report.answers


def test_a_temperature_draws_and_a_seed_repeats() -> None:
    def texts(seed: int) -> list[str]:
        warm = mathllm.load(device="cpu", temperature=50.0, seed=seed)
        return [warm.solve("12+34").text for _ in range(5)]

    assert len(set(texts(0))) > 1
    assert texts(0) == texts(0) != texts(1)


def test_bad_questions_raise_what_they_say() -> None:
    model = mathllm.load(device="cpu")
    with pytest.raises(ExpressionError, match=r"1\+\+2\n  \^\nhint: write a problem like 12\+34") as wrong:
        model.solve("1++2")
    assert isinstance(wrong.value, mathllm.MathLLMError)
    with pytest.raises(UsageError):
        model.solve("9" * 4000 + "+1")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.evaluate(["1+1"], batch_size=0),
        lambda model: model.generate(["1+1"], batch_size=-1),
        lambda model: model.generate("1+1"),
        lambda model: model.try_many([1, 2]),
        lambda model: mathllm.load(7),
        lambda model: mathllm.load(device="cpu", temperature="hot"),
        lambda model: mathllm.load(device="cpu", seed=-1),
        lambda model: mathllm.load(device="cpu", seed="x"),
        lambda model: mathllm.load(device="cpu", seed=1.5),
        lambda model: mathllm.load(device="cpu", temperature=True),
        lambda model: mathllm.load(device=5),
        lambda model: mathllm.load(""),
        lambda model: model.solve(5),
        lambda model: model.finish(5),
        lambda model: model.generate(5),
        lambda model: model.generate(["1+1"], batch_size="a"),
        lambda model: model.generate(["1+1"], batch_size=1.5),
        lambda model: model.try_many(None),
        lambda model: model.evaluate(5),
        lambda model: mathllm.evaluate(None, ["1+1"]),
        lambda model: mathllm.train({}),
        lambda model: mathllm.generate_data("data", digits=3),
        lambda model: mathllm.generate_data("data", "x"),
        lambda model: mathllm.generate_data("data", 100, seed="a"),
        lambda model: mathllm.generate_data("data", 100, seed=1.5),
        lambda model: mathllm.generate_data(5, 100),
    ],
)
def test_bad_arguments_are_usage_errors(
    call: Callable[[MathModel], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        call(mathllm.load(device="cpu"))


def test_expressions_may_come_from_a_generator() -> None:
    model = mathllm.load(device="cpu")
    texts = ["1+2", "30+4"]
    assert model.generate(text for text in texts) == model.generate(texts)
    assert model.evaluate(text for text in texts).answers.num_examples == 2
