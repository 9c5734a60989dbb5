"""A model that is asked: expressions in, answers or clear errors out."""

import json
import math
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from shipped import ARITHMETIC, OWN_THOUGHTS
from trained import parrot, trained_checkpoint

from mathllm import math_model, scope
from mathllm.checkpoint import load_checkpoint
from mathllm.errors import CheckpointError, DataError, ExpressionError, MathLLMError, UsageError
from mathllm.formats import FORMATS
from mathllm.inference.engine import CUT, ENDED
from mathllm.inference.sampling import SamplingParams
from mathllm.inference.texts import Written
from mathllm.math_model import MathModel, Solution, is_unfinished
from mathllm.tasks import answer
from mathllm.tasks.expressions import expressions, parse_expression, parse_expressions
from mathllm.tokenizer import END

ADDITIONS = [f"{a}+{b}" for a in range(10) for b in range(10)]
SUBTRACTIONS = [f"{a}-{b}" for a in range(10) for b in range(a + 1)]


@pytest.fixture(scope="module")
def model() -> MathModel:
    return load_checkpoint(trained_checkpoint(task="addition,subtraction"))


def test_every_problem_of_training_is_right(model):
    asked = ADDITIONS + SUBTRACTIONS
    solutions = model.generate(asked)
    for text, solution in zip(asked, solutions, strict=True):
        assert solution.expression == text
        assert solution.answer == solution.expected == eval(text)
        assert solution.correct
        assert solution.steps == (f"{text}={solution.answer}",)
        assert solution.text == f"{text}=<think>{text}={solution.answer}</think>{solution.answer}<end>"
        assert 0.9 < solution.confidence < 1
        assert solution.reason == "end"


@pytest.mark.parametrize("name", ["pairwise", "reversed"])
def test_other_notations(name):
    model = load_checkpoint(trained_checkpoint(name))
    solutions = model.generate(ADDITIONS)
    assert all(solution.correct for solution in solutions)
    assert {solution.answer for solution in solutions} == set(range(19))
    assert model.solve("8+9").steps == (("8+9=71",) if name == "pairwise" else ())


def test_many_at_once_are_as_one_by_one(model):
    asked = ["1+2", "34+5", "9-3", "1+2+3", "77+88", "5-9", "1+1="]
    for batch_size in (1024, 2):
        many = model.generate(asked, batch_size)
        for text, solution in zip(asked, many, strict=True):
            one = model.solve(text)
            assert solution.confidence == pytest.approx(one.confidence, abs=1e-4)
            assert {**vars(solution), "confidence": 0} == {**vars(one), "confidence": 0}


@pytest.mark.parametrize(("path", "threads"), [("column", 3), (OWN_THOUGHTS, 1)])
def test_eight_threads_may_ask_one_model_at_once(path, threads):
    if path == "column":
        model, asked = load_checkpoint(trained_checkpoint(task="addition,subtraction")), ADDITIONS[::12]
    else:  # which is told where its tokens stand, and held to as many thoughts as there are steps
        model, asked = load_checkpoint(path), ["3+4*7-2*3", "4", "1-2", "9*9+1", "5+5+5"]
    many = asked * (900 // len(asked))  # so many that they are shared out to threads
    start = threading.Barrier(8)
    seen: set[int] = set()  # how many threads torch has for whoever runs this test
    changed: list[tuple[int, int]] = []  # and for each of the eight, before and after

    def ask(number: int) -> list[Solution]:
        """Everything one by one, each thread in an order of its own, and all in one batch."""
        order = np.roll(np.arange(len(asked)), number)
        before = torch.get_num_threads()
        start.wait()
        solved = {row: model.solve(asked[row]) for row in order}
        answers = [solved[row] for row in range(len(asked))] + model.generate(many)
        changed.append((before, torch.get_num_threads()))
        return answers

    torch.set_num_threads(threads)
    try:
        alone = [model.solve(text) for text in asked] + model.generate(many)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, number) for number in range(8)]
            while not all(answer.done() for answer in answers):
                seen.add(torch.get_num_threads())
                time.sleep(0.001)
        assert all(answer.result() == alone for answer in answers)  # to the last bit of the confidence
        assert seen == {torch.get_num_threads()} == {threads}
        assert all(before == after for before, after in changed)
    finally:
        torch.set_num_threads(1)


