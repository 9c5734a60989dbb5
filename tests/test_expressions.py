"""Problems as people type them: read exactly, or refused at the right place."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import ALL, SYMBOLS, Question, arrays, ask, batches, encode_rows, operands, questions_of

from mathllm.errors import DataError, ExpressionError
from mathllm.limits import MAX_DIGITS
from mathllm.tasks import TASK_NAMES, answer, get_tasks
from mathllm.tasks.expressions import (
    expressions,
    numbers_from_ids,
    parse_expression,
    parse_expressions,
    read_expressions,
    read_numbers,
    split_answer,
)

# what people type, and what they type by mistake
typed = st.text("0123456789+-*/%= 　a.٣<>", max_size=15)
NO_SUM = "a sum has 2 to 100 numbers, and no operator but +"
NO_DIFFERENCE = "a difference is of two numbers, with - between them"
NO_PRODUCT = "a product has 2 to 6 numbers, no operator but *, and at most 4,000 digits"
NO_EXPRESSION = "an expression has 2 to 6 numbers, together of at most 4,000 digits"
BY_ZERO = "nothing can be divided by zero"
BELOW = "a number was expected here: only factors and results may be below zero"
WHOLE = "a number was expected here: in a whole expression no number may be below zero"
NOBODY = "none of these tasks has that operator"
zeros = st.integers(0, 3).map(lambda n: "0" * n)
gaps = st.text(" \t", max_size=2)


@given(batches(max_digits=30, max_operands=12, symbols=ALL))
def test_problems_come_back_from_their_expressions(asked: list[Question]) -> None:
    texts = [q.text for q in asked]
    assert expressions(arrays(asked)) == texts
    problems = parse_expressions(texts)
    assert questions_of(problems) == asked
    assert expressions(problems) == texts
    for question, text in zip(asked, texts, strict=True):
        assert questions_of(parse_expression(text)) == [question]


@given(st.lists(st.tuples(zeros, operands(12), gaps), min_size=2, max_size=6), gaps, st.booleans())
def test_leading_zeros_spaces_and_an_equals_sign_are_allowed(
    parts: list[tuple[str, int, str]], gap: str, equals: bool
) -> None:
    text = gap + "+".join(nil + str(number) + after for nil, number, after in parts) + "=" * equals
    question = Question("+", tuple(number for _, number, _ in parts))
    for problems in (parse_expression(text), parse_expressions([text])):
        assert questions_of(problems) == [question]
        assert expressions(problems) == [question.text]
        assert (problems.lengths == arrays([question]).lengths).all()


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "there is no problem here"),
        ("  ", 0, "there is no problem here"),
        ("=", 0, "there is no problem here"),
        (" = ", 0, "there is no problem here"),
        ("12", 2, "the problem ends too early"),
        ("12=", 2, "the problem ends too early"),
        ("7+", 2, "the problem ends too early"),
        ("7 - =", 3, "the problem ends too early"),
        ("+", 0, "a number was expected here"),
        ("-3+4", 0, BELOW),
        ("1+-2", 2, BELOW),
        ("1++2", 2, "a number was expected here"),
        ("1+ -2", 3, BELOW),
        ("1+− 2", 2, BELOW),
        ("-0+2", 0, BELOW),
        ("-2*3+4", 0, WHOLE),
        ("2+-3*4", 2, WHOLE),
        ("2--3", 2, BELOW),
        ("--2*3", 0, "a number was expected here"),
        ("2*+3", 2, "a number was expected here"),
        ("-2/0", 3, BY_ZERO),
        ("1+(2+3)", 2, "character '(' at position 3: a problem has no brackets"),
        ("1,000+2", 1, "character ',' at position 2: a problem has no decimals and no separators"),
        ("1+2-3+4-5+6-7", 11, f"'-' does not fit: {NO_EXPRESSION}"),
        ("1+" * 100 + "1", 199, f"'+' does not fit: {NO_SUM}"),
        ("12=34", 2, "'=' does not belong in a problem"),
        ("1+2==", 3, "'=' does not belong in a problem"),
        ("=1+2", 0, "'=' does not belong in a problem"),
        ("1+<think>2", 2, "'<think>' does not belong in a problem"),
        ("1+2<end>", 3, "'<end>' does not belong in a problem"),
        ("1+2=<end>", 3, "'=' does not belong in a problem"),
        ("12x3", 2, "character 'x' at position 3 is not one of the tokens"),
        ("1+ +2", 3, "a number was expected here"),
        ("12**3", 3, "a number was expected here"),
        ("1+\n+2", 3, "a number was expected here"),
        ("1\n2+3", 2, "white space inside a number"),
        ("*3", 0, "a number was expected here"),
        ("1/0", 2, BY_ZERO),
        ("5 % 00 =", 4, BY_ZERO),
        ("1+2*3/0-4", 6, BY_ZERO),
        ("0/0%0", 2, BY_ZERO),
        ("6/-2", 2, BELOW),
        ("2*", 2, "the problem ends too early"),
        ("2**3", 2, "a number was expected here"),
        ("9" * 3000 + "*" + "9" * 3000, 3001, f"'9999999999999999...' does not fit: {NO_PRODUCT}"),
        ("1//2", 2, "a number was expected here"),
        ("1.5+2", 1, "character '.' at position 2: a problem has no decimals"),
        ("two+2", 0, "character 't' at position 1 is not one of the tokens"),
        ("１+x", 2, "character 'x' at position 3 is not one of the tokens"),
        ("1+٣", 2, "character '٣' at position 3 is not one of the tokens"),
        ("1²+2", 1, "character '²' at position 2 is not one of the tokens"),
        ("5" * 10_000 + "+1", MAX_DIGITS, "a number of more than 4,000 digits"),
        ("1+" + "0" * 10_000, MAX_DIGITS + 2, "a number of more than 4,000 digits"),
        ("5" * 10_000, MAX_DIGITS, "a number of more than 4,000 digits"),
    ],
    ids=lambda value: ascii(value[:16]) if isinstance(value, str) else str(value),
)
def test_what_is_no_problem_is_refused_where_it_goes_wrong(text: str, position: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert caught.value.message == message
    assert caught.value.position == position
    assert caught.value.hint
    assert caught.value.exit_code == 1
    shown, caret = caught.value.caret().split("\n")
    assert len(shown) <= 72
    assert 0 <= caret.index("^") <= len(shown)
    if position < len(text):
        assert shown[caret.index("^")] == text[position]
    with pytest.raises(DataError) as of_rows:
        parse_expressions(["1+2", text, "?"])
    assert of_rows.value.message == f"row 2: {message}\n{caught.value.caret()}"
    assert of_rows.value.hint == caught.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [("１２＋３４＝", "12+34"), ("12 − 3", "12-3"), ("12–3", "12-3"), ("4×5", "4*5"), ("4·5", "4*5")],
)
def test_what_keyboards_make_of_digits_and_signs_is_read(text: str, meant: str) -> None:
    assert expressions(parse_expressions([text, "1+1"])) == [meant, "1+1"]


def test_an_answer_behind_a_problem_is_split_off() -> None:
    for text in ("12+34", "12+34=", "12+34 = ", "=", "=3", "", "x"):
        assert split_answer(text) == (text, "")
    assert split_answer("12+34=46") == ("12+34=", "46")
    assert split_answer(" 12 + 34 = 0046 ") == (" 12 + 34 =", "46")
    assert split_answer("1−2＝ −1") == ("1−2＝", "-1")
    assert split_answer("1-1=-0")[1] == "0"
    assert split_answer("1+1=" + "9" * 5000)[1] == "9" * 5000
    for text, position in (("1+1=x", 4), ("1+1= 2+3", 5), ("1+1==2", 4), ("1+1=-", 4)):
        with pytest.raises(ExpressionError, match="what follows the '=' is no whole number") as caught:
            split_answer(text)
        assert (caught.value.text, caught.value.position) == (text, position)
    with pytest.raises(ExpressionError, match="white space inside a number") as caught:
        split_answer("12+34= 4 6")
    assert caught.value.position == 9


@pytest.mark.parametrize(("text", "position"), [("1 2+3", 2), ("12+3\t 4=", 6)])
def test_white_space_inside_a_number_is_refused(text: str, position: int) -> None:
    with pytest.raises(ExpressionError, match="white space inside a number") as caught:
        parse_expression(text)
    assert caught.value.position == position
    with pytest.raises(DataError, match="row 2: white space inside a number"):
        parse_expressions(["1 + 2", text])


@given(st.text(max_size=20) | typed)
@example("12+34=")
def test_any_text_is_a_problem_or_an_error_with_its_place(text: str) -> None:
    try:
        problems = parse_expression(text)
    except ExpressionError as error:
        shown, caret = error.caret().split("\n")
        assert caret == " " * error.position + "^"  # noqa: PT017
        assert 0 <= error.position <= len(text)  # noqa: PT017
        assert len(shown) == max(len(text), 1)
    else:
        (question,) = questions_of(problems)
        kept = "".join(c for c in text if c in "0123456789+-*/%")
        assert ask(kept) == question


@given(st.lists(typed, max_size=5))
def test_many_texts_are_read_like_one_at_a_time(texts: list[str]) -> None:
    found, errors = [], []
    for text in texts:
        try:
            found += questions_of(parse_expression(text))
        except ExpressionError as error:
            errors.append(error)
    if errors:
        with pytest.raises(DataError, match=r"^row \d+: "):
            parse_expressions(texts)
    else:
        assert questions_of(parse_expressions(texts)) == found


def test_the_longest_numbers_and_the_most_operands() -> None:
    longest = "9" * MAX_DIGITS
    problems = parse_expression(f"{longest}+{longest}")
    assert expressions(problems) == [f"{longest}+{longest}"]
    most = "+".join(["9"] * 100)
    assert expressions(parse_expressions([most, "1-2"])) == [most, "1-2"]


@given(st.lists(typed, min_size=1, max_size=6))
def test_rows_that_are_no_problems_have_no_operands(texts: list[str]) -> None:
    problems, good = read_expressions(texts)
    for row, text in enumerate(texts):
        try:
            expected = questions_of(parse_expression(text))
        except ExpressionError:
            expected = []
        assert bool(good[row]) == bool(expected)
        if expected:
            assert questions_of(problems[row : row + 1]) == expected
        else:
            assert not problems.lengths[row].any()
            assert not problems.operands[row].any()
            assert not problems.operators[row].any()


def test_a_row_that_is_too_long_does_not_widen_the_others() -> None:
    texts = ["1+2", "3" * (MAX_DIGITS + 1) + "+4", "5-6", "1-2-3-4-5-6-7", "1234/0"]
    problems, good = read_expressions(texts)
    assert good.tolist() == [True, False, True, False, False]
    assert problems.operands.shape[2] == 1
    assert not problems.lengths[~good].any()


@given(
    batches(max_digits=4, max_operands=4, symbols=ALL[:5]),
    st.permutations(TASK_NAMES[:3] + TASK_NAMES[4:6]),
    st.integers(1, 5),
)
def test_only_the_tasks_that_are_asked_for_are_read(
    asked: list[Question], names: list[str], count: int
) -> None:
    tasks = get_tasks(names[:count])
    problems, good = read_expressions([q.text for q in asked], tasks)
    wanted = [SYMBOLS[q.symbol] in names[:count] for q in asked]
    assert good.tolist() == wanted
    assert questions_of(problems[good]) == [q for q, right in zip(asked, wanted, strict=True) if right]


@pytest.mark.parametrize(
    ("tasks", "text", "position", "message", "example"),
    [
        ("multiplication", "1-2", 1, f"'-' does not fit: {NO_PRODUCT}", "12*34"),
        ("addition", "1*2", 1, f"'*' does not fit: {NO_SUM}", "12+34"),
        ("subtraction", "1+2", 1, f"'+' does not fit: {NO_DIFFERENCE}", "34-12"),
        ("subtraction", "1-2-3", 3, f"'-' does not fit: {NO_DIFFERENCE}", "34-12"),
        ("multiplication", "12", 2, "the problem ends too early", "12*34"),
        ("subtraction,multiplication", "1+2", 1, f"'+' does not fit: {NOBODY}", "34-12"),
    ],
)
def test_what_the_tasks_do_not_take_is_refused_in_their_words(
    tasks: str, text: str, position: int, message: str, example: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, get_tasks(tasks))
    assert (caught.value.position, caught.value.message) == (position, message)
    assert caught.value.hint == f"write a problem like {example}"


def test_the_first_task_that_takes_a_text_has_it() -> None:
    addition, chain = get_tasks("addition")[0], get_tasks("chain")[0]
    for tasks, results in (([addition, chain], [12, 7, 0]), ([chain, addition], [2, 7, 0])):
        problems = parse_expressions(["3+9", "3+9-5", "5*7+5"], tasks)
        assert answer(problems).to_ints() == results


@given(st.lists(st.text("0123456789-+", max_size=8), min_size=1, max_size=6))
def test_integers_are_read_as_python_reads_them(texts: list[str]) -> None:
    for backwards in (False, True):
        numbers, good = numbers_from_ids(*encode_rows(texts), least_significant_first=backwards)
        for row, text in enumerate(texts):
            digits = text.removeprefix("-")
            assert bool(good[row]) == digits.isdigit()
            sign = -1 if digits != text else 1
            value = int(digits[::-1] if backwards else digits) if good[row] else 0
            assert numbers.to_ints()[row] == sign * value


@given(st.lists(st.text("0123456789-+ =x", max_size=8), min_size=1, max_size=6))
def test_numbers_are_read_from_texts_as_from_ids(texts: list[str]) -> None:
    numbers, good = read_numbers(texts)
    for row, text in enumerate(texts):
        bare = text.replace(" ", "")
        assert bool(good[row]) == bare.removeprefix("-").isdigit()
        assert numbers.to_ints()[row] == (int(bare) if good[row] else 0)


def test_a_number_with_too_many_zeros_is_the_one_to_blame() -> None:
    with pytest.raises(
        ExpressionError, match=r"'007' does not fit: a chain has numbers of one digit"
    ) as caught:
        parse_expression("007+3", get_tasks("chain"))
    assert caught.value.position == 0


def test_no_rows() -> None:
    problems, good = read_expressions([])
    assert len(problems) == len(good) == 0
    assert len(parse_expressions([])) == 0
    assert numbers_from_ids(np.zeros((2, 0), np.uint8), np.zeros(2, int))[1].tolist() == [False, False]
