"""The checkpoints that come with mathllm: small, documented, and right wherever a sample looks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mathllm.api import MathModel, load
from mathllm.checkpoint import ANY_LENGTH, OWN_THOUGHTS, SHIPPED, find_checkpoint
from mathllm.config import build_config
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.lengths import KINDS, RANDOM, draw_length
from mathllm.evaluation.report import evaluate_problems
from mathllm.resolve import resolve
from mathllm.tasks import Problems, Sampling, get_tasks, sample
from mathllm.tokenizer import decode_rows

ADDITION, SUBTRACTION = get_tasks("addition,subtraction")


@pytest.fixture(scope="module")
def shipped() -> MathModel:
    return load(SHIPPED, device="cpu")


def test_it_is_small_and_says_what_it_can_do() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 1_000_000
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    # the full counts, over all pairs of numbers 0 to 999
    assert card.count("1,000,000 of 1,000,000") == 2


@pytest.mark.parametrize("expression", ["99+1", "100-99", "999+999", "0+0", "0-999", "500-500"])
def test_known_hard_ones(shipped: MathModel, expression: str) -> None:
    solution = shipped.solve(expression)
    assert solution.answer == eval_expression(expression)
    assert solution.correct


def eval_expression(text: str) -> int:
    left, sign, right = text.partition("+") if "+" in text else text.partition("-")
    return int(left) + int(right) if sign == "+" else int(left) - int(right)


def wrong_answers(model: MathModel, problems: Problems) -> int:
    report = evaluate_problems(model, problems)
    return report.answers.num_examples - report.answers.correct


def test_all_small_numbers(shipped: MathModel) -> None:
    assert wrong_answers(shipped, AllPairs((ADDITION, SUBTRACTION), 40, True)[:]) == 0


@pytest.mark.parametrize("method", ["uniform", "balanced"])
def test_a_sample_of_all_numbers_up_to_999(shipped: MathModel, method: str) -> None:
    rng = np.random.default_rng(2024)
    assert wrong_answers(shipped, sample(rng, 3000, (ADDITION,), Sampling(3, 2, method))) == 0
    assert wrong_answers(shipped, sample(rng, 3000, (SUBTRACTION,), Sampling(3, 2, method, signed=True))) == 0


def test_they_are_known_by_name_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for named in ("add-any-length", "checkpoints/add-any-length"):
        assert find_checkpoint(named) == ANY_LENGTH
    own = tmp_path / "checkpoints" / "add-any-length"
    shutil.copytree(SHIPPED, own)
    assert find_checkpoint("checkpoints/add-any-length").resolve() == own


@pytest.fixture(scope="module")
def any_length() -> MathModel:
    return load(ANY_LENGTH, device="cpu")


@pytest.mark.parametrize(
    "expression", ["9" * 500 + "+1", "1+" + "9" * 500, "123456789" * 50 + "+" + "987654321" * 45, "0+0"]
)
def test_sums_of_hundreds_of_digits(any_length: MathModel, expression: str) -> None:
    solution = any_length.solve(expression)
    assert solution.answer == sum(map(int, expression.split("+")))


@pytest.mark.xfail(strict=True, reason="its card says so: the carry of 7+7 is lost")
@pytest.mark.parametrize("expression", ["870+70", *(f"{first}+700" for first in range(8700, 8710))])
def test_a_known_wrong_sum(any_length: MathModel, expression: str) -> None:
    assert any_length.solve(expression).correct


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_sums_ten_times_as_long_as_in_training(any_length: MathModel, kind: str) -> None:
    assert any_length.data.max_digits == 10
    assert wrong_answers(any_length, draw_length(ADDITION, 100, kind, 50, seed=7)) == 0


@pytest.mark.parametrize(
    ("path", "digits", "operands"),
    [(SHIPPED, 3, 2), (SHIPPED, 2, 3), (ANY_LENGTH, 30, 2), (ANY_LENGTH, 8, 3)],
)
def test_the_truth_is_a_draft_and_verdicts_are_those_of_decoding(
    path: Path, digits: int, operands: int
) -> None:
    """Two operands they know, so that nothing is decoded; three they were never shown."""
    model = load(path, device="cpu")
    problems = draw_length(ADDITION, digits, RANDOM, 60, operands=operands)
    quick, greedy = (judge(model, problems, draft=draft) for draft in (True, False))
    assert greedy.decoded.all()
    assert quick.decoded.any() == (operands == 3)
    assert greedy.answer_correct.all() == (operands == 2)
    assert (quick.answer_correct == greedy.answer_correct).all()
    assert (quick.token_hits == greedy.token_hits).all()
    assert (quick.written.lengths == greedy.written.lengths).all()
    texts = [decode_rows(verdicts.written.ids, verdicts.written.lengths) for verdicts in (quick, greedy)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("path", "recipe"),
    [(SHIPPED, "addsub-3digit"), (ANY_LENGTH, "length-100x"), (OWN_THOUGHTS, "chain-thoughts")],
)
def test_they_were_made_by_the_recipes_as_they_stand(path: Path, recipe: str) -> None:
    config = resolve(build_config({"train": {"threads": 1}}, recipe=recipe))
    saved = json.loads((path / "training_config.json").read_text(encoding="utf-8"))
    assert build_config(saved) == config  # settings that it did not know yet had their defaults


def test_without_a_run_the_first_of_them_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    for path in (SHIPPED, ANY_LENGTH, OWN_THOUGHTS):
        (tmp_path / "checkpoints" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint() == SHIPPED