def test_streaming_writes_what_solve_says(model):
    for text in ("8+9", "12+34", "7-2"):
        asked = model.ask(text)
        steps = list(model.stream(asked))
        prompt = asked.ids[0, : asked.prompt_lengths[0]]
        ids = np.array([[*prompt, *(int(step.ids[0]) for step in steps)]], np.uint8)
        log_probs = np.array([[float(step.log_probs[0]) for step in steps]], np.float32)
        reasons = np.array([ENDED if ids[0, -1] == END else CUT], np.uint8)
        lengths = np.array([ids.shape[1]])
        texts = Written(asked.problems, ids, lengths, asked.prompt_lengths, reasons, log_probs)
        (read,) = model.read(texts)
        assert {**vars(read), "confidence": 0} == {**vars(model.solve(text)), "confidence": 0}
        assert read.confidence == pytest.approx(model.solve(text).confidence, abs=1e-4)


def test_nothing_asked_nothing_answered(model):
    assert model.generate([]) == []
    assert model.try_many([]) == []


@pytest.mark.parametrize(
    ("text", "answer", "correct", "steps", "reason"),
    [
        ("46<end>", 46, True, (), "end"),
        ("0046<end>", 46, True, (), "end"),
        ("45<end>", 45, False, (), "end"),
        ("-46<end>", -46, False, (), "end"),
        ("<end>", None, False, (), "end"),
        ("4+6<end>", None, False, (), "end"),
        ("-<end>", None, False, (), "end"),
        ("46", 46666, False, (), "length"),
    ],
)
def test_reading_what_a_model_wrote(text, answer, correct, steps, reason):
    model = parrot(text, max_length=11, format="plain")
    solution = model.solve("12+34")
    assert solution.answer == answer
    assert solution.expected == 46
    assert solution.correct is correct
    assert solution.steps == steps
    assert solution.reason == reason
    assert solution.text.startswith("12+34=")


def test_confidence_is_the_probability_of_all_that_was_written():
    one = math.exp(9) / (math.exp(9) + 15)  # what a parrot gives to each token
    model = parrot("46<end>", format="plain")
    assert model.solve("12+34").confidence == pytest.approx(one**3, rel=1e-4)
    assert model.solve("1+1").confidence == pytest.approx(one**3, rel=1e-4)


def test_what_is_right_by_accident_is_not_right():
    cut = parrot("0002", max_length=8, format="plain").solve("1+1")
    assert (cut.answer, cut.reason, cut.correct) == (2, "length", False)
    for nothing in ("<end>", "+<end>", "<think>0<end>"):  # no number, and so not 0 either
        assert not parrot(nothing, format="plain").solve("0+0").correct
    assert not parrot("0<end>").solve("0+0").correct  # without the thought


def test_reading_thoughts():
    text = "<think>2+4=6 1+3=4</think>46<end>"
    assert parrot(text).solve("12+34").steps == ("2+4=6", "1+3=4")
    assert parrot("<think>2+4=6 1+3=4</think>47<end>").solve("12+34").steps == ("2+4=6", "1+3=4")
    assert parrot("46<end>").solve("12+34").answer is None  # a thought was due
    two = "<think>99+12=021</think><think>021+5=521</think>125<end>"
    solution = parrot(two, format="pairwise", max_operands=3).solve("99+21+5")
    assert solution.steps == ("99+12=021", "021+5=521")
    assert solution.correct


def test_a_number_too_long_for_an_int_is_no_answer():
    solution = parrot("9", max_length=7000, format="plain").solve("9" * 2000 + "+1")
    assert solution.answer is None
    assert not solution.correct
    assert solution.reason == "length"
    assert len(solution.text) > 6000


