"""Places: each token says which digit of the problem it is about, and goes on saying so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALL_FORMATS, Question, arrays, ask, batches, equation_like_ids, format_id

from mathllm.errors import UsageError
from mathllm.formats import FORMATS, Format, get_format
from mathllm.tokenizer import END, END_THINK, EQUALS, TOKENS, decode_rows, encode

WITH_PLACES = [f for f in ALL_FORMATS if f.knows_places]
any_format = st.sampled_from(WITH_PLACES)
DIGITS = set("0123456789")


def test_only_plain_without_padding_knows_no_places() -> None:
    assert [format_id(f) for f in ALL_FORMATS if not f.knows_places] == ["plain", "slots", "slots-padded"]
    with pytest.raises(UsageError, match="format 'plain' cannot tell the places of an answer") as caught:
        FORMATS["plain"].places(encode("1+2=")[None])
    assert caught.value.hint == "use --format reversed, column or pairwise, or zero-padding (--zero-pad)"
    assert caught.value.exit_code == 2


def table(notation: Format, text: str) -> tuple[str, str]:
    """The text with one space between tokens, and the places under them."""
    ids = notation.render(arrays([ask(text)])).ids
    tokens = [TOKENS[i] for i in ids[0]]
    places = [
        str(place).ljust(len(token)) for place, token in zip(notation.places(ids)[0], tokens, strict=True)
    ]
    return " ".join(tokens), " ".join(places).rstrip()


@pytest.mark.parametrize(
    ("name", "zero_pad", "text", "tokens", "places"),
    [
        (
            "column",
            False,
            "58+9",
            "5 8 + 9 = <think> 8 + 9 = 1 7 5 + 0 + 1 = 6 </think> 6 7 <end>",
            "2 1 0 1 0 1       1 1 1 1 2 2 2 2 2 2 2 2 3 2        1 0 0",
        ),
        (
            "column",
            False,
            "12-15",
            "1 2 - 1 5 = <think> 5 - 2 = 3 1 - 1 = 0 </think> - 3 <end>",
            "2 1 0 2 1 0 1       1 1 1 1 2 2 2 2 2 3 1        1 0 0",
        ),
        (
            "pairwise",
            False,
            "99+21",
            "9 9 + 2 1 = <think> 9 9 + 1 2 = 0 2 1 </think> 1 2 0 <end>",
            "2 1 0 2 1 0 0       1 2 0 1 2 1 2 3 4 3        2 1 0 0",
        ),
        ("reversed", False, "99+21", "9 9 + 1 2 = 0 2 1 <end>", "1 2 0 1 2 1 2 3 4 0"),
        ("reversed", False, "3-12", "3 - 2 1 = - 9 <end>", "1 0 1 2 1 1 2 0"),
        ("plain", True, "3-12", "0 3 - 1 2 = - 0 9 <end>", "2 1 0 2 1 2 2 1 0 0"),
        ("plain", True, "99+1", "9 9 + 0 1 = 1 0 0 <end>", "2 1 0 2 1 3 2 1 0 0"),
    ],
)
def test_worked_examples(name: str, zero_pad: bool, text: str, tokens: str, places: str) -> None:
    assert table(get_format(name, zero_pad), text) == (tokens, places)


@given(any_format, batches(max_digits=8, max_operands=12))
def test_digits_of_operands_have_their_own_places(notation: Format, asked: list[Question]) -> None:
    rendered = notation.render(arrays(asked))
    places = notation.places(rendered.ids)
    for row, question in enumerate(asked):
        expected: list[int] = []
        for operand in question.operands:
            length = question.width if notation.zero_pad else len(str(operand))
            counted = range(1, length + 1)
            shown = [*(counted if notation.least_significant_first else reversed(counted)), 0]
            expected += [place for place in shown for _ in range(2 if notation.hints and place else 1)]
        assert places[row, : rendered.prompt_lengths[row] - 1].tolist() == expected[:-1]


@given(any_format, batches(max_digits=8, max_operands=12))
def test_the_token_before_an_answer_digit_has_its_place(notation: Format, asked: list[Question]) -> None:
    ids = notation.render(arrays(asked)).ids
    parsed = notation.parse(ids)
    places = notation.places(ids)
    for row in range(len(asked)):
        start, end = int(parsed.answer_start[row]), int(parsed.answer_end[row])
        columns = [c for c in range(start, end) if TOKENS[ids[row, c]] in DIGITS]
        counted = range(1, len(columns) + 1)
        if notation.hints:  # a hint and its digit
            counted = [1 + column // 2 for column in range(len(columns))]
        expected = list(counted if notation.least_significant_first else reversed(counted))
        assert places[row, [c - 1 for c in columns]].tolist() == expected
        if (
            len(columns) < end - start
        ):  # a minus sign stands before the first digit and is predicted from there
            assert places[row, start - 1] == expected[0]
        assert not places[row, end:].any()  # neither `<end>` nor padding is about a digit


def test_a_column_thought_announces_the_digits_of_any_difference() -> None:
    # numbers close to one another: long chains of borrows, and answers much shorter than the operands
    pairs = [(a, b) for a in range(900, 1100) for b in range(a - 110, a + 110, 2)]
    pairs += [
        (10**n + r, s) for n in range(2, 7) for r in (0, 1, 30) for s in (10**n - 1, 10**n - 60, 9, 90, 94)
    ]
    ids = FORMATS["column"].render(arrays([Question("-", pair) for pair in pairs])).ids
    announced = FORMATS["column"].places(ids)[ids == END_THINK]
    assert announced.tolist() == [len(str(abs(a - b))) for a, b in pairs]


@given(batches(max_digits=8, max_operands=12), st.booleans())
def test_column_steps_have_the_place_of_their_column(asked: list[Question], zero_pad: bool) -> None:
    notation = get_format("column", zero_pad)
    rendered = notation.render(arrays(asked))
    places = notation.places(rendered.ids)
    for row, prompt in enumerate(rendered.prompt_lengths):
        closing = rendered.ids[row].tolist().index(END_THINK)
        step = 1
        for column in range(prompt, closing):
            assert places[row, column] == step
            # what follows `=` is handed on to the next column
            step += int(rendered.ids[row, column] == EQUALS)
        assert step - 1 == asked[row].width


@given(batches(max_digits=8, max_operands=6), st.booleans())
def test_pairwise_thoughts_line_up_digit_by_digit(asked: list[Question], zero_pad: bool) -> None:
    notation = get_format("pairwise", zero_pad)
    rendered = notation.render(arrays(asked))
    places = notation.places(rendered.ids)
    for row in range(len(asked)):
        tokens = [TOKENS[i] for i in rendered.ids[row]]
        parsed = notation.parse(rendered.ids[row : row + 1])
        start, end = int(parsed.thought_start[0]), int(parsed.thought_end[0])
        counted, in_result = 0, False
        for column in range(start, end):
            if tokens[column] in ("<think>", "</think>", "+", "=") or (
                tokens[column] == "-" and not in_result
            ):
                in_result = tokens[column] == "="
                counted = 0
            elif tokens[column] in DIGITS:
                counted += 1
                # an operand's digit has its own place; one of the result, the token before it
                assert places[row, column - in_result] == counted


def cut_rows(rows: list[list[int]]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([row + [END] * (width - len(row)) for row in rows], np.uint8)


def assert_stable(notation: Format, ids: np.ndarray) -> None:
    """Places of a prefix are those of the whole, from the first `=` on, whatever comes next."""
    whole = notation.places(ids)
    equals = [row.tolist().index(EQUALS) for row in ids]
    for width in range(1, ids.shape[1]):
        prefix = notation.places(ids[:, :width])
        for row, first in enumerate(equals):
            if width > first:  # before that, more digits of an operand may be to come
                assert prefix[row].tolist() == whole[row, :width].tolist()
    # and rows do not look at one another
    for row in range(len(ids)):
        assert notation.places(ids[row : row + 1]).tolist() == whole[row : row + 1].tolist()


@given(any_format, batches(max_digits=5, max_operands=4, max_size=4))
def test_places_never_change_when_a_token_is_appended(notation: Format, asked: list[Question]) -> None:
    assert_stable(notation, notation.render(arrays(asked)).ids)


@given(any_format, batches(max_digits=4, max_size=3), st.data())
def test_nor_whatever_a_model_makes_up(notation: Format, asked: list[Question], data: st.DataObject) -> None:
    rendered = notation.render(arrays(asked))
    rows = []
    for row, prompt in enumerate(rendered.prompt_lengths):
        # true up to some point, nonsense from there
        start = data.draw(st.integers(int(prompt), int(rendered.lengths[row])))
        rows.append(rendered.ids[row, :start].tolist() + data.draw(equation_like_ids))
    assert_stable(notation, cut_rows(rows))


@pytest.mark.parametrize("notation", WITH_PLACES, ids=format_id)
@pytest.mark.parametrize("text", ["99+1", "12-15", "100-99", "1+2+3"])
def test_no_token_at_all_changes_the_places_before_it(notation: Format, text: str) -> None:
    rendered = notation.render(arrays([ask(text)]))
    for length in range(int(rendered.prompt_lengths[0]), int(rendered.lengths[0])):
        prefix = rendered.ids[:, :length]
        followed = np.hstack(
            [np.repeat(prefix, len(TOKENS), axis=0), np.arange(len(TOKENS), dtype=np.uint8)[:, None]]
        )
        assert (notation.places(followed)[:, :-1] == notation.places(prefix)).all()


@given(any_format, st.lists(equation_like_ids.map(lambda ids: [1, *ids]), min_size=1, max_size=4))
def test_any_ids_have_places(notation: Format, rows: list[list[int]]) -> None:
    ids = cut_rows(rows)
    places = notation.places(ids)
    assert places.shape == ids.shape
    assert places.min() >= 0
    # a place is a count of digits or steps: never more than there are tokens
    assert places.max() <= max(ids.shape[1], *(len(text) for text in decode_rows(ids))) + 1
