"""`mathllm eval`: which problems it takes, what it prints and writes, and how it ends."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from judged import BOTH_TASKS, CONFIG, half_trained
from trained import trained_checkpoint
from typer.testing import CliRunner, Result

from mathllm.checkpoint import save_model
from mathllm.cli.eval import BELOW_THRESHOLD, SAMPLED, evaluate
from mathllm.cli.main import main
from mathllm.config import DataConfig
from mathllm.data.files import fingerprint, read_problems
from mathllm.errors import CheckpointError, DataError, MathLLMError, UsageError
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.model.transformer import Transformer
from mathllm.tasks.expressions import expressions
from mathllm.tasks.splits import TRAIN, SplitRatios, hash_problems, split_of

app = typer.Typer()
app.command()(evaluate)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def document(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object) -> MathLLMError:
    result = run(*arguments)
    assert isinstance(result.exception, MathLLMError), result.output
    assert not result.stdout
    return result.exception


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint_of(directory: Path, model: Transformer, **data: object) -> Path:
    directory.mkdir()
    save_model(directory, model, CONFIG, DataConfig(**{"max_digits": 2, **data}))
    return directory


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A checkpoint that is right here and there, as if trained on a stream of both tasks."""
    return checkpoint_of(tmp_path / "half", half_trained().model, task="addition,subtraction")


