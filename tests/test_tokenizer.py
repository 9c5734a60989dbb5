"""The sixteen tokens: text to ids and back, and errors that say where."""

import doctest
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import as_typed, equation_like_ids, joined, token_ids

import mathllm.tokenizer
from mathllm.errors import ExpressionError
from mathllm.tokenizer import (
    ADD,
    DIVIDE,
    END,
    END_THINK,
    EQUALS,
    MINUS,
    MULTIPLY,
    OPERATORS,
    PLUS,
    REMAINDER,
    SUBTRACT,
    SYMBOLS,
    THINK,
    TOKENS,
    VOCAB_SIZE,
    decode,
    decode_rows,
    encode,
    tokenizer_json,
)

BLANKS = " \t\r\v\f\n"
blank = st.text(BLANKS, max_size=3)
# no character that a token or white space begins with, lone surrogates included
foreign = st.characters(exclude_characters="0123456789+-*/%=<" + BLANKS, codec=None)
rows_of_ids = st.lists(equation_like_ids, max_size=6)


def test_sixteen_tokens_in_this_order() -> None:
    assert "".join(TOKENS) == "0123456789+-=<think></think><end>"
    assert [encode(token).tolist() for token in TOKENS] == [[i] for i in range(16)]
    assert VOCAB_SIZE == 16
    assert [PLUS, MINUS, EQUALS, THINK, END_THINK, END] == [10, 11, 12, 13, 14, 15]


def test_the_example_in_the_module_runs() -> None:
    assert doctest.testmod(mathllm.tokenizer).failed == 0


@given(token_ids)
def test_any_ids_come_back_from_their_text(ids: list[int]) -> None:
    assert encode(decode(ids)).tolist() == ids
    assert encode(joined(ids)).tolist() == ids
    assert encode(joined(ids)).dtype == np.uint8


@given(st.lists(st.tuples(blank, st.integers(0, 15), blank), max_size=30))
def test_white_space_between_tokens_is_ignored(parts: list[tuple[str, int, str]]) -> None:
    text = "".join(before + TOKENS[i] + after for before, i, after in parts)
    assert encode(text).tolist() == [i for _, i, _ in parts]


@pytest.mark.parametrize(
    ("symbol", "pair"), [("*", [PLUS, PLUS]), ("/", [MINUS, MINUS]), ("%", [MINUS, PLUS])]
)
def test_what_has_no_token_of_its_own_is_two_of_the_others(symbol: str, pair: list[int]) -> None:
    assert encode(f"12{symbol}3").tolist() == [1, 2, *pair, 3]
    assert encode(f"12 {symbol} 3</think>").tolist() == [1, 2, *pair, 3, END_THINK]
    assert decode([1, 2, *pair, 3, END_THINK]) == f"12{symbol}3</think>"
    assert encode("".join(TOKENS[i] for i in pair)).tolist() == pair


def test_operators_have_codes() -> None:
    assert list(OPERATORS) == ["+", "-", "*", "/", "%"]
    assert [ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER] == [1, 2, 3, 4, 5]
    assert [SYMBOLS[code] for code in range(6)] == ["", "+", "-", "*", "/", "%"]
    for symbol, ids in OPERATORS.items():
        assert encode(symbol).tolist() == list(ids)


def test_minus_signs_behind_an_equals_sign_are_no_operator() -> None:
    assert decode(encode("1--2=<think>=--1</think>")) == "1/2=<think>=--1</think>"
    assert decode(encode("=---7--2")) == "=---7/2"


@given(token_ids)
def test_decode_writes_the_tokens_without_spaces_and_pairs_as_their_symbols(ids: list[int]) -> None:
    assert decode(ids) == as_typed(joined(ids))


@given(rows_of_ids, st.data())
def test_spaces_stand_where_they_are_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    width = max(map(len, rows), default=0)
    ids = np.array([row + [END] * (width - len(row)) for row in rows], np.uint8).reshape(len(rows), width)
    marks = st.lists(st.booleans(), min_size=width, max_size=width)
    spaces = np.array([data.draw(marks) for _ in rows], bool).reshape(ids.shape)
    lengths = np.array([data.draw(st.integers(0, width)) for _ in rows], int)
    for row, text in enumerate(decode_rows(ids, lengths, spaces)):
        inside = range(lengths[row])
        assert text == as_typed("".join(" " * bool(spaces[row, c]) + TOKENS[ids[row, c]] for c in inside))
        assert encode(text).tolist() == ids[row, : lengths[row]].tolist()


