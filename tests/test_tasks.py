"""Addition, subtraction and multiplication: exact answers at any length, and problems drawn as promised."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import (
    ALL,
    ALL_FORMATS,
    OPERATOR_CODES,
    SYMBOLS,
    Question,
    arrays,
    ask,
    batches,
    integers_of,
    questions,
    questions_of,
)

from mathllm.config import DataConfig
from mathllm.errors import UsageError
from mathllm.formats import Format
from mathllm.resolve import check_sampling
from mathllm.tasks import (
    SAMPLINGS,
    TASK_NAMES,
    TASKS,
    Problems,
    Sampling,
    answer,
    answer_widths,
    by_task,
    carry_lengths,
    cascades,
    concatenate,
    get_tasks,
    operands_asked,
    readable_beside,
    sample,
    sizes,
)
from mathllm.tasks.expressions import expressions, parse_expression, parse_expressions
from mathllm.tasks.numbers import significant
from mathllm.tasks.splits import SplitRatios, hash_problems, split_of

BOTH = get_tasks("addition,subtraction")
spare = st.integers(0, 3)


def longest_chain(question: Question) -> int:
    """How many columns in a row hand a carry or borrow on, worked out with Python's own numbers."""
    if question.symbol == "+":
        # column p hands on a carry when the lower digits of all operands together reach 10 ** (p + 1)
        parts = [[n % 10 ** (p + 1) for n in question.operands] for p in range(question.width)]
        flags = [sum(lower) >= 10 ** (p + 1) for p, lower in enumerate(parts)]
    elif question.task in ("division", "remainder", "arithmetic"):
        return 0
    elif question.symbol == "*":
        # the longer number (the first of equals) times the units of the other one
        longer, shorter = map(abs, question.operands[:2])
        if len(str(longer)) < len(str(shorter)):
            longer, shorter = shorter, longer
        flags = [longer % 10 ** (p + 1) * (shorter % 10) >= 10 ** (p + 1) for p in range(question.width)]
    else:
        larger, smaller = max(question.operands), min(question.operands)
        powers = [10 ** (p + 1) for p in range(question.width)]
        flags = [larger % power < smaller % power for power in powers]
    return max((len(list(run)) for flag, run in groupby(flags) if flag), default=0)


@given(batches(max_size=8, max_digits=40, max_operands=13, symbols=ALL), spare, spare)
def test_answers_are_those_of_python(asked: list[Question], more_operands: int, more_digits: int) -> None:
    problems = arrays(asked, more_operands, more_digits)
    result = answer(problems)
    expected = [q.answer for q in asked]
    assert integers_of(result) == expected
    assert result.to_ints() == expected
    assert result.lengths.tolist() == [len(str(abs(value))) for value in expected]
    assert result.negative.tolist() == [value < 0 for value in expected]
    assert result.same(answer(arrays(asked))).all()
    assert questions_of(problems) == asked


@pytest.mark.parametrize(
    "question",
    [
        Question("+", (0, 0)),
        Question("+", (99, 1)),
        Question("+", (9,) * 100),
        Question("+", (10**200 - 1,) * 100),
        Question("-", (100, 99)),
        Question("-", (0, 0)),
        Question("-", (7, 7)),
        Question("-", (0, 9)),
        Question("-", (10**200, 1)),
        Question("-", (1, 10**200)),
        Question("*", (10**200 - 1, 9)),
        Question("*", (10**200 - 1, 10**200 - 1)),
        Question("*", (0, 10**200)),
    ],
    ids=lambda q: f"{len(q.operands)}{q.symbol}{q.width}",
)
def test_extreme_answers(question: Question) -> None:
    assert integers_of(answer(arrays([question]))) == [question.answer]


