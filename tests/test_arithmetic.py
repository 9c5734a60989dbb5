"""Whole expressions: the order in which they are worked out, what each operation gives, and whose a text is."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import WHOLE, Question, arrays, ask, batches, questions_of

from mathllm.errors import UsageError
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.tasks import SAMPLINGS, TASK_NAMES, Sampling, answer, extent, get_tasks, owned, sample
from mathllm.tasks.expressions import expressions, parse_expressions
from mathllm.tasks.order import reduced
from mathllm.tasks.splits import hash_problems
from mathllm.tokenizer import ADD, DIVIDE

(ARITHMETIC,) = get_tasks("arithmetic")


def worked_out(question: Question) -> list[tuple[int, str, int, int]]:
    """Its operations in order, each with its numbers and its result, in Python's own way."""
    terms, found = [question.text], []
    for kind in ("*/%", "+-"):
        while match := re.search(rf"(?<![0-9])(-?[0-9]+)([{kind}])([0-9]+)", terms[0]):
            left, symbol, right = match.groups()
            if match.start() and kind == "*/%":
                left = left.lstrip("-") if terms[0][match.start()] == "-" else left
            start = match.end() - len(left + symbol + right)
            result = int(eval(f"({left}){symbol}{right}".replace("/", "//")))
            found.append((int(left), symbol, int(right), result))
            terms[0] = terms[0][:start] + str(result) + terms[0][match.end() :]
    return found


def test_the_oracle_of_these_tests_works_as_on_paper() -> None:
    assert worked_out(ask("2+3*4-17%5")) == [
        (3, "*", 4, 12),
        (17, "%", 5, 2),
        (2, "+", 12, 14),
        (14, "-", 2, 12),
    ]
    assert worked_out(ask("1-9/2*3+4")) == [
        (9, "/", 2, 4),
        (4, "*", 3, 12),
        (1, "-", 12, -11),
        (-11, "+", 4, -7),
    ]


@given(
    batches(max_size=8, max_digits=12, max_operands=6, symbols=WHOLE), st.integers(0, 2), st.integers(0, 2)
)
def test_operations_are_those_of_school(asked: list[Question], more_operands: int, more_digits: int) -> None:
    problems = arrays(asked, more_operands, more_digits)
    made = reduced(problems)
    operands = problems.operands.shape[1]
    results = [made.results[:, step].to_ints() for step in range(operands - 1)]
    for row, question in enumerate(asked):
        numbers = [*question.operands, *[0] * (operands - len(question.operands)), *(r[row] for r in results)]
        steps = [
            (
                numbers[made.left[row, i]],
                "+-*/%"[code - 1],
                numbers[made.right[row, i]],
                numbers[operands + i],
            )
            for i, code in enumerate(made.operators[row].tolist())
            if code
        ]
        assert steps == worked_out(question)
        assert all(right >= 0 for _, _, right, _ in steps)
        assert all(left >= 0 for left, symbol, _, _ in steps if symbol in "*/%")
    assert answer(problems).to_ints() == [question.answer for question in asked]


@pytest.mark.parametrize("method", SAMPLINGS)
def test_drawn_expressions_have_all_operators_and_numbers_evenly(method: str) -> None:
    problems = sample(np.random.default_rng(0), 6000, (ARITHMETIC,), Sampling(3, 4, method))
    shares = np.bincount(problems.operators[problems.operators > 0])[1:] / (problems.operators > 0).sum()
    assert shares.min() > 0.04
    assert (shares.max() < 0.22) == (method != "balanced")
    assert np.abs(np.bincount(problems.num_operands)[2:] / 6000 - 1 / 3).max() < 0.03
    divisors = problems.operands[:, 1:][np.isin(problems.operators, (4, 5))]
    assert divisors.any(1).all()
    if method == "digits":
        lengths = problems.lengths[:, 1:][problems.lengths[:, 1:] > 0]
        assert np.abs(np.bincount(lengths)[1:] / len(lengths) - 1 / 3).max() < 0.03