@given(rows_of_ids, st.data())
def test_many_rows_decode_like_one_at_a_time(rows: list[list[int]], data: st.DataObject) -> None:
    width = max(map(len, rows), default=0)
    ids = np.array([row + [END] * (width - len(row)) for row in rows], np.uint8).reshape(len(rows), width)
    assert decode_rows(ids) == [decode(row) for row in ids]
    lengths = [data.draw(st.integers(0, width)) for _ in rows]
    assert decode_rows(ids, np.array(lengths, int)) == [
        decode(r[:n]) for r, n in zip(ids, lengths, strict=True)
    ]


@given(token_ids, blank, foreign, st.text(max_size=10))
def test_a_foreign_character_is_named_with_its_position(
    ids: list[int], gap: str, char: str, rest: str
) -> None:
    before = decode(ids) + gap
    text = before + char + rest
    with pytest.raises(ExpressionError) as caught:
        encode(text)
    assert caught.value.position == len(before)
    assert repr(char) in caught.value.message
    assert f"position {len(before) + 1} " in caught.value.message
    assert_caret_points_at(caught.value, char)
    caught.value.message.encode()  # can be printed, whatever the character was


def assert_caret_points_at(error: ExpressionError, char: str) -> None:
    lines = error.caret().split("\n")
    assert len(lines) == 2
    assert len(lines[0]) <= 72
    assert lines[0].isprintable()
    assert lines[1].strip() == "^"
    assert lines[0][lines[1].index("^")] == (char if char.isprintable() else "?")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("a", 0),
        ("12x3", 2),
        ("1 + b", 4),
        ("12+٣", 3),  # an Arabic-Indic digit
        ("12+３", 3),  # a full-width digit
        ("1²+2", 1),
        ("１２+3", 0),
        ("7\u22121", 1),  # the minus sign of typographers
        ("5+\ud800", 2),  # half a surrogate pair
        ("1+\N{PILE OF POO}", 2),
        ("1+\u00a01", 2),  # a no-break space is no white space of ours
        ("1+\x00", 2),
        ("<thin>", 0),
        ("1<END>", 1),
        ("1+2=<think", 4),
        ("<think>1<</think>", 8),
        ("< think>", 0),
        ("<<end>", 0),
        ("8" * 100_000 + "x", 100_000),
        (" " * 500 + "x" + "8" * 500, 500),
    ],
    ids=lambda value: ascii(value[:12]) if isinstance(value, str) else str(value),
)
def test_errors_point_at_the_first_character_that_is_no_token(text: str, position: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        encode(text)
    assert caught.value.position == position
    assert_caret_points_at(caught.value, text[position])


@given(st.text() | st.text("12+-*%= <>/thinkend\n３"))
def test_any_text_is_encoded_or_refused_at_a_position_inside_it(text: str) -> None:
    # what a person would call valid: as many tokens and blanks as the text begins with
    match = re.match(rf"(?:[0-9+\-*/%={BLANKS}]|</?think>|<end>)*", text)
    valid = match[0] if match else ""
    tokens = re.sub(f"[{BLANKS}]", "", valid).replace("*", "++").replace("%", "-+")
    assert joined(encode(valid).tolist()) == re.sub("(?<!<)/", "--", tokens)
    if valid != text:
        with pytest.raises(ExpressionError) as caught:
            encode(text)
        assert caught.value.position == len(valid)


def test_no_rows_and_empty_rows() -> None:
    for rows in range(3):
        assert decode_rows(np.zeros((rows, 0), np.uint8)) == [""] * rows
    assert encode("").tolist() == []
    assert decode([]) == ""


@pytest.fixture(scope="module")
def hugging_face():  # type: ignore[no-untyped-def]
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_str(tokenizer_json())


def test_hugging_face_has_the_same_vocabulary(hugging_face) -> None:  # type: ignore[no-untyped-def]
    assert hugging_face.get_vocab() == {token: i for i, token in enumerate(TOKENS)}
    assert hugging_face.get_vocab_size() == 16


@given(st.lists(st.tuples(st.integers(0, 15), blank), max_size=30))
def test_hugging_face_gives_the_same_ids(hugging_face, parts: list[tuple[int, str]]) -> None:  # type: ignore[no-untyped-def]
    ids = [i for i, _ in parts]
    # `decode` writes `*`, `/` and `%`
    for text in (joined(ids), decode(ids), "".join(TOKENS[i] + gap for i, gap in parts)):
        assert hugging_face.encode(text).ids == ids
    assert hugging_face.decode(ids) == joined(ids)
