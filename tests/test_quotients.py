"""Quotients and remainders: exact at any length, drawn near the multiples of the divisor, and never by zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, ask, integers_of, operands, questions_of

from mathllm.config import DataConfig, ModelConfig
from mathllm.errors import ExpressionError, UsageError
from mathllm.evaluation.breakdown import out_of_range
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.inference.sampling import SamplingParams
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.tasks import SAMPLINGS, Sampling, answer, get_tasks, sample
from mathllm.tasks.expressions import expressions, parse_expression
from mathllm.tasks.numbers import divide

BOTH = get_tasks("division,remainder")


def drawn(name: str, method: str, n: int = 20_000, **how: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    problems = sample(np.random.default_rng(1), n, get_tasks(name), Sampling(method=method, **how))
    return problems.lengths, [question.operands for question in questions_of(problems)]


def digits_of(values: list[int], width: int) -> np.ndarray:
    return np.array([[int(c) for c in reversed(str(value).zfill(width))] for value in values], np.uint8)


def values_of(digits: np.ndarray) -> list[int]:
    return [int("".join(map(str, row[::-1]))) for row in digits.tolist()]


@given(st.lists(st.tuples(operands(20), operands(12), st.integers(-1, 1), st.booleans()), min_size=1))
def test_division_is_that_of_python(asked: list[tuple[int, int, int, bool]]) -> None:
    pairs = [
        (1, 1),
        *((abs(a // 10**8 * b + near) if multiple else a, b) for a, b, near, multiple in asked if b),
    ]
    left, right = (digits_of([pair[k] for pair in pairs], 25 - k) for k in (0, 1))
    quotient, remainder = divide(left, right)
    assert quotient.shape == left.shape
    assert remainder.shape == right.shape
    assert values_of(quotient) == [a // b for a, b in pairs]
    assert values_of(remainder) == [a % b for a, b in pairs]


@pytest.mark.parametrize("name", ["division", "remainder"])
@pytest.mark.parametrize("method", SAMPLINGS)
@pytest.mark.parametrize("second_digits", [0, 1, 3])
def test_no_drawn_divisor_is_zero_and_lengths_are_even(name: str, method: str, second_digits: int) -> None:
    lengths, pairs = drawn(name, method, max_digits=4, second_digits=second_digits)
    assert all(divisor for _, divisor in pairs)
    if method == "uniform":
        return
    for k, most in enumerate((4, second_digits or 4)):
        counts = np.bincount(lengths[:, k], minlength=most + 1)[1:]
        assert len(counts) == most
        assert np.abs(counts - len(pairs) / most).max() < 5 * np.sqrt(len(pairs) / most)


def test_uniform_divisors_are_even_from_one_on() -> None:
    _, pairs = drawn("division", "uniform", max_digits=1, n=50_000)
    counts = np.bincount([divisor for _, divisor in pairs], minlength=10)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 50_000 / 9).max() < 5 * np.sqrt(50_000 / 9)
    # one in a hundred would be 0, and becomes no number of one digit more often than another
    _, pairs = drawn("division", "uniform", max_digits=2, n=50_000)
    assert abs(sum(divisor < 10 for _, divisor in pairs) - 50_000 / 11) < 5 * np.sqrt(50_000 / 11)


@pytest.mark.parametrize("name", ["division", "remainder"])
def test_balanced_problems_are_often_near_multiples(name: str) -> None:
    _, pairs = drawn(name, "balanced", max_digits=8, second_digits=4, n=4000)
    shares = (
        np.bincount([[0, 1, -1].index(r) if (r := _near(*pair)) in (0, 1, -1) else 3 for pair in pairs])
        / 4000
    )
    assert shares[:3].min() > 0.08
    _, pairs = drawn(name, "digits", max_digits=8, second_digits=4, n=4000)
    assert np.mean([_near(*pair) in (0, 1, -1) for pair in pairs if pair[1] > 99]) < 0.1
    quotients = [str(a // b) for a, b in drawn(name, "balanced", max_digits=8, second_digits=4, n=4000)[1]]
    behind = "".join(text[1:] for text in quotients)
    assert (behind.count("0") + behind.count("9")) / len(behind) > 0.35


def _near(dividend: int, divisor: int) -> int:
    """How far a dividend is from the nearest multiple."""
    rest = dividend % divisor
    return rest if 2 * rest <= divisor else rest - divisor


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
@pytest.mark.parametrize(("first", "second"), [(1, 1), (6, 3), (3, 3), (12, 1), (20, 10), (3, 12)])
def test_stress_is_near_multiples_and_of_those_lengths(task: object, first: int, second: int) -> None:
    (task,) = get_tasks(task.name)  # type: ignore[attr-defined]
    size = Sampling(first, second_digits=second)
    for stress in (False, True):
        problems = task.of_length(np.random.default_rng(0), 200, size, stress=stress)
        assert problems.lengths.tolist() == [[first, second]] * 200
        near = np.mean([_near(*question.operands) in (-1, 0, 1) for question in questions_of(problems)])
        if first < second:  # the quotient is 0
            assert {question.operands[0] < question.operands[1] for question in questions_of(problems)} == {
                True
            }
        else:
            assert (
                near > (0.7 if first == second else 0.95)
                if stress
                else first == 1 or second == 1 or near < 0.2
            )


@pytest.mark.parametrize(
    ("task", "text", "least"),
    [("division", "7/", 1), ("arithmetic", "2+3/", 1), ("arithmetic", "1*7%", 1), ("arithmetic", "1/7*", 0)],
)
def test_a_model_that_chooses_a_divisor_chooses_none_by_zero(task: str, text: str, least: int) -> None:
    untrained = Transformer.from_config(ModelConfig("nano", 1, 8, 2, feed_forward=8, max_length=32))
    model = MathModel(untrained, DataConfig(task=task, format="plain", max_digits=1))
    chosen = {
        questions_of(model.finish(text, SamplingParams(1.0)).problems)[0].operands[-1] for _ in range(60)
    }
    assert chosen <= set(range(least, 10))
    assert len(chosen) > 5
    assert least or 0 in chosen


@pytest.mark.parametrize("text", ["1/0", "5%0", "5 / 00", "5÷0"])
def test_nothing_is_divided_by_zero(text: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse_expression(text)
    assert error.value.message == "nothing can be divided by zero"
    assert text[error.value.position] == "0"
    assert set(text[error.value.position :]) == {"0"}


def test_all_pairs_are_tried_but_for_those_by_zero() -> None:
    pairs = AllPairs(get_tasks("addition,division,remainder"), 12)
    assert len(pairs) == 3 * 13**2 - 2 * 13
    for symbol, part in (("/", pairs[169:325]), ("%", pairs[325:])):
        assert sorted(expressions(part)) == sorted(f"{a}{symbol}{b}" for a in range(13) for b in range(1, 13))
    assert pairs.about.endswith("two operands from 0 to 12, none by 0")
    narrow = AllPairs(BOTH, 999, second_digits=2)
    assert len(narrow) == 2 * 1000 * 99
    assert ", divisors of up to 2 digits" in narrow.about
    assert expressions(narrow[98:100]) == ["0/99", "1/1"]
    with pytest.raises(UsageError, match="cannot try all pairs"):
        AllPairs(BOTH, 0)


@given(st.tuples(operands(6), operands(6).filter(bool)))
def test_true_answers_are_never_out_of_range(pair: tuple[int, int]) -> None:
    for symbol in "/%":
        problem = arrays([ask(f"{pair[0]}{symbol}{pair[1]}")])
        assert not out_of_range(problem, answer(problem)).any()


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("10/10", 0, 9),
        ("5/3", 0, 9),
        ("500/20", 1, 99),
        ("5%3", 0, 8),
        ("5%30", 0, 9),
        ("50%3", 0, 8),
        ("55%44", 0, 98),
    ],
)
def test_answers_are_bounded_by_the_lengths_of_the_operands(text: str, low: int, high: int) -> None:
    problem = arrays([ask(text)])
    (task,) = get_tasks("division" if "/" in text else "remainder")
    bounds = [integers_of(bound)[0] for bound in task.bounds(problem)]
    assert (min(bounds), max(bounds)) == (low, high)