def test_the_longest_numbers_can_still_be_read():
    answer = "1" + "0" * 4000
    solution = parrot(answer + "<end>", max_length=20_000, format="plain").solve("9" * 4000 + "+1")
    assert solution.correct
    assert str(solution.expected) == str(solution.answer) == answer


def test_problems_that_do_not_fit(model):
    with pytest.raises(
        UsageError, match="the problem and its solution take 37 tokens, and this model has room for 32"
    ):
        model.solve("1111+2222")
    with pytest.raises(UsageError, match="the problem alone takes 35 tokens") as error:
        model.solve("9" * 32 + "+1")
    assert error.value.hint == "it was trained on problems of numbers of up to 1 digit"
    with pytest.raises(UsageError, match="the problem alone"):
        model.generate(["1+1", "9" * 32 + "+1"])
    # exactly as long as there is room for
    tight = parrot("2<end>", max_length=6, format="plain")
    assert tight.solve("1+1").correct
    with pytest.raises(UsageError, match="take 7 tokens"):
        tight.solve("9+9")


def test_a_task_that_the_notation_has_no_thought_for_is_refused(model, monkeypatch):
    adder = parrot("<end>")
    thoughts = {"addition": FORMATS["column"].thoughts["addition"]}
    monkeypatch.setattr(adder.scope, "format", type(adder.format)("sums", "only sums", thoughts=thoughts))
    with pytest.raises(UsageError, match="this model has learned addition, not subtraction") as error:
        adder.solve("3-1")
    assert error.value.hint == "mathllm train --task subtraction trains one that does"
    asked = ["3-1", "1+1", "x", "9" * 200 + "+1", "2+2", "4-4"]
    kinds = [UsageError, Solution, ExpressionError, UsageError, Solution, UsageError]
    outcomes = adder.try_many(asked)
    assert [type(outcome) for outcome in outcomes] == kinds
    assert "not subtraction" in str(outcomes[0])
    assert "takes 203 tokens" in str(outcomes[3])
    assert [outcomes[row].expression for row in (1, 4)] == ["1+1", "2+2"]


def test_errors_say_which_row(model):
    with pytest.raises(ExpressionError, match="number was expected") as error:
        model.solve("1++2")
    assert error.value.position == 2
    with pytest.raises(DataError, match="row 2: a number was expected"):
        model.generate(["1+1", "1++2"])


def test_try_many_puts_each_error_in_its_place(model):
    asked = ["1+1", "1++2", "", "9" * 40 + "+1", "2+2=", "7+", "é"]
    outcomes = model.try_many(asked)
    kinds = [
        Solution,
        ExpressionError,
        ExpressionError,
        UsageError,
        Solution,
        ExpressionError,
        ExpressionError,
    ]
    assert [type(outcome) for outcome in outcomes] == kinds
    assert [outcome.answer for outcome in outcomes if isinstance(outcome, Solution)] == [2, 4]
    assert [type(outcome) for outcome in model.try_many(["x", "y"])] == [ExpressionError] * 2
    assert [type(outcome) for outcome in model.try_many(["9" * 40 + "+1"])] == [UsageError]


def test_what_lies_outside_training(model):
    def unseen(text: str, **data: object) -> list[str]:
        return parrot("1<end>", format="plain", **data).unseen(parse_expression(text))

    assert unseen("999+999") == []
    assert unseen("0001+2", max_digits=1) == []
    assert unseen("1000+1") == ["a number of more than 3 digits"]
    assert unseen("1+2+3") == ["a problem of more than 2 numbers"]
    assert unseen("1+2+3", max_operands=3) == []
    assert unseen("1-2") == ["a problem of subtraction", "a result below zero"]
    assert unseen("1-2", task="addition,subtraction", signed=True) == []
    assert unseen("2-1", task="subtraction", max_operands=5) == []
    assert unseen("1-2*3", task="arithmetic", max_operands=3) == []  # which always has results below zero
    assert unseen("12*3", task="multiplication", second_digits=1) == []
    assert unseen("12*34", task="multiplication", second_digits=1) == ["a factor of more than 1 digit"]
    assert unseen("12*-3", task="multiplication") == ["a factor below zero"]
    assert unseen("-12*-3", task="multiplication", signed=True) == []
    assert unseen("7%12", task="remainder", second_digits=1) == ["a divisor of more than 1 digit"]