def sums(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# which problems


def test_a_file_of_problems() -> None:
    path = sums(Path("sums.txt"), "1+2=3", "7+8=15", "9+9=18")
    result = document("--checkpoint", trained_checkpoint(), "--data-path", path)
    assert (result["correct"], result["num_examples"]) == (3, 3)
    assert (result["data"], result["format"]) == ("sums.txt", "column")
    assert result["checkpoint"] == str(trained_checkpoint())


def test_the_file_of_the_weights_is_a_checkpoint_too() -> None:
    path = sums(Path("sums.txt"), "1+2=3")
    weights = trained_checkpoint() / "model.safetensors"
    assert document("--checkpoint", weights, "--data-path", path)["correct"] == 1


def test_the_format_of_the_checkpoint_counts_not_that_of_the_file() -> None:
    row = {"expression": "1+2", "answer": "3", "text": "1+2=<think>1+2=3</think>3<end>"}
    path = sums(Path("test.jsonl"), json.dumps(row))
    result = document("--checkpoint", trained_checkpoint("plain"), "--data-path", path)
    assert (result["correct"], result["format"]) == (1, "plain")


def test_a_directory_of_data() -> None:
    sums(Path("mine/test.jsonl"), '{"expression": "1+2", "answer": "3"}')
    result = document("--checkpoint", trained_checkpoint(), "--data-dir", "mine")
    assert (result["num_examples"], result["data"]) == (1, "mine/test.jsonl")


def test_all_problems() -> None:
    result = document("--checkpoint", trained_checkpoint(), "--exhaustive", 9)
    assert (result["correct"], result["num_examples"]) == (100, 100)
    assert result["data"] == "all problems of addition with two operands from 0 to 9"
    # by task and sign of what the checkpoint was trained on
    both = trained_checkpoint("plain", "addition,subtraction")
    assert document("--checkpoint", both, "--exhaustive", 9)["num_examples"] == 155


def test_only_the_first_problems(half: Path) -> None:
    path = sums(Path("sums.txt"), *(f"{a}+1={a + 1}" for a in range(9)))
    result = document("--checkpoint", half, "--data-path", path, "--max-examples", 4)
    assert (result["num_examples"], result["data"]) == (4, "the first 4 of sums.txt")
    assert document("--checkpoint", half, "--data-path", path, "--max-examples", 40)["data"] == "sums.txt"
    assert document("--checkpoint", half, "--exhaustive", 9, "--max-examples", 7)["num_examples"] == 7
    some = document("--checkpoint", half, "--max-examples", 30)
    assert some["num_examples"] == 30


def test_without_a_word_the_data_of_its_training(tmp_path: Path) -> None:
    model = checkpoint_of(tmp_path / "model", half_trained().model, data_dir=str(tmp_path / "own"))
    sums(tmp_path / "own" / "test.jsonl", '{"expression": "1+2", "answer": "3"}')
    sums(tmp_path / "data" / "test.jsonl", '{"expression": "2+2", "answer": "4"}')
    result = run("--checkpoint", model)
    assert "no data was named: taking" in result.stderr
    assert str(tmp_path / "own" / "test.jsonl") in result.stderr
    (tmp_path / "own" / "test.jsonl").unlink()
    assert document("--checkpoint", model)["data"] == "data/test.jsonl"


def test_without_a_file_fresh_problems_of_the_test_split(half: Path) -> None:
    result = run("--checkpoint", half, "--json", "--samples", "samples.jsonl")
    assert "there is no test file: taking" in result.stderr
    assert "of the test split" in result.stderr
    rows = [json.loads(line) for line in Path("samples.jsonl").read_text().splitlines()]
    asked = [row["expression"] for row in rows]
    assert 100 < len(asked) == len(set(asked)) < SAMPLED, "two digits have fewer"
    everything = AllPairs(BOTH_TASKS, 99)[:]
    of_training = split_of(everything, SplitRatios(0.9, 0.05)) == TRAIN
    assert not set(asked) & set(expressions(everything[of_training]))


def asked(*arguments: object) -> list[str]:
    """The problems of an evaluation."""
    document(*arguments, "--samples", "samples.jsonl")
    return [json.loads(row)["expression"] for row in Path("samples.jsonl").read_text().splitlines()]


def test_another_seed_draws_other_problems_of_the_test_split(tmp_path: Path) -> None:
    long = checkpoint_of(
        tmp_path / "long", half_trained().model, task="addition,subtraction", train_ratio=0.5
    )
    drawn = ("--checkpoint", long, "--max-examples", 50)
    first, other = asked(*drawn, "--seed", 1), asked(*drawn, "--seed", 2)
    assert first == asked(*drawn, "--seed", 1)
    assert set(first) != set(other)
    assert asked(*drawn) == asked(*drawn, "--seed", 0)
    # a file that lies about is not what a seed asks for
    sums(Path("data/test.jsonl"), '{"expression": "2+2", "answer": "4"}')
    assert asked(*drawn) == ["2+2"]
    assert asked(*drawn, "--seed", 1) == first


def test_another_seed_draws_other_problems_of_a_length_and_of_a_grid(half: Path) -> None:
    for what in (("--digits", "2", "--max-examples", 40), ("--grid", 2)):
        found = [document("--checkpoint", half, *what, "--seed", seed)["tasks"] for seed in (0, 0, 1, 2, 3)]
        texts = [json.dumps(without_seconds(one)) for one in found]
        assert (
            texts[0]
            == texts[1]
            == json.dumps(without_seconds(document("--checkpoint", half, *what)["tasks"]))
        )
        assert len(set(texts)) > 1


def without_seconds(document: object) -> object:
    """A JSON document without what a clock says."""
    if isinstance(document, dict):
        return {key: without_seconds(value) for key, value in document.items() if key != "seconds"}
    return [without_seconds(value) for value in document] if isinstance(document, list) else document


def test_a_seed_where_nothing_is_drawn_is_refused(half: Path) -> None:
    path = sums(Path("sums.txt"), "1+2=3")
    for what in (("--data-path", path), ("--exhaustive", 3)):
        assert "no problem is drawn" in refused("--checkpoint", half, *what, "--seed", 1).message
    assert "at least 0, not -1" in refused("--checkpoint", half, "--seed", -1).message


def test_the_newest_checkpoint_is_the_default(half: Path) -> None:
    Path("checkpoints").mkdir()
    half.rename("checkpoints/mine")
    assert document("--exhaustive", 3)["checkpoint"] == "checkpoints/mine"


def test_it_is_said_when_a_result_means_something_else(half: Path, tmp_path: Path) -> None:
    path = sums(Path("sums.txt"), *(f"{a}+{b}={a + b}" for a in range(10) for b in range(10)))
    assert (
        "of the split that this checkpoint was trained on"
        in run("--checkpoint", half, "--data-path", path).stderr
    )
    other = sums(Path("differences.txt"), "9-1=8")
    result = run("--checkpoint", trained_checkpoint("plain"), "--data-path", other)
    assert "note: this checkpoint was not trained on subtraction" in result.stderr
    # what a checkpoint with a data directory has seen stands in its files, not in the split
    filed = checkpoint_of(tmp_path / "filed", half_trained().model, data_dir="own")
    assert "note" not in run("--checkpoint", filed, "--data-path", path).stderr


# what comes out


def test_the_report_for_people() -> None:
    result = run("--checkpoint", trained_checkpoint(), "--exhaustive", 9)
    assert result.exit_code == 0
    assert "exact match 100.00% (100 of 100; all there are)" in result.stdout
    assert result.stderr == ""
    assert "\x1b" not in result.stdout


def test_mistakes_are_shown_as_many_as_asked_for(half: Path) -> None:
    for count in (0, 2):
        result = run("--checkpoint", half, "--exhaustive", 30, "--mistakes", count)
        assert result.stdout.count("  gold   ") == count
        assert "95% interval" not in result.stdout, "nothing is left to infer"
        assert "operand digits   right" in result.stdout
    part = run("--checkpoint", half, "--exhaustive", 30, "--max-examples", 900)
    assert "all there are" not in part.stdout
    assert part.stdout.count("95% interval") > 2


def test_files(half: Path) -> None:
    result = run(
        "--checkpoint", half, "--exhaustive", 9, "--output-file", "out.json", "--samples", "samples.jsonl"
    )
    assert result.stdout.startswith("checkpoint  ")
    written = json.loads(Path("out.json").read_text())
    printed = document("--checkpoint", half, "--exhaustive", 9)
    assert {**written, "seconds": 0} == {**printed, "seconds": 0}
    for name in ("exact_match", "exact_match_ci95", "correct", "num_examples", "token_accuracy", "errors"):
        assert name in written
    for name in ("by_task", "by_answer_digits", "by_carries", "seconds", "decoded", "checkpoint", "data"):
        assert name in written
    rows = [json.loads(line) for line in Path("samples.jsonl").read_text().splitlines()]
    assert len(rows) == written["num_examples"] == 155
    assert sum(row["correct"] for row in rows) == written["correct"]
    assert all((row["error"] is None) == row["correct"] for row in rows)
    names = {"expression", "answer", "predicted", "correct", "error", "text", "thought_correct", "reason"}
    assert set(rows[0]) == names
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == ["out.json", "samples.jsonl"]


def test_the_threshold(half: Path) -> None:
    good = ("--checkpoint", trained_checkpoint(), "--exhaustive", 9, "--fail-under")
    assert run(*good, 1).exit_code == 0
    share = document("--checkpoint", half, "--exhaustive", 9)["exact_match"]
    bad = ("--checkpoint", half, "--exhaustive", 9, "--output-file", "out.json", "--fail-under")
    assert run(*bad, share).exit_code == 0
    result = run(*bad, share + 1e-9, "--json")
    assert result.exit_code == BELOW_THRESHOLD == 3
    assert "is below" in result.stderr
    assert json.loads(result.stdout)["exact_match"] == share
    assert Path("out.json").exists()


# what it refuses


def test_options_that_exclude_each_other(half: Path) -> None:
    path = sums(Path("data/test.jsonl"), '{"expression": "1+2", "answer": "3"}')
    pairs = ("--data-path", path), ("--data-dir", "data"), ("--exhaustive", 9)
    for one in range(3):
        error = refused("--checkpoint", half, *pairs[one], *pairs[one - 1])
        assert isinstance(error, UsageError)
        assert "exclude each other" in error.message


@pytest.mark.parametrize(
    "options",
    [
        ("--fail-under", 99.9),
        ("--batch-size", 0),
        ("--exhaustive", -1),
        ("--max-examples", 0),
        ("--mistakes", -1),
        ("--exhaustive", "all"),
    ],
)
def test_values_out_of_range_are_usage_errors(options: tuple[object, ...]) -> None:
    assert run(*options).exit_code == 2


def test_what_is_not_there(half: Path) -> None:
    assert isinstance(refused("--checkpoint", "nowhere"), CheckpointError)
    assert isinstance(refused("--checkpoint", half, "--data-path", "nothing.txt"), DataError)
    assert "test.jsonl" in refused("--checkpoint", half, "--data-dir", "nowhere").message
    assert "no directory" in refused("--checkpoint", half, "--output-file", "nowhere/out.json").message
    assert "no directory" in refused("--checkpoint", half, "--samples", "nowhere/out.json").message
    for option in ("--output-file", "--samples"):
        assert "is a directory" in refused("--checkpoint", half, option, ".").message
    same = refused("--checkpoint", half, "--output-file", "out.json", "--samples", "./out.json")
    assert "two outputs have the same file" in same.message
    assert isinstance(refused("--checkpoint", half, "--device", "tpu"), UsageError)


def test_a_broken_line_is_named(half: Path) -> None:
    path = sums(Path("sums.txt"), "1+2=3", "1+2=4")
    assert "sums.txt:2" in refused("--checkpoint", half, "--data-path", path).message


def test_a_problem_that_nobody_has_taught_it_is_asked_or_named(half: Path) -> None:
    path = sums(Path("more.txt"), "1+2=3", "2*3=6", "3+4=7")
    assert document("--checkpoint", half, "--data-path", path)["num_examples"] == 3
    folded = trained_checkpoint("pairwise")
    error = refused("--checkpoint", folded, "--data-path", path)
    assert error.message.startswith("1 of 3 problems cannot be asked\n  row 2, 2*3: format 'pairwise'")
    path = sums(Path("many.txt"), "1+2=3", *["2*33=66"] * 9)
    assert document("--checkpoint", half, "--data-path", path)["num_examples"] == 10
    error = refused("--checkpoint", folded, "--data-path", path)
    assert error.message.startswith("9 of 10 problems cannot be asked\n  row 2, 2*33: ")
    assert error.message.endswith("\n  and 6 more")


def test_problems_that_are_too_long_are_refused_at_once(half: Path) -> None:
    path = sums(Path("sums.txt"), "1+2=3", "123456+123456=246912")
    error = refused("--checkpoint", half, "--data-path", path, "--samples", "samples.jsonl")
    assert "1 of 2 problems are too long for this model" in error.message
    assert "123456+123456" in error.message
    assert not list(Path().glob("*samples*"))


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, mathllm.cli.eval; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    text = run("--help").output
    assert "mathllm eval --exhaustive 999 --fail-under 1" in text


def test_problems_that_were_trained_on_are_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    lines = [f'{{"expression": "{a}+1", "answer": "{a + 1}"}}' for a in range(9)]
    sums(home / "data" / "train.jsonl", *lines)
    sums(
        home / "data" / "test.jsonl",
        '{"expression": "1+2", "answer": "3"}',
        '{"expression": "2+2", "answer": "4"}',
    )
    (home / "runs").mkdir()
    model = checkpoint_of(home / "runs" / "mine", half_trained().model, data_dir="data")

    def said(*options: object) -> str:
        return run("--checkpoint", model, *options).stderr

    # a checkpoint alone does not say which problems these were
    trained = f"problems are in {home / 'data' / 'train.jsonl'}\n"
    assert f"note: 9 of 9 {trained}" in said("--data-path", home / "data" / "train.jsonl")
    assert f"note: 4 of 4 {trained}" in said(
        "--data-path", home / "data" / "train.jsonl", "--max-examples", 4
    )
    # the test file of its training is found from here; 1+2 is 2+1
    assert f"note: 1 of 2 {trained}" in said()
    (home / "data" / "train.jsonl").write_text("nothing")
    assert "note" not in said()
    stream = checkpoint_of(tmp_path / "stream", half_trained().model)
    options = ("--checkpoint", stream, "--data-path", sums(Path("sums.txt"), "1+2=3", "7+8=15"))
    assert "of 1 problems are of the split" in run(*options, "--max-examples", 1).stderr


def test_it_is_the_file_trained_on_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not another one of the same name, which lies where eval is called; and no file at all where training has
    compared the problems."""
    asked = tmp_path / "home" / "data" / "test.jsonl"
    files = {"train": "1+1=2", "val": "2+2=4", "test": "3+3=6"}
    for name, line in files.items():
        sums(asked.with_name(f"{name}.jsonl"), line)
        sums(Path(f"data/{name}.jsonl"), "3+3=6")
    path = checkpoint_of(tmp_path / "home" / "best", half_trained().model, data_dir="data")
    trained, validation, tested = (
        hash_problems(read_problems(asked.with_name(f"{name}.jsonl"))) for name in files
    )
    state = {"data": fingerprint(trained, validation), "scaler": {}}
    (path / "training_state.json").write_text(json.dumps(state))

    def said(file: Path) -> str:
        return run("--checkpoint", path, "--data-path", file).stderr

    trained_on = "note: 1 of 1 problems are in the file that this checkpoint was trained on"
    assert "note" not in said(asked)
    assert trained_on in said(asked.with_name("train.jsonl"))
    results = {"in_training": 0, "problems": fingerprint(tested)}
    (path.parent / "test_results.json").write_text(json.dumps(results))
    assert trained_on in said(asked.with_name("train.jsonl")), "that is not what it was tested on"
    with monkeypatch.context() as patched:
        patched.setattr("mathllm.cli.eval._trained_on", None)
        assert "note" not in said(asked)
    shutil.rmtree(asked.parent)
    nameless = checkpoint_of(tmp_path / "nameless", half_trained().model, data_dir="a\0b")
    assert document("--checkpoint", nameless, "--data-path", "data/test.jsonl")["num_examples"] == 1
    assert "note" not in said(sums(Path("sums.txt"), "1+1=2", "3+3=6")), "nobody knows"


def test_a_signal_clears_up(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mathllm.evaluation.report.evaluate_problems", lambda *_, **__: signal.raise_signal(signal.SIGTERM)
    )
    Path(".samples.jsonl.tmp-1").touch()  # of one that was killed
    monkeypatch.setattr(
        sys, "argv", ["mathllm", "eval", "--checkpoint", str(half), "--samples", "samples.jsonl"]
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(Path().glob("*samples*"))