@given(batches(max_digits=12, max_operands=12, symbols=ALL), spare, spare)
def test_chains_are_counted_as_on_paper(asked: list[Question], more_operands: int, more_digits: int) -> None:
    problems = arrays(asked, more_operands, more_digits)
    assert carry_lengths(problems).tolist() == [longest_chain(q) for q in asked]


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ("12*3", 0),
        ("3333334*3", 7),
        ("3*3333334", 7),
        ("909*2", 1),
        ("12+34", 0),
        ("5+5", 1),
        ("999+1", 3),
        ("1000-1", 3),
        ("1-1000", 3),
        ("909+101", 1),
    ],
)
def test_chains_of_some_problems(text: str, chain: int) -> None:
    assert carry_lengths(arrays([ask(text)])).tolist() == [chain]
    assert longest_chain(ask(text)) == chain


@pytest.mark.parametrize(
    ("text", "passed_on"),
    [
        ("95+5", True),  # 9 + 0 makes no ten without the carry
        ("95+15", False),
        ("94+5", False),
        ("1234+8766", True),
        ("6+9+5", False),
        ("66+29+9", True),
        ("100-1", True),
        ("110-9", False),
        ("1-100", True),
        ("29-19", False),
        ("12*3", False),
    ],
)
def test_a_carry_is_passed_on_where_there_is_none_without_it(text: str, passed_on: bool) -> None:
    assert cascades(arrays([ask(text)])).tolist() == [passed_on]


@given(batches(max_digits=8, max_operands=12, symbols=ALL), spare, spare)
@example([ask("+".join("9" * 11)), ask("+".join("9" * 12)), ask("+".join(["99"] * 11))], 0, 0)
def test_padded_answers_have_room_for_every_answer(
    asked: list[Question], more_operands: int, more_digits: int
) -> None:
    widths = answer_widths(arrays(asked, more_operands, more_digits))
    for question, width in zip(asked, widths, strict=True):
        nines = 10**question.width - 1
        # the width depends on the shape of the problem alone: that of its largest answer
        largest = nines * len(question.operands) if question.symbol == "+" else nines
        if question.symbol == "*":
            assert width == sum(len(str(abs(operand))) for operand in question.operands)
            assert abs(question.answer) < 10 ** int(width)
            continue
        if question.task == "arithmetic":
            assert abs(question.answer) < 10 ** int(width)
            continue
        if question.symbol in "/%":
            dividend, divisor = (len(str(operand)) for operand in question.operands)
            assert width == (
                min(dividend, divisor) if question.symbol == "%" else max(1, dividend - divisor + 1)
            )
            assert question.answer < 10 ** int(width)
            continue
        assert width == len(str(largest))