@pytest.mark.parametrize("text", ["7+", "7 + ", "7-", "1+2+"])
def test_unfinished(text):
    assert is_unfinished(text)


@pytest.mark.parametrize("text", ["", "7", "7+1", "7+=", "+7"])
def test_not_unfinished(text):
    assert not is_unfinished(text)
    with pytest.raises(ExpressionError):
        parrot("1<end>").finish(text)


@pytest.mark.parametrize(
    ("script", "settings", "completed"),
    [
        ("123", {}, "7+123"),  # never more digits than it was trained on
        ("123", {"max_digits": 2}, "7+12"),
        ("1=", {}, "7+1"),
        ("0123", {}, "7+0"),  # no number goes on after a leading zero
        ("123", {"format": "reversed"}, "7+321"),
        ("100", {"format": "reversed"}, "7+1"),  # 001
        ("12=", {"zero_pad": True}, "7+12"),
        ("+<end>-5", {}, "7+0"),  # what is not allowed is not written; digits are then as good as each other
        ("=", {}, "7+0"),
    ],
)
def test_completing(script, settings, completed):
    model = parrot(script, **{"format": "plain", **settings})
    # a parrot counts what it wrote by its cache, and here each token is asked for with a new one
    script_ids = model.model.script
    prompt = int(model.ask("7+0").prompt_lengths[0]) - 2
    model.model.forward = lambda tokens, coordinates, cache: (
        torch.nn.functional.one_hot(
            torch.full(tokens.shape, script_ids[min(tokens.shape[1] - prompt, len(script_ids) - 1)]), 16
        )
        * 9.0
    )
    assert expressions(model.finish("7+").problems)[0] == completed


def test_completing_follows_the_sampling_settings(model):
    warm = load_checkpoint(model.path, params=SamplingParams(temperature=50.0), seed=1)
    assert len({expressions(warm.finish("7+").problems)[0] for _ in range(40)}) > 4
    assert len({expressions(model.finish("7+").problems)[0] for _ in range(4)}) == 1
    generator = torch.Generator().manual_seed(0)
    drawn = [model.finish("7+", SamplingParams(temperature=50.0), generator) for _ in range(40)]
    assert len({expressions(one.problems)[0] for one in drawn}) > 4


def test_a_seed_repeats_an_answer(model):
    def answers(seed: int) -> list[str]:
        warm = load_checkpoint(model.path, params=SamplingParams(temperature=20.0), seed=seed)
        return [solution.text for solution in warm.generate(ADDITIONS[:20])]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_answers_of_one_model_differ_unless_the_random_numbers_are_given(model):
    warm = load_checkpoint(model.path, params=SamplingParams(temperature=20.0))
    assert len({warm.solve("4+4").text for _ in range(20)}) > 10
    asked = warm.ask("4+4")
    given = [warm.complete(asked, generator=torch.Generator().manual_seed(3)) for _ in range(5)]
    assert len({warm.read(written)[0].text for written in given}) == 1
    # what one call asks for is that call's alone
    warmed = [model.read(model.complete(asked, params=warm.params))[0].text for _ in range(9)]
    assert len(set(warmed)) > 4
    assert model.solve("4+4").correct


def test_completions_end_where_they_are_told_to(model):
    asked = model.render(parse_expressions(["8+9", "9-4", "12+3", "7-7"]))
    whole, limits = model.complete(asked), np.array([1, 3, 40, 6])
    cut = model.complete(asked, limits=limits)
    written = whole.lengths - whole.prompt_lengths
    assert (cut.lengths - cut.prompt_lengths).tolist() == np.minimum(written, limits).tolist()
    assert (cut.reasons[[0, 1, 3]] == CUT).all()
    assert model.right(whole)[[0, 1, 3]].all()
    assert not model.right(cut)[[0, 1, 3]].any()
    for row, length in enumerate(cut.lengths):
        assert cut.ids[row, :length].tolist() == whole.ids[row, :length].tolist()
        assert (cut.ids[row, length:] == END).all()