def test_balanced_expressions_hold_what_is_rare_by_chance() -> None:
    def rare(method: str) -> list[float]:
        problems = sample(np.random.default_rng(0), 6000, (ARITHMETIC,), Sampling(2, 4, method))
        worked = reduced(problems)
        below = worked.results.negative.any(1) & (problems.operators > ADD).any(1)
        long_quotients = ((worked.operators == DIVIDE) & (worked.results.lengths > 4)).any(1)
        return [float(rows.mean()) for rows in (below, (problems.operators <= ADD).all(1), long_quotients)]

    least, most = [0.2, 0.25, 0.01], [0.18, 0.15, 0.001]
    assert all(share > bound for share, bound in zip(rare("balanced"), least, strict=True))
    assert all(share < bound for share, bound in zip(rare("digits"), most, strict=True))


def test_it_is_said_how_large_expressions_are_beside_other_problems() -> None:
    size = Sampling(3, 2, "digits", expression_digits=2, expression_numbers=4)
    whole = ", whole expressions of up to 4 numbers of up to 2 digits"
    assert extent("addition,division,arithmetic", size) == f"of numbers of up to 3 digits{whole}"
    assert extent("arithmetic", size) == "of numbers of up to 2 digits"
    assert extent("addition,arithmetic", Sampling(3)) == "of numbers of up to 3 digits"
    shorter = extent("division,arithmetic", Sampling(3, second_digits=1))
    assert shorter == "of numbers of up to 3 digits, divisors of up to 1 digit"


def test_a_text_is_of_the_first_task_that_takes_it() -> None:
    texts = ["12+34", "5-3-1", "2*3*4", "8/2", "8/2/2", "17%5", "2+3*4", "3-5"]
    names = [
        "addition",
        "arithmetic",
        "multiplication",
        "division",
        "arithmetic",
        "remainder",
        "arithmetic",
        "subtraction",
    ]
    assert [TASK_NAMES[code] for code in parse_expressions(texts).task] == names
    alone = parse_expressions(texts, (ARITHMETIC,))
    assert set(alone.task.tolist()) == {ARITHMETIC.code}
    both = [*get_tasks("addition"), ARITHMETIC]
    assert [TASK_NAMES[code] for code in owned(alone, both).task] == ["addition", *["arithmetic"] * 7]
    # as it is drawn, so it is read
    for tasks in (both, both[::-1]):
        problems = sample(np.random.default_rng(0), 500, tasks, Sampling(1, 3))
        again = parse_expressions(expressions(problems), tasks)
        assert (again.task == problems.task).all()
        sums = [all(symbol == "+" for symbol in question.symbol) for question in questions_of(problems)]
        assert (problems.task[sums] == tasks[0].code).all()


def test_a_problem_is_in_one_split_whatever_its_task() -> None:
    texts = ["12+34", "34+12", "1+2+3", "5-3", "3-5", "2*3*4", "4*2*3", "8/2", "17%5"]
    alone = hash_problems(parse_expressions(texts, (ARITHMETIC,)))
    assert (alone == hash_problems(parse_expressions(texts))).all()
    assert alone[0] == alone[1]
    assert alone[5] == alone[6]
    whole = ["1+2*3", "2*3+1", "1*2+3", "1+2-3", "1-2+3", "1+23", "1-2-3"]
    assert len(set(hash_problems(parse_expressions(whole)).tolist())) == len(whole)


def test_there_are_too_many_expressions_to_try_all() -> None:
    with pytest.raises(UsageError, match="more than pairs") as error:
        AllPairs((ARITHMETIC,), 9)
    assert error.value.hint == "mathllm eval --digits 2 --operands 4"
    beside = AllPairs(get_tasks("arithmetic,addition"), 9)  # whose pairs are those of an expression, too
    assert beside.about == "all problems of addition with two operands from 0 to 9"