@given(
    names=st.sampled_from(
        [
            "addition",
            "subtraction",
            "subtraction,addition",
            "multiplication,addition",
            "division,remainder",
            "arithmetic,addition",
        ]
    ),
    method=st.sampled_from(SAMPLINGS),
    max_digits=st.integers(1, 40),
    max_operands=st.integers(2, 13),
    signed=st.booleans(),
    second=st.integers(0, 5),
    n=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_sampled_problems_keep_within_their_limits(
    names: str, method: str, max_digits: int, max_operands: int, signed: bool, second: int, n: int, seed: int
) -> None:
    how = Sampling(max_digits, max_operands, method, signed, second)
    problems = sample(np.random.default_rng(seed), n, get_tasks(names), how)
    assert len(problems) == n
    assert problems.operands.dtype == np.uint8
    assert set(problems.task) <= {task.code for task in get_tasks(names)}
    asked = questions_of(problems)
    most = {"+": max_operands, "-": 2, "*": min(max_operands, 6), "/": 2, "%": 2}
    whole = names.startswith("arithmetic")  # whatever has other operators, and takes the sums, too
    for question in asked:
        assert question.width <= max_digits
        assert (
            2
            <= len(question.operands)
            <= (min(max_operands, 6) if whole and question.symbol != "+" else most.get(question.symbol, 6))
        )
        assert question.answer >= 0 or signed or whole
        if question.symbol in "*/%" and second and not whole:
            assert max(question.operands[1:]) < 10**second
    if asked:  # lengths and absent operands are as if somebody had written the problems down
        expected = arrays(asked)
        operands, width = expected.operands.shape[1:]
        assert (problems.lengths[:, :operands] == expected.lengths).all()
        assert (problems.operands[:, :operands, :width] == expected.operands).all()
        assert not problems.operands[:, operands:].any()
        assert not problems.lengths[:, operands:].any()
        assert (problems.operators[:, : operands - 1] == expected.operators).all()
        assert not problems.operators[:, operands - 1 :].any()
        assert not problems.operands[:, :, width:].any()


def draw(method: str = "digits", names: str = "addition", n: int = 20_000, **kwargs: object) -> Problems:
    how = Sampling(method=method, **kwargs)  # type: ignore[arg-type]
    return sample(np.random.default_rng(1), n, get_tasks(names), how)


def assert_even(values: np.ndarray, possible: range) -> None:
    """Every possible value comes up equally often, within five standard deviations."""
    share = 1 / len(possible)
    slack = 5 * np.sqrt(values.size * share * (1 - share))
    counts = Counter(values.ravel().tolist())
    assert set(counts) == set(possible)
    for count in counts.values():
        assert abs(count - values.size * share) <= slack


@pytest.mark.parametrize("names", SYMBOLS.values())
def test_digits_sampling_is_even_in_the_number_of_digits(names: str) -> None:
    lengths = draw("digits", names, max_digits=5).lengths
    assert_even(lengths, range(1, 6))


def test_digits_sampling_is_even_among_numbers_of_one_length() -> None:
    problems = draw("digits", max_digits=2)
    values = problems.operands @ np.array([1, 10])
    assert_even(values[problems.lengths == 1], range(10))
    assert_even(values[problems.lengths == 2], range(10, 100))


def test_uniform_sampling_is_even_among_operands() -> None:
    assert_even(draw("uniform", max_digits=2).operands @ np.array([1, 10]), range(100))


def test_numbers_of_operands_and_tasks_come_evenly() -> None:
    problems = draw(names="addition,subtraction", max_operands=5)
    assert_even(problems.task, range(2))
    assert_even(problems.num_operands[problems.task == 0], range(2, 6))
    assert (problems.num_operands[problems.task == 1] == 2).all()


def test_signed_subtraction_is_negative_half_the_time() -> None:
    negative = answer(draw("uniform", "subtraction", signed=True, max_digits=4)).negative
    assert abs(negative.mean() - 0.5) < 0.02


@pytest.mark.parametrize("max_digits", [1, 3, 8])
@pytest.mark.parametrize("max_operands", [2, 5])
def test_balanced_sums_are_even_in_digits_of_the_answer_and_in_chains(
    max_digits: int, max_operands: int
) -> None:
    problems = draw("balanced", max_digits=max_digits, max_operands=max_operands)
    lengths, chains = answer(problems).lengths, carry_lengths(problems)
    assert_even(lengths, range(1, max_digits + 2))
    for length in range(
        1, max_digits + 1
    ):  # such a sum has a carry into any of its digits but the first, or none
        assert_even(chains[lengths == length], range(length))
    assert_even(chains[lengths > max_digits], range(1, max_digits + 1))


@pytest.mark.parametrize("max_digits", [1, 3, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_balanced_differences_are_even_in_digits_of_the_answer_and_in_chains(
    max_digits: int, signed: bool
) -> None:
    problems = draw("balanced", "subtraction", max_digits=max_digits, signed=signed)
    lengths, chains = answer(problems).lengths, carry_lengths(problems)
    assert_even(lengths, range(1, max_digits + 1))
    for length in range(1, max_digits + 1):
        assert_even(chains[lengths == length], range(max_digits))


@pytest.mark.parametrize("max_digits", [1, 3, 8])
@pytest.mark.parametrize("second_digits", [0, 1, 2])
def test_balanced_products_are_even_in_digits_of_both_factors(max_digits: int, second_digits: int) -> None:
    second_digits = min(second_digits, max_digits)
    problems = draw("balanced", "multiplication", max_digits=max_digits, second_digits=second_digits)
    assert_even(problems.lengths[:, 0], range(1, max_digits + 1))
    assert_even(problems.lengths[:, 1], range(1, (second_digits or max_digits) + 1))
    assert set(problems.operands[:, 1, 0].tolist()) == set(range(10))
    # factors of large digits alone are not as rare as by chance, nor are those of zeros and ones
    inside = np.arange(max_digits) < problems.lengths[..., None]
    for alike in (problems.operands > 5, problems.operands < 2):
        assert np.all(alike | ~inside, axis=2).mean() > 0.25


@pytest.mark.parametrize("digits", [1, 2, 30])
def test_stress_of_products_carries_far(digits: int) -> None:
    rng = np.random.default_rng(0)
    (task,) = get_tasks("multiplication")
    problems, plain = (
        task.of_length(rng, 400, Sampling(digits, second_digits=1), stress=stress) for stress in (True, False)
    )
    for drawn in (problems, plain):
        assert set(drawn.lengths[:, 0].tolist()) == {digits}
        assert set(drawn.lengths[:, 1].tolist()) == {1}
    if digits > 9:
        assert np.median(carry_lengths(problems)) > 2 * np.median(carry_lengths(plain))
        assert carry_lengths(problems).max() == digits


@pytest.mark.parametrize("names", ["addition", "subtraction"])
@pytest.mark.parametrize("max_digits", [1, 2, 3])
def test_balanced_sampling_leaves_out_no_problem(names: str, max_digits: int) -> None:
    """Every pair of one digit, and lengths of every combination, come up."""
    problems = draw("balanced", names, max_digits=max_digits)
    combinations = set(map(tuple, np.sort(problems.lengths, 1).tolist()))
    assert combinations == {(a, b) for b in range(1, max_digits + 1) for a in range(1, b + 1)}
    if max_digits == 1:
        pairs = set(map(tuple, problems.operands[:, :, 0].tolist()))
        assert pairs == {(a, b) for a in range(10) for b in range(10) if names == "addition" or a >= b}


def test_several_samplings_give_equal_shares_of_each() -> None:
    """Among pairs of one digit, sums above 9 are half of the balanced and 45 of 100 of the uniform ones."""
    carries = [
        carry_lengths(draw(method, max_digits=1, n=200_000)).mean()
        for method in ("balanced", "uniform", "balanced,uniform")
    ]
    assert carries == pytest.approx([0.5, 0.45, 0.475], abs=0.005)


@pytest.mark.parametrize("text", ["99+1", "100-99", "9999+1", "10000-9999"])
def test_the_famous_hard_problems_are_not_rare(text: str) -> None:
    question = ask(text)
    wanted = hash_problems(arrays([question]))  # 99+1 and 1+99 are one
    digits, uniform, balanced = (
        int((hash_problems(drawn) == wanted).sum())
        for drawn in (
            draw(method, SYMBOLS[question.symbol], n=200_000, max_digits=question.width)
            for method in ("digits", "uniform", "balanced")
        )
    )
    assert balanced > max(20, 3 * uniform)  # once in ten thousand problems, or more often
    if question.width > 3:  # long chains never come up by themselves
        assert balanced > 10 * digits


def test_the_same_generator_gives_the_same_problems() -> None:
    for method in SAMPLINGS:
        how = Sampling(6, 4, method, signed=True)
        one, same, other = (sample(np.random.default_rng(seed), 200, BOTH, how) for seed in (3, 3, 4))
        for a, b, c in zip(fields(one), fields(same), fields(other), strict=True):
            assert (a == b).all()
            assert (a != c).any()


def fields(problems: Problems) -> tuple[np.ndarray, ...]:
    return problems.operands, problems.lengths, problems.operators, problems.task


def followed(notation: Format, problems: Problems) -> object:
    axes = notation.axes([task for task, _ in by_task(problems)])
    return notation.coordinates(problems, notation.render(problems).ids, axes)


USES: dict[str, Callable[[Problems], object]] = {
    "answer": answer,
    "answer_widths": answer_widths,
    "carry_lengths": carry_lengths,
    "expressions": expressions,
    "hash": hash_problems,
    "split": lambda problems: split_of(problems, SplitRatios()),
    "concatenate": lambda problems: concatenate([problems, problems]),
    **{f"render {f.name} {f.zero_pad}": f.render for f in ALL_FORMATS},
    **{f"prompts {f.name} {f.zero_pad}": f.prompt_lengths for f in ALL_FORMATS},
    **{f"follow {f.name} {f.zero_pad}": partial(followed, f) for f in ALL_FORMATS},
    "sizes": sizes,
    "by_task": by_task,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(
    "texts", [["3-12"], ["99+21"], ["7+5+8"], ["0-0"], ["658+189", "12-34", "1+2+3"], ["5-1", "20-15"]]
)
def test_nothing_changes_the_problems_it_is_given(
    use: Callable[[Problems], object], texts: list[str]
) -> None:
    # arrays of one row are contiguous either way round, so that a view may pass for a copy
    asked = list(map(ask, texts))
    problems, untouched = arrays(asked), arrays(asked)
    use(problems)
    for field, before in zip(fields(problems), fields(untouched), strict=True):
        assert field.tobytes() == before.tobytes()
    for field in fields(problems):
        field.flags.writeable = False
    use(problems)  # and no attempt is made that would raise now


@given(batches(max_digits=4, symbols=ALL), st.data())
def test_rows_can_be_picked_and_put_together(asked: list[Question], data: st.DataObject) -> None:
    problems = arrays(asked)
    order = data.draw(st.permutations(range(len(asked))))
    assert questions_of(problems[np.array(order)]) == [asked[i] for i in order]
    alone = [arrays([q]) for q in asked]
    assert questions_of(concatenate(alone)) == asked
    assert integers_of(answer(problems)[np.array(order)]) == [asked[i].answer for i in order]


def test_operands_past_their_number_are_taken_out() -> None:
    digits = np.array([[[1], [2], [3]], [[4], [5], [6]]], np.uint8)
    (addition,) = get_tasks("addition")
    problems = addition.problems(digits, np.array([2, 3]))
    assert questions_of(problems) == [ask("1+2"), ask("4+5+6")]
    assert questions_of(addition.problems(digits)) == [ask("1+2+3"), ask("4+5+6")]
    assert digits.all()


def test_only_products_have_factors_that_training_has_none_of() -> None:
    for text, ways in (("+".join("1" * 100), 1), ("1-1", 1), ("1*1", 2)):
        problems = parse_expression(text)
        assert len(TASKS[problems.task[0]].unseen(problems, Sampling(3, second_digits=1))) == ways


def test_no_problems_at_all_are_fine_too() -> None:
    nothing = arrays([ask("1+2")])[:0]
    assert len(answer(nothing)) == 0
    assert carry_lengths(nothing).shape == (0,)
    assert len(sample(np.random.default_rng(0), 0, BOTH, Sampling())) == 0
    assert expressions(nothing) == []


@given(questions(max_digits=4, symbols=ALL), questions(max_digits=4, symbols=ALL))
def test_two_numbers_are_the_same_when_python_says_so(one: Question, other: Question) -> None:
    left, right = answer(arrays([one])), answer(arrays([other], 0, 5))
    assert left.same(right).tolist() == [one.answer == other.answer]
    assert left.same(answer(arrays([one], 0, 2))).all()


def test_zero_is_never_negative_and_has_one_digit() -> None:
    zero = significant(np.zeros((1, 3), np.uint8), np.array([True]))
    assert not zero.negative.any()
    assert zero.lengths.tolist() == [1]
    assert zero.to_ints() == [0]


def test_tasks_are_chosen_by_name() -> None:
    assert TASK_NAMES == (
        "addition",
        "subtraction",
        "multiplication",
        "chain",
        "division",
        "remainder",
        "arithmetic",
    )  # their order is their code: never change it
    assert [task.code for task in TASKS] == list(range(7))
    assert get_tasks("addition") == (TASKS[0],)
    assert get_tasks(" subtraction , addition ") == (TASKS[1], TASKS[0])
    assert get_tasks(["subtraction"]) == (TASKS[1],)
    assert [task.symbol for task in TASKS[:3]] == ["+", "-", "*"]
    for task in TASKS:  # an example is one
        assert parse_expression(task.example, (task,)).task.tolist() == [task.code]


def test_tasks_that_would_read_one_text_in_two_ways_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="one text would have two answers") as caught:
        get_tasks("chain,addition")
    assert caught.value.hint == "train two models"
    assert [task.name for task in readable_beside(get_tasks("chain"))] == ["chain"]
    beside = [task.name for task in readable_beside(get_tasks("subtraction"))]
    assert beside == ["subtraction", "addition", "multiplication", "division", "remainder", "arithmetic"]


@given(batches(max_digits=6, max_operands=6, symbols=ALL))
def test_problems_are_measured_by_their_tasks(asked: list[Question]) -> None:
    problems = arrays(asked)
    assert sizes(problems).tolist() == [q.width for q in asked]
    assert operands_asked(problems).tolist() == [len(q.operands) for q in asked]
    found = {task.name: questions_of(problems[rows]) for task, rows in by_task(problems)}
    assert found == {
        name: [q for q in asked if q.task == name]
        for name in TASK_NAMES
        if any(q.task == name for q in asked)
    }


@pytest.mark.parametrize("names", TASK_NAMES)
@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_problems_of_one_length_are_of_that_length(names: str, stress: bool, digits: int) -> None:
    (task,) = get_tasks(names)
    problems = task.of_length(np.random.default_rng(0), 200, Sampling(digits), stress=stress)
    assert len(problems) == 200
    assert (problems.task == task.code).all()
    # the hardest may be one digit shorter
    assert set(sizes(problems).tolist()) <= ({digits, max(1, digits - 1)} if stress else {digits})
    assert sizes(problems).max() == digits
    assert task.general or not answer(problems).negative.any()
    if not task.one_digit and not task.general:
        assert (problems.operators[:, 0] == OPERATOR_CODES[task.symbol]).all()
    parsed = parse_expressions(expressions(problems), (task,))
    assert expressions(parsed) == expressions(problems)


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        ("adition", "unknown task 'adition'; choose from addition, subtraction", "did you mean 'addition'?"),
        ("sub", "unknown task 'sub'", "did you mean 'subtraction'?"),
        ("addition,substraction", "unknown task 'substraction'", "did you mean 'subtraction'?"),
        ("", "unknown task ''", None),
        ("addition,addition", "name each task once, not 'addition,addition'", None),
        ([], "name each task once", None),
        (
            "addition,chain",
            "addition is worked out in integers and chain from left to right modulo 10",
            "train two models",
        ),
    ],
)
def test_unknown_tasks_are_refused(names: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        get_tasks(names)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "balance"}, "unknown sampling 'balance'"),
        ({"max_digits": 0}, "max_digits must be at least 1, not 0"),
        ({"max_operands": 1}, "max_operands must be at least 2, not 1"),
        ({"max_operands": 101}, "max_operands must be at most 100, not 101"),
    ],
)
def test_impossible_samplings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]