def test_what_is_read_is_parsed_and_worked_out_once(model, monkeypatch):
    written, calls = model.complete(model.render(parse_expressions(["8+9", "9-4", "5-9"]))), []
    expected = model.read(written)
    for where in (math_model, scope):
        monkeypatch.setattr(where, "answer", lambda problems: calls.append("answer") or answer(problems))
    parse = type(model.format).parse
    monkeypatch.setattr(
        type(model.format), "parse", lambda self, ids: calls.append("parse") or parse(self, ids)
    )
    assert model.read(written) == expected
    assert sorted(calls) == ["answer", "parse"]


def test_what_fits_is_rendered_and_what_does_not_is_named_by_row(model):
    problems = parse_expressions(["1+1", "9" * 40 + "+1", "2+2", "1111+2222"])
    rendered, refused = model.fit(problems)
    assert expressions(rendered.problems) == ["1+1", "2+2"]
    assert sorted(refused) == [1, 3]
    assert "the problem alone takes" in refused[1].message
    assert "the problem and its solution take" in refused[3].message
    with pytest.raises(UsageError, match="the problem alone"):
        model.render(problems)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value):
    shutil.copytree(trained_checkpoint(), tmp_path / "damaged")
    path = tmp_path / "damaged" / "model.safetensors"
    weights = load_file(path)
    weights["embedding.weight"][3, 3] = value
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="not numbers"):
        load_checkpoint(tmp_path / "damaged")


texts = (
    st.text(max_size=20)
    | st.text("0123456789+-= <>thinkend/\t\n", max_size=20)
    | st.from_regex(r"[0-9]{1,6}[+-][0-9]{1,6}=?", fullmatch=True)
    | st.integers(1, 10_000).map(lambda n: "7" * n + "+1")
)


@given(texts)
def test_any_text_is_solved_or_refused(model_for_fuzzing, text):
    try:
        solution = model_for_fuzzing.solve(text)
    except MathLLMError:
        return
    assert isinstance(solution, Solution)
    assert solution.expected == eval(re.sub(r"\b0+(?=\d)", "", solution.expression))
    assert 0 <= solution.confidence <= 1
    json.dumps(vars(solution), allow_nan=False)


@given(st.lists(texts, max_size=6))
def test_many_texts_are_solved_or_refused_one_by_one(model_for_fuzzing, asked):
    outcomes = model_for_fuzzing.try_many(asked)
    assert len(outcomes) == len(asked)
    for text, outcome in zip(asked, outcomes, strict=True):
        try:
            assert isinstance(outcome, Solution)
            assert model_for_fuzzing.solve(text).text == outcome.text
        except AssertionError:
            with pytest.raises(MathLLMError) as error:
                model_for_fuzzing.solve(text)
            assert type(error.value) is type(outcome)
            assert error.value.message == outcome.message


@pytest.fixture(scope="module")
def model_for_fuzzing() -> MathModel:
    return load_checkpoint(trained_checkpoint(task="addition,subtraction"))


def test_what_was_never_seen_of_expressions_and_of_signed_products() -> None:
    model = load_checkpoint(ARITHMETIC)

    def unseen(text: str) -> list[str]:
        return model.unseen(parse_expression(text, model.readable))

    assert unseen("2+3*4-17") == []
    assert unseen("2+3*4-17%5") == unseen("1+2+3+4+5") == ["a whole expression of more than 4 numbers"]
    long = "a whole expression with a number of more than 2 digits"
    assert unseen("100-50*3") == unseen("100+200+300") == [long]
    # three factors it has seen as an expression, and these have no signs
    assert unseen("2*3*4") == []
    assert unseen("-2*3*4") == ["a whole expression with a number below zero"]
