"""Multiplication, from its two tokens to a trained model that is asked `12*3`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from runs import finished, tiny
from strategies import ALL, ALL_FORMATS, Question, arrays, ask, batches, format_id, integers_of, questions_of

import mathllm
from mathllm.checkpoint import load_checkpoint
from mathllm.data.importing import read_problems
from mathllm.errors import DataError, UsageError
from mathllm.evaluation.breakdown import wrong_digits
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.grid import draw_cells
from mathllm.evaluation.samples import _token_span
from mathllm.formats import Format, get_format
from mathllm.tasks import Problems, Sampling, answer, get_tasks
from mathllm.tasks.expressions import expressions, parse_expression
from mathllm.tasks.splits import TRAIN, SplitRatios, split_of
from mathllm.tokenizer import PLUS, decode, encode

TASKS = get_tasks("multiplication")
WITHOUT_THOUGHTS = [notation for notation in ALL_FORMATS if not notation.thoughts]


def test_times_is_two_tokens() -> None:
    assert encode("12*3").tolist() == [1, 2, PLUS, PLUS, 3]
    assert decode(encode("12*3=36<end>")) == "12*3=36<end>"


@pytest.mark.parametrize("notation", WITHOUT_THOUGHTS, ids=format_id)
@given(asked=batches(max_digits=8, symbols=ALL))
def test_what_is_rendered_reads_back(notation: Format, asked: list[Question]) -> None:
    rendered = notation.render(arrays(asked))
    parsed = notation.parse(rendered.ids)
    assert integers_of(parsed.answer) == [question.answer for question in asked]
    assert (parsed.well_formed & parsed.ended).all()


@pytest.mark.parametrize("method", ["digits", "uniform", "balanced"])
def test_half_of_signed_products_have_signs_and_others_are_drawn_as_ever(method: str) -> None:
    counts, task = np.array([2, 3] * 500), TASKS[0]

    def drawn(signed: bool) -> Problems:
        how = Sampling(3, 3, method, signed=signed)
        return task.sample(np.random.default_rng(0), counts, method, how)

    plain, signed = drawn(False), drawn(True)
    assert not plain.negative.any()
    assert replace(signed, negative=plain.negative).operands.tolist() == plain.operands.tolist()
    assert not (signed.negative & ~signed.operands.any(2)).any()  # 0 has no sign
    assert 0.35 < signed.negative.any(1).mean() < 0.5
    # of every pattern of signs there are some
    assert len(np.unique(signed.negative[1::2], axis=0)) == 8


def test_a_factor_is_about_no_place() -> None:
    notation, problems = get_format("reversed"), arrays([ask("123*4")])
    rendered = notation.render(problems)
    assert decode(rendered.ids[0]) == "321*4=294<end>"
    places = notation.coordinates(problems, rendered.ids, ("place",))["place"]
    assert places[0].tolist() == [1, 2, 3, 0, 0, 0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("name", ["pairwise", "steps"])
def test_formats_that_cannot_reason_about_it_say_so(name: str) -> None:
    with pytest.raises(UsageError, match="no thought for task 'multiplication'"):
        get_format(name).render(arrays([ask("12*3")]))


def test_products_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "products.txt"
    path.write_text("12*3=36\n7*8=56\n1+2=3\n")
    assert expressions(read_problems(path)) == ["12*3", "7*8", "1+2"]
    path.write_text("12*3=36\n12++3=36\n2*2=5\n")
    with pytest.raises(DataError) as error:
        read_problems(path)
    assert "products.txt:2: '12++3=36', position 4: a number was expected here" in error.value.message
    assert "products.txt:3: '2*2=5': the answer is 4" in error.value.message


def test_only_one_digit_factors_have_a_carry_to_be_wrong_about() -> None:
    problems = arrays([ask(text) for text in ("12*34", "19*4", "4*19", "19*4*1")])
    wrong, right = (
        answer(arrays([ask(text) for text in texts]))
        for texts in (("409+9", "66+0", "66+0", "66+0"), ("408+0", "76+0", "76+0", "76+0"))
    )
    assert wrong_digits(problems, wrong, right)[1].tolist() == [False, True, True, False]


def test_every_product_by_one_digit_is_tried_once() -> None:
    pairs = AllPairs(get_tasks("addition,multiplication"), 30, second_digits=1)
    assert len(pairs) == 31 * 31 + 31 * 10
    products = set(expressions(pairs[31 * 31 :]))
    assert products == {f"{a}*{b}" for a in range(31) for b in range(10)}
    problems, cells = draw_cells(*TASKS, np.array([1, 2, 3]), 4, signed=False, second_digits=1)
    assert set(map(tuple, cells.tolist())) == {(0, 0), (1, 0), (2, 0)}
    assert problems.lengths.max(0).tolist() == [3, 1]


def test_a_model_learns_to_multiply(tmp_path: Path) -> None:
    settings = (
        "data.task=multiplication",
        "data.second_digits=1",
        "data.format=reversed",
        "model.position=coupled-bias",
        "model.hidden=32",
        "train.batch_size=32",
        "train.max_steps=250",
        "optim.learning_rate=1e-2",
        "optim.muon_learning_rate=3e-2",
    )
    finished(tiny(tmp_path / "run", *settings))
    model = load_checkpoint(tmp_path / "run")
    # what it was shown it knows, 3*7 as well as 7*3; the other products are anyone's guess
    problems = AllPairs(TASKS, 9)[0:100]
    shown = split_of(problems, SplitRatios(0.7, 0.15)) == TRAIN
    assert 60 < shown.sum() < 90
    verdicts = judge(model, problems)
    assert verdicts.answer_correct[shown].mean() > 0.9
    solution = mathllm.load(tmp_path / "run").solve(expressions(problems[shown])[0])
    assert "*" in solution.text
    assert model.unseen(parse_expression("12*34")) == ["a number of more than 1 digit"]
    assert model.unseen(parse_expression("2*3*4")) == ["a problem of more than 2 numbers"]
    assert model.unseen(parse_expression("2*3")) == []
    (completed,) = questions_of(model.finish("7*").problems)
    assert completed in {ask(f"7*{digit}") for digit in range(10)}


def test_a_wrong_token_is_marked_where_it_stands() -> None:
    for token, (start, end) in {5: (4, 5), 6: (5, 6), 7: (6, 7), 3: (2, 3)}.items():
        assert _token_span("12*3=35", encode("12*3=35"), token) == (start, end)
