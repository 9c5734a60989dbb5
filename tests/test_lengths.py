"""`mathllm eval --digits`: problems of exactly some length, random ones and ones with long carries."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from judged import CONFIG, half_trained
from shipped import OWN_THOUGHTS
from strategies import encode_rows, questions_of
from typer.testing import CliRunner

from mathllm.checkpoint import save_model
from mathllm.cli.main import app
from mathllm.config import DataConfig
from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import LENGTH_ERRORS, wrong_lengths
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.lengths import (
    KINDS,
    RANDOM,
    STRESS,
    TRIPLES,
    check_length,
    draw_length,
    evaluate_lengths,
)
from mathllm.formats import get_format
from mathllm.tasks import TASKS, Task, carry_lengths, get_tasks
from mathllm.tasks.expressions import numbers_from_ids
from mathllm.tasks.sampling import triples

ADDITION, SUBTRACTION = get_tasks("addition,subtraction")


@pytest.mark.parametrize("task", [ADDITION, SUBTRACTION])
@pytest.mark.parametrize("operands", [2, 4])
@pytest.mark.parametrize("digits", [1, 2, 30])
def test_operands_have_exactly_that_many_digits(task: Task, operands: int, digits: int) -> None:
    expected = operands if task is ADDITION else 2
    problems = draw_length(task, digits, RANDOM, 50, operands=operands)
    assert problems.lengths.tolist() == [[digits] * expected] * 50
    stressed = questions_of(draw_length(task, digits, STRESS, 200, operands=operands))
    for question in stressed:
        assert len(question.operands) == expected
        assert question.answer >= 0
        assert question.width == digits or (task is SUBTRACTION and question.width == digits - 1)
    assert (draw_length(task, digits, RANDOM, 50, operands=operands).operands == problems.operands).all()
    other = draw_length(task, digits, RANDOM, 50, operands=operands, seed=1)
    assert (other.operands[:, :expected] != problems.operands).any()


@pytest.mark.parametrize(("task", "longest"), [(ADDITION, 100), (SUBTRACTION, 99)])
def test_carry_stress_has_chains_of_every_length(task: Task, longest: int) -> None:
    chains = carry_lengths(draw_length(task, 100, STRESS, 8000))
    # half of them run through all columns
    assert (chains == longest).mean() > 0.45
    assert set(range(1, longest + 1)) - set(chains.tolist()) == set()
    uniform = carry_lengths(draw_length(task, 100, RANDOM, 4000))
    assert np.percentile(uniform, 99) < 20
    questions = questions_of(draw_length(ADDITION, 20, STRESS, 400))
    assert any(q.operands[0] == 10**20 - 1 and q.operands[1] == 1 for q in questions)


def test_the_reports_are_those_of_judging() -> None:
    model = half_trained()
    results = evaluate_lengths(model, ADDITION, [1, 2], n=40).results
    assert [(result.length.digits, result.kind) for result in results] == [
        (d, kind) for d in (1, 2) for kind in KINDS
    ]
    for result in results:
        right = judge(model, draw_length(ADDITION, result.length.digits, result.kind, 40)).answer_correct
        answers = result.report.answers
        assert (answers.correct, answers.num_examples) == (right.sum(), 40)
    assert 0 < sum(result.report.answers.correct for result in results) < 160
    greedy = evaluate_lengths(model, ADDITION, [1, 2], n=40, draft=False).results
    assert [r.report.answers for r in greedy] == [r.report.answers for r in results]
    assert {r.report.decoded for r in greedy} == {40}


@pytest.mark.parametrize(
    ("said", "true", "error"),
    [
        ("123", "124", "none"),
        ("12", "123", "dropped_digit"),
        ("13", "123", "dropped_digit"),
        ("23", "123", "dropped_digit"),
        ("1223", "123", "doubled_digit"),
        ("1123", "123", "doubled_digit"),
        ("1233", "123", "doubled_digit"),
        ("1253", "123", "longer"),
        ("12333", "123", "longer"),
        ("1", "123", "shorter"),
        ("99", "123", "shorter"),
        ("5", "55", "dropped_digit"),
        ("555", "55", "doubled_digit"),
        ("10", "9", "longer"),
        ("0", "10", "dropped_digit"),
    ],
)
def test_numbers_of_another_length(said: str, true: str, error: str) -> None:
    # beside a longer one, so that arrays are wider than the numbers
    numbers = [numbers_from_ids(*encode_rows([text, "7" * 9]))[0] for text in (said, true)]
    assert [LENGTH_ERRORS[i] for i in wrong_lengths(*numbers)] == [error, "none"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths")
    save_model(path, half_trained().model, CONFIG, DataConfig(task="addition,subtraction", max_digits=1))
    return path


def test_the_command(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "lengths.json"
    arguments = ["eval", "--checkpoint", str(checkpoint), "--digits", "2,1", "--max-examples", "30"]
    result = CliRunner().invoke(app, [*arguments, "--output-file", str(output)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("carry stress") == 4  # two tasks, two lengths
    assert "trained on up to 1 digit\n" in result.stdout
    rows = json.loads(output.read_text())["tasks"]["addition"]
    assert [(row["digits"], row["kind"], row["num_examples"]) for row in rows] == [
        (digits, kind, 30) for digits in (1, 2) for kind in KINDS
    ]
    assert set(rows[0]["errors"]["wrong_length"]) == set(LENGTH_ERRORS[1:])
    greedy = CliRunner().invoke(app, [*arguments, "--no-draft", "--json"])
    assert [r["correct"] for r in json.loads(greedy.stdout)["tasks"]["addition"]] == [
        r["correct"] for r in rows
    ]


def test_second_operands_may_have_a_length_of_their_own(tmp_path: Path) -> None:
    data = DataConfig(task="addition,multiplication,division", format="plain", max_digits=2, second_digits=1)
    save_model(tmp_path, half_trained().model, CONFIG, data)
    arguments = ["eval", "--checkpoint", str(tmp_path), "--max-examples", "2"]
    result = CliRunner().invoke(app, [*arguments, "--digits", "2x2,3", "--json"])
    assert result.exit_code == 0, result.output
    tasks = json.loads(result.stdout)["tasks"]
    found = {
        name: [(row["digits"], row.get("second_digits")) for row in rows[::2]] for name, rows in tasks.items()
    }
    both = [(2, 2), (3, 1)]
    assert found == {"addition": [(3, None)], "multiplication": both, "division": both}
    # of two numbers of two digits the quotient has one
    assert {digits for row in tasks["division"][:2] for digits in row["by_answer_digits"]} == {"1"}
    result = CliRunner().invoke(app, [*arguments, "--digits", "2x2"])
    assert "addition" not in result.stdout
    assert "note: left out, since they have no second length: addition\n" in result.stderr
    assert "  2x2      0   2  near multiples" in result.stdout
    assert "trained on up to 2 digits, divisors of up to 1\n" in result.stdout
    grid = json.loads(
        CliRunner().invoke(app, [*arguments[:3], "--grid", "3x2", "--per-cell", "1", "--json"]).stdout
    )
    cells = {name: result["grid_num_examples"] for name, result in grid["tasks"].items()}
    assert cells["addition"] == [[1, 1, 1]] * 3
    assert cells["multiplication"] == cells["division"] == [[1, 1, 0]] * 3
    wrong = CliRunner().invoke(app, [*arguments[:3], "--grid", "2x3"])
    assert "--grid 3x2" in wrong.exception.hint
    for task, second in itertools.product(get_tasks("multiplication,division,remainder"), (3, 12)):
        for kind in KINDS:
            lengths = draw_length(task, 8, kind, 40, second_digits=second).lengths
            assert set(lengths[:, 0].tolist()) == {8}
            assert lengths[:, 1].max() == second


def test_a_length_says_what_second_operands_have() -> None:
    """Divisors that were of at most five digits in training are not longer unless that is asked for."""
    arguments = [
        "eval",
        "--checkpoint",
        "divide-any-length",
        "--digits",
        "7,3x8",
        "--max-examples",
        "5",
        "--json",
    ]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)["tasks"]
    for rows in found.values():
        assert [(row["digits"], row.get("second_digits")) for row in rows[::2]] == [(3, 8), (7, 5)]
        assert all(row["correct"] == 5 for row in rows)


def test_a_chain_has_numbers_and_no_carries() -> None:
    arguments = ["eval", "--checkpoint", str(OWN_THOUGHTS), "--digits", "5", "--max-examples", "3"]
    shown = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert shown[1].split()[:3] == ["numbers", "right", "of"]
    assert [line.split()[3:] for line in shown[2:4]] == [["random"], ["no", "idle", "steps"]]
    assert shown[4] == "trained on up to 5 numbers"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--digits", "ten"], "numbers of digits are like 20 or 20x10"),
        (["--digits", "0"], "numbers of digits are like 20 or 20x10"),
        (["--digits", "5x"], "numbers of digits are like 20 or 20x10, not '5x'"),
        (["--digits", "5x4x3"], "numbers of digits are like 20 or 20x10"),
        (["--grid", "4x0"], "numbers of digits are like 20 or 20x10"),
        (["--digits", "2x1,3"], "--digits 2x1 has a second length, and addition or subtraction has not"),
        (["--digits", "5", "--grid", "5"], "--grid does nothing beside --digits"),
        (["--digits", "5", "--exhaustive", "5"], "--exhaustive does nothing beside --digits"),
        (["--grid", "5", "--max-examples", "5"], "--max-examples does nothing beside --grid"),
        (["--digits", "5", "--mistakes", "9"], "--mistakes does nothing beside --digits"),
        (["--operands", "3"], "--operands needs --digits"),
        (["--digits", "5", "--operands", "101"], "at most 100 operands"),
        (["--digits", "1,5000"], "5,000 digits take 10,000 tokens or more"),
    ],
)
def test_what_makes_no_sense_is_refused(checkpoint: Path, options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["eval", "--checkpoint", str(checkpoint), *options])
    assert isinstance(result.exception, UsageError)
    assert said in result.exception.message


@pytest.mark.parametrize("task", TASKS[:3])
def test_the_longest_text_is_known_at_any_length(task: Task) -> None:
    """Beyond what may be typed in one number, too."""
    assert check_length(get_format("reversed"), 1 << 20, task, 20_000) > 40_000


def test_sums_that_hold_every_three_columns_in_a_row() -> None:
    circle = triples(7)
    assert len(circle) == 7**3
    found = {tuple(circle[(start + np.arange(3)) % 7**3].tolist()) for start in range(7**3)}
    assert found == set(itertools.product(range(7), repeat=3))
    problems = draw_length(ADDITION, 1000, TRIPLES, 5)
    assert len(problems) == -(-(10**6) // 997)
    assert (problems.lengths == 1000).all()
    columns = 10 * problems.operands[:, 0].astype(np.int64) + problems.operands[:, 1]
    seen = np.zeros(10**6, bool)
    seen[(10**4 * columns[:, :-2] + 100 * columns[:, 1:-1] + columns[:, 2:]).ravel()] = True
    assert seen.all()
    with pytest.raises(UsageError, match="no room"):
        draw_length(ADDITION, 3, TRIPLES, 5)
    with pytest.raises(UsageError, match="no subtraction holds"):
        draw_length(SUBTRACTION, 10, TRIPLES, 5)
