"""`mathllm bench`: what is measured, and that it says so; never how fast this machine is."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import TINY
from typer.testing import CliRunner

from mathllm.bench import (
    ALWAYS,
    SECTIONS,
    Measurement,
    Options,
    SectionResult,
    data,
    decoding,
    evaluation,
    in_turns,
    machine,
    rate,
    seconds_of,
    share_of_peak,
    target,
    training,
)
from mathllm.cli.bench import number, remarks
from mathllm.cli.main import app
from mathllm.errors import MathLLMError, UsageError
from mathllm.formats import formats_for

QUICK = Options(device="cpu", sizes=("nano",), repeats=2)


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TIMED", 0.01)


def test_the_command_from_the_machine_to_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.loads(
        invoke("--only", "data", "--repeats", 1, "--json", "--output-file", tmp_path / "b.json")
    )
    assert json.loads((tmp_path / "b.json").read_text()) == said
    assert said["torch"] == torch.__version__
    assert said["threads"] == torch.get_num_threads()
    section = said["sections"]["data"]
    assert 10e6 < section["peak_bytes"] < 10e9
    assert [one["what"] for one in section["measurements"]] == [
        *(f"rendered, {name}, up to 3 digits" for name in formats_for("addition")),
        *(f"rendered, {name}, products, 3 x 3 digits" for name in ("column", "scratchpad")),
        "drawn, rendered and written, column",
    ]
    assert all(one["value"] > 0 and one["repeats"] == 1 for one in section["measurements"])
    # the same again as a table, without measuring it
    result = {**section, "measurements": [Measurement(**one) for one in section["measurements"]]}
    monkeypatch.setattr("mathllm.bench.run_section", lambda name, options: SectionResult(**result))
    table = invoke("--only", "data", "--repeats", 1)
    assert "rendered, plain, up to 3 digits" in table
    assert "MiB" in table


def test_what_there_is_not_is_refused() -> None:
    for option, value, known in (
        ("--only", "date", "data"),
        ("--model-size", "tiny", "nano"),
        ("--recipe", "dem", "demo"),
    ):
        with pytest.raises(UsageError) as error:
            invoke(option, value)
        assert value in error.value.message
        assert known in f"{error.value.message} {error.value.hint}"
    for wrong in (("data", "--model-size", "nano"), ("training", "--recipe", "demo")):
        with pytest.raises(UsageError, match=f"{wrong[1]} does nothing here"):
            invoke("--only", *wrong)
    with pytest.raises(MathLLMError, match="CUDA" if not torch.cuda.is_available() else "no cuda:99"):
        invoke("--only", "data", "--device", "cuda:99")
    assert set(SECTIONS) - set(ALWAYS) == {"target"}


def test_rates_are_medians_with_their_spread() -> None:
    measured = rate("work", 30, "rows/s", [1.0, 2.0, 3.0], share_of_peak=0.5)
    assert (measured.low, measured.value, measured.high, measured.repeats) == (10, 15, 30, 3)
    assert remarks(measured) == "share of peak 50%"
    runs: list[int] = []
    assert len(seconds_of(lambda: runs.append(1), 3, torch.device("cpu"))) == 3
    assert len(runs) == 4  # the first one is not timed


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123")])
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_the_machine_is_measured_at_large_products_and_at_the_models_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "LARGE", 64)
    monkeypatch.setattr(machine, "SMALL", 32)
    monkeypatch.setattr(machine, "COPIED", 1 << 16)
    found = machine.measure(QUICK)
    assert [one.unit for one in found] == ["GFLOP/s"] * (len(found) - 1) + ["GB/s"]
    for what in ("nano, 2048 x 64 x 256", "64 x 64 x 64, float32", "32 x 32 x 32, bfloat16"):
        assert any(what in one.what for one in found)


def test_training_counts_real_tokens_against_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LARGE", 64)
    monkeypatch.setattr(training, "TOKENS", {"nano": 512})
    found = training.measure(QUICK)
    assert [one.what for one in found] == [f"nano, {length} tokens a row" for length in (16, 64, 256)]
    assert found[0].more["cost_per_flop"] == 1
    steps = training.training_step("nano", 64, QUICK)
    assert 0.95 * 512 < steps.tokens <= 512  # no padding is counted
    for one in found:  # the peak of so small matrices is none
        assert 0 < float(one.more.get("share_of_peak", 1)) <= 1


def test_works_take_turns_and_a_share_above_all_of_the_peak_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    times = in_turns({name: partial(order.append, name) for name in "ab"}, 2, torch.device("cpu"))
    assert order == ["a", "b"] * 3  # the first round is not timed
    assert [len(seconds) for seconds in times.values()] == [2, 2]
    assert share_of_peak(30.0, 40.0) == {"share_of_peak": 0.75}
    assert share_of_peak(41.0, 40.0) == {"peak": "too busy a machine for a share of its peak"}
    assert remarks(rate("work", 1, "tokens/s", [1.0], **share_of_peak(41.0, 40.0))).startswith("too busy")
    # seconds of a step and of the peak beside it: another program ran in the second turn
    monkeypatch.setattr(
        training, "in_turns", lambda works, *how: {"step": [1, 3, 1], "peak": [0.2, 0.6, 0.2]}
    )
    monkeypatch.setattr(training, "peak_work", lambda *how: machine.Work(lambda: None, 4.0))
    monkeypatch.setattr(training, "TOKENS", {"nano": 64})
    monkeypatch.setattr(training.statistics, "mean", lambda done: 64.0)
    assert training.training_step("nano", 16, QUICK).peak == pytest.approx(20)


def test_decoding_is_timed_to_the_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BATCHES", (1, 3))
    assert decoding.SIZES == ("small",)
    for one, batch in zip(decoding.measure(QUICK), (1, 3), strict=True):
        assert f"nano, batch {batch}" in one.what
        assert 0 < float(one.more["ms_to_first_token"]) < 32 * float(one.more["ms_per_token"])


def test_three_ways_of_evaluating_are_equal_or_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PROBLEMS", 60)
    monkeypatch.setattr(evaluation, "ONE_BY_ONE", 5)
    drafted, cached, alone = evaluation.measure(QUICK)
    assert drafted.more["times_one_by_one"] == pytest.approx(drafted.value / alone.value)
    assert "60 problems" in cached.what
    monkeypatch.setattr(evaluation, "without_cache", lambda loaded, problems: [[0]] * 5)
    with pytest.raises(MathLLMError, match="different texts"):
        evaluation.measure(QUICK)


def test_time_to_target_is_when_validation_first_reached_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["[model]", *(f"{name} = {value!r}".replace("'", '"') for name, value in TINY["model"].items())]
    lines += ["[data]", "max_digits = 1", "train_ratio = 0.7", "val_ratio = 0.15", "[train]", "max_steps = 6"]
    lines += ["batch_size = 8", "eval_examples = 20"]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    monkeypatch.setattr(target, "EVERY", 2)
    monkeypatch.setattr(target, "TARGETS", (0.0, 1.0))
    first, never = target.measure(Options("cpu", recipes=(str(tmp_path / "tiny.toml"),)))
    assert first.more["examples"] == 16
    assert 0 < first.value < 100
    assert never.value > first.value
    assert never.more == {"examples": 48, "note": "not reached"}
    assert not list(tmp_path.glob("run*"))


def test_data_rates_are_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ROWS", 500)
    assert {one.unit for one in data.measure(QUICK)} == {"rows/s"}
