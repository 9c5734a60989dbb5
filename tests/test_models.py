"""Which model answers where none is named: the newest that has learned what is asked, and it is said."""

import os
import shutil
from pathlib import Path

import pytest
from shipped import ANY_LENGTH, ARITHMETIC, DIVIDE, MULTIPLY, OWN_THOUGHTS
from trained import alone, parrot, trained_checkpoint

from mathllm import models as models_module
from mathllm.checkpoint import load_checkpoint
from mathllm.errors import CheckpointError, ExpressionError
from mathllm.finding import TAKEN
from mathllm.models import Models, find_models

ADDER, SHORT = Path("checkpoints/adder"), Path("checkpoints/short")
# by whom each is answered: the adder knows one digit, and has room for 32 tokens
ASKED = {
    "8+9": ADDER,
    "9-4": ARITHMETIC,
    "12+34": ARITHMETIC,
    "1-2": ARITHMETIC,
    "2*3": ARITHMETIC,
    "-12*34": ARITHMETIC,
    "144/12+7%5": ARITHMETIC,
    "12345+67890": ANY_LENGTH,
    "9" * 40 + "+1": ANY_LENGTH,
    "12345*67890": MULTIPLY,
    "-12345*67890": ARITHMETIC,  # which knows signs, though not such long numbers
    "12345678%12": DIVIDE,
    "1+2+3+4+5": ARITHMETIC,  # nobody has learned that, but it has seen the most numbers
    "12345-6": ARITHMETIC,  # nor that, which only one knows at all
    "123456*654321": MULTIPLY,
    "9" * 20 + "/123456": DIVIDE,
    "7" * 3000 + "-1": ANY_LENGTH,
    "x": ADDER,
    "": ADDER,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run that knows additions of one digit."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_checkpoint(), ADDER)
    return tmp_path


def test_the_first_that_has_learned_it_answers(home: Path) -> None:
    models = find_models()
    chosen = {row: model.path for model, rows in models.choose(list(ASKED)) for row in rows.tolist()}
    assert [chosen[row] for row in range(len(ASKED))] == list(ASKED.values())
    for text, path in ASKED.items():
        ((model, rows),) = models.choose([text])
        assert (model.path, rows.tolist()) == (path, [0]), text
    assert models.choose([]) == []


def test_answers_come_in_the_order_of_the_texts(home: Path) -> None:
    outcomes = find_models().try_many(["9-4", "8+9", "x", "12345+67890", "2-9"])
    assert [getattr(result, "answer", None) for _, result in outcomes] == [5, 17, None, 80235, -7]
    assert type(outcomes[2][1]) is ExpressionError


def test_only_what_answers_is_loaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(models_module, "load_checkpoint", lambda path, _: loaded.append(path) or parrot("1"))
    models = find_models()
    models.choose(["9-4", "8-3"])
    assert loaded == [ARITHMETIC]
    models.choose(["12345+67890", "1+1"])
    assert loaded == [ARITHMETIC, ADDER, ANY_LENGTH]


def test_the_newest_run_comes_first_and_what_ships_last(home: Path) -> None:
    shutil.copytree(trained_checkpoint(task="addition,subtraction"), SHORT)
    os.utime(ADDER / "model.safetensors", (1, 1))
    models = find_models()
    assert models.first.path == SHORT
    assert models.others(models.first) == [str(ADDER), *TAKEN]
    assert [model.path for model, _ in models.choose(["8+9", "9-4"])] == [SHORT]


def test_it_is_said_who_answers_and_why(home: Path) -> None:
    models = find_models()
    said = [models.introduce(models.choose([text])[0][0], text) for text in ASKED]
    never, long = f"{ADDER} never saw", "a number of more than 1 digit"
    whole = f"a whole expression with {long} or a whole expression of more than 2 numbers"
    assert said[:10] == [
        f"{ADDER} answers",
        f"arithmetic answers: {never} a problem of subtraction",
        f"arithmetic answers: {never} a number of more than 1 digit",
        f"arithmetic answers: {never} a problem of subtraction or a result below zero",
        f"arithmetic answers: {never} a problem of multiplication",
        f"arithmetic answers: {never} a problem of multiplication or {long} or a factor below zero",
        f"arithmetic answers: {never} a whole expression or {whole}",
        f"add-any-length answers: {never} a number of more than 1 digit",
        f"add-any-length answers: {never} a number of more than 1 digit",
        f"multiply-any-length answers: {never} a problem of multiplication or a number of more than 1 digit",
    ]


@pytest.mark.parametrize("inside", ["best", "checkpoint-100"])
def test_of_a_run_the_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_checkpoint(), ADDER / inside)
    models = find_models()
    assert models.introduce(models.first, "8+9") == f"{ADDER} answers"
    assert find_models(str(ADDER)).first.path == models.first.path == ADDER / inside


def test_one_that_is_named_is_the_only_one(home: Path) -> None:
    for models in (find_models(str(ADDER)), alone(load_checkpoint(ADDER))):
        ((model, rows),) = models.choose(list(ASKED))
        assert (model.path, len(rows)) == (ADDER, len(ASKED))
        assert models.introduce(model, "9-4") == ""
        assert models.others(model) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_one_is_left_out_and_that_is_said(home: Path, name: str) -> None:
    (ADDER / name).write_bytes(b"{}")
    said: list[str] = []
    models = find_models(say=said.append)
    ((model, _),) = models.choose(["8+9"])
    assert model.path == ARITHMETIC
    assert len(said) == 1
    assert said[0].startswith(f"{ADDER} is left out: ")
    models.choose(["8+9"])
    assert len(said) == 1
    assert find_models(say=said.append).first.path == ARITHMETIC


def test_the_last_one_that_is_damaged_is_an_error(home: Path) -> None:
    (ADDER / "config.json").write_bytes(b"{}")
    for models in (find_models(str(ADDER)), Models(find_models()._candidates[:1], named=False)):
        with pytest.raises(CheckpointError):
            models.choose(["8+9"])
        with pytest.raises(CheckpointError):
            _ = models.first


def test_no_checkpoint_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(ADDER)
    assert find_models().first.path == ARITHMETIC
    monkeypatch.setattr("mathllm.finding.SHIPPED", home / "none")
    with pytest.raises(CheckpointError, match="there is no checkpoint under checkpoints/"):
        find_models()


def test_a_sum_is_no_chain_even_where_the_newest_run_knows_chains(home: Path) -> None:
    chains = Path("checkpoints/chains")
    shutil.copytree(OWN_THOUGHTS, chains)
    os.utime(chains / "model.safetensors", (2**31, 2**31))
    models = find_models()
    assert models.first.path == chains
    answers = {text: models.try_many([text])[0] for text in ("5+6", "12+34", "3+4*7-2", "3+4*7-2+1")}
    assert [(model.path, found.answer) for model, found in answers.values()] == [
        (ADDER, 11),
        (ARITHMETIC, 46),
        (ARITHMETIC, 29),
        (chains, 8),
    ]
    said = {text: models.introduce(model, text) for text, (model, _) in answers.items()}
    assert said["5+6"] == f"{ADDER} answers: {chains} works from left to right modulo 10"
    assert said["3+4*7-2+1"] == f"{chains} answers, from left to right modulo 10"