def test_a_task_with_a_weight_comes_that_much_more_often() -> None:
    tasks = get_tasks("addition,subtraction,multiplication")
    drawn = [
        sample(np.random.default_rng(0), 20_000, tasks, Sampling(3, task_weights=weights)).task
        for weights in ("", "subtraction:3", "addition:1, subtraction:1")
    ]
    counts = [np.bincount(names, minlength=3) / len(names) for names in drawn]
    assert np.allclose(counts[0][:3], 1 / 3, atol=0.02)
    assert np.allclose(counts[1][:3], [0.2, 0.6, 0.2], atol=0.02)
    assert (drawn[0] == drawn[2]).all()


@pytest.mark.parametrize(
    ("task", "weights", "said"),
    [
        ("addition,subtraction", "addition", "weights are of tasks"),
        ("addition,subtraction", "addition:2,addition:3", "weights are of tasks"),
        ("addition,subtraction", "addition:0", "at least 1"),
        ("addition,subtraction", "addition:5000", "at most 1,000"),
        ("addition,subtraction", "division:2", "names division, which is none of several tasks"),
        ("addition", "addition:2", "names addition, which is none of several tasks"),
    ],
)
def test_weights_that_make_no_sense_are_refused(task: str, weights: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_sampling(DataConfig(task=task, task_weights=weights))
