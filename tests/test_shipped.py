"""The checkpoints that come with mathllm: small, documented, and right wherever a sample looks."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from shipped import ADDSUB, ANY_LENGTH, ARITHMETIC, DIVIDE, MULTIPLY, OWN_THOUGHTS
from strategies import ask

from mathllm.api import MathModel, load
from mathllm.config import build_config, recipe_names
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.lengths import KINDS, RANDOM, draw_length
from mathllm.evaluation.report import evaluate_problems
from mathllm.finding import find_checkpoint
from mathllm.resolve import resolve
from mathllm.tasks import Problems, Sampling, get_tasks, sample
from mathllm.tokenizer import decode_rows

ADDITION, SUBTRACTION = get_tasks("addition,subtraction")


OPERATIONS = get_tasks("addition,subtraction,multiplication,division,remainder")
(EXPRESSIONS,) = get_tasks("arithmetic")
ALL = (ARITHMETIC, ANY_LENGTH, MULTIPLY, DIVIDE, ADDSUB, OWN_THOUGHTS)


@pytest.fixture(scope="module")
def shipped() -> MathModel:
    return load(ADDSUB, device="cpu")


@pytest.fixture(scope="module")
def arithmetic() -> MathModel:
    return load(ARITHMETIC, device="cpu")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_they_are_small_and_have_a_card(path: Path) -> None:
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 1_000_000
    assert "Made by `mathllm train --recipe" in (path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        (ADDSUB, {"1,000,000 of 1,000,000": 2}),
        (ARITHMETIC, {"1,000,000 of 1,000,000": 3, "999,000 of 999,000": 2, "10,000 of 10,000": 3}),
    ],
)
def test_a_card_has_the_counts_over_all_pairs_of_numbers_0_to_999(path: Path, counts: dict[str, int]) -> None:
    card = (path / "README.md").read_text(encoding="utf-8")
    assert {count: card.count(count) for count in counts} == counts


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "999*999",
            "-12*34",
            "-999*-1",
            "0/7",
            "7%999",
            "999%1",
            "500/7",
            "12+3*45-6",
            "99*99*99",
            "0-99-99*99",
        ),
        # what earlier ones got wrong
        *("87*77*3/2", "1-20+86-10", "40-89+60", "54-70%84%99"),
    ],
)
def test_products_quotients_and_expressions_in_arithmetic(arithmetic: MathModel, expression: str) -> None:
    solution = arithmetic.solve(expression)
    assert solution.correct
    assert solution.answer == ask(expression).answer


def test_all_operations_on_small_numbers(arithmetic: MathModel) -> None:
    assert wrong_answers(arithmetic, AllPairs(OPERATIONS, 20, True)[:]) == 0


@pytest.mark.parametrize("method", ["uniform", "balanced"])
def test_a_sample_of_all_operations_and_of_whole_expressions(arithmetic: MathModel, method: str) -> None:
    rng, how = np.random.default_rng(2026), Sampling(3, 2, method, signed=True)
    assert wrong_answers(arithmetic, sample(rng, 1000, OPERATIONS, how)) == 0
    expressions = Sampling(2, 4, method, signed=True)
    assert wrong_answers(arithmetic, sample(rng, 200, (EXPRESSIONS,), expressions)) == 0


@pytest.mark.parametrize(
    ("path", "task", "first", "second"),
    [(MULTIPLY, "multiplication", 20, 20), (DIVIDE, "division", 20, 10), (DIVIDE, "remainder", 12, 6)],
)
def test_a_sample_of_products_and_quotients_several_times_as_long_as_in_training(
    path: Path, task: str, first: int, second: int
) -> None:
    model, (asked,) = load(path, device="cpu"), get_tasks(task)
    for kind in KINDS:
        problems = draw_length(asked, first, kind, 20, seed=7, second_digits=second)
        assert problems.lengths[:, 0].max() == first
        assert wrong_answers(model, problems) == 0


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
    shutil.copytree(ADDSUB, own)
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


@pytest.mark.parametrize("expression", ["870+70", *(f"{first}+700" for first in range(8700, 8710))])
def test_sums_that_an_earlier_one_got_wrong(any_length: MathModel, expression: str) -> None:
    assert any_length.solve(expression).correct


@pytest.mark.parametrize(("path", "every"), [(ANY_LENGTH, 101), (OWN_THOUGHTS, 7)], ids=["sums", "chains"])
def test_a_part_of_the_proof_is_checked_by_code_that_shares_nothing(path: Path, every: int) -> None:
    checker = Path(__file__).parents[1] / "docs/check_proof.py"
    done = subprocess.run(
        [sys.executable, checker, path, str(every)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "least lead" in done.stdout
    proof = json.loads((path / "proof.json").read_text(encoding="utf-8"))
    assert proof["holds"]
    lead = f"{proof['lead']:.4f}"
    assert lead in (path / "README.md").read_text(encoding="utf-8")


def test_the_checker_fails_where_a_weight_is_another(tmp_path: Path) -> None:
    path = Path(shutil.copytree(OWN_THOUGHTS, tmp_path / "model"))
    weights = load_file(path / "model.safetensors")
    weights["head.weight"][7] *= 0.5
    save_file(weights, path / "model.safetensors")
    checker = Path(__file__).parents[1] / "docs/check_proof.py"
    call = [sys.executable, str(checker), str(path), "3"]
    assert (
        "of another model.safetensors"
        in subprocess.run(call, capture_output=True, text=True, check=False).stderr
    )
    proof = json.loads((path / "proof.json").read_text(encoding="utf-8"))
    for spoilt in (1.0, float("nan")):
        weights["embedding.weight"][7] *= spoilt
        save_file(weights, path / "model.safetensors")
        proof["weights_sha256"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        (path / "proof.json").write_text(json.dumps(proof), encoding="utf-8")
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert "some token is wrong" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_sums_ten_times_as_long_as_in_training(any_length: MathModel, kind: str) -> None:
    assert any_length.data.max_digits == 10
    assert wrong_answers(any_length, draw_length(ADDITION, 100, kind, 50, seed=7)) == 0


@pytest.mark.parametrize(
    ("path", "digits", "operands"),
    [(ADDSUB, 3, 2), (ADDSUB, 2, 3), (ANY_LENGTH, 30, 2), (ANY_LENGTH, 8, 3)],
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
    [
        (ADDSUB, "addsub-3digit"),
        (ANY_LENGTH, "length-proved"),
        (OWN_THOUGHTS, "chain-thoughts"),
        (ARITHMETIC, "arithmetic"),
        (MULTIPLY, MULTIPLY.name),
        (DIVIDE, DIVIDE.name),
    ],
)
def test_they_were_made_by_the_recipes_as_they_stand(path: Path, recipe: str) -> None:
    saved = json.loads((path / "training_config.json").read_text(encoding="utf-8"))
    own = {name: saved["train"][name] for name in ("threads", "seed")}  # as their cards say
    config = resolve(build_config({"train": own}, recipe=recipe))
    assert build_config(saved) == config  # settings that it did not know yet had their defaults


def test_without_a_run_the_first_of_them_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    for path in ALL:
        (tmp_path / "checkpoints" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint() == ARITHMETIC


@pytest.mark.parametrize("recipe", recipe_names())
def test_recipes_write_where_none_of_them_is(recipe: str) -> None:
    config = build_config({}, recipe=recipe)
    assert Path(config.train.output_dir) not in [Path("checkpoints", path.name) for path in ALL]
