"""What each token of a text is called: the same in texts of all lengths, and once in each."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from strategies import Case, arrays, ask, cases

from mathllm.formats import get_format
from mathllm.formats.roles import roles
from mathllm.tasks import answer
from mathllm.tokenizer import TOKENS


def named(name: str, *texts: str) -> list[dict[str, str]]:
    """The tokens of the texts of problems by their roles."""
    notation = get_format(name)
    gold = notation.render(arrays([ask(text) for text in texts]))
    found = roles(notation, gold)
    return [
        {found.names[code]: TOKENS[token] for code, token in zip(codes, ids, strict=True) if code >= 0}
        for codes, ids in zip(found.codes.tolist(), gold.ids.tolist(), strict=True)
    ]


@given(cases(max_digits=6, max_operands=6, max_size=4))
def test_every_token_has_a_role_and_no_two_of_a_text_have_the_same(case: Case) -> None:
    notation, asked = case
    problems = arrays(asked)
    gold = notation.render(problems)
    found = roles(notation, gold)
    truth = answer(problems)
    for row, length in enumerate(gold.lengths.tolist()):
        codes = found.codes[row].tolist()
        assert min(codes[:length]) >= 0
        assert set(codes[length:]) <= {-1}
        assert max(Counter(codes[:length]).values()) == 1
        tokens = {
            found.names[code]: int(token) for code, token in zip(codes[:length], gold.ids[row], strict=False)
        }
        for number, letter in enumerate("abcdef"):
            for place in range(
                int(problems.lengths[row, number]) if number < problems.lengths.shape[1] else 0
            ):
                assert tokens[f"{letter}{place + 1}"] == problems.operands[row, number, place]
        for place in range(int(truth.lengths[row])):
            assert tokens[f"answer {place + 1}"] == truth.digits[row, place]
        assert tokens["<end>"] == TOKENS.index("<end>")
        assert ("answer's sign" in tokens) == bool(truth.negative[row])


@given(cases(max_digits=3, max_operands=4, max_size=6))
def test_the_roles_of_a_text_do_not_depend_on_those_beside_it(case: Case) -> None:
    notation, asked = case
    gold = notation.render(arrays(asked))
    together = roles(notation, gold)
    for row, length in enumerate(gold.lengths.tolist()):
        alone = roles(notation, gold[[row]])
        names = [[found.names[code] for code in codes] for found, codes in (
            (together, together.codes[row, :length]), (alone, alone.codes[0, :length]),
        )]  # fmt: skip
        assert names[0] == names[1]


def test_the_working_of_columns_is_named_by_column() -> None:
    (short, long) = named("column", "8+9", "658+189")
    assert short == {
        "a1": "8", "operator 1": "+", "b1": "9", "=": "=", "<think>": "<think>",
        "copied digit of number 1 in column 1": "8", "copied digit of number 2 in column 1 +": "+",
        "copied digit of number 2 in column 1": "9", "carry in column 1 =": "=",
        "total in column 1 (2)": "1", "total in column 1": "7", "</think>": "</think>",
        "answer 2": "1", "answer 1": "7", "<end>": "<end>",
    }  # fmt: skip
    assert long["carry in column 2"] == "1"
    assert long["total in column 2"] == "4"
    assert long["total in column 2 (2)"] == "1"
    assert long["total in column 3"] == "8"
    assert "total in column 3 (2)" not in long


def test_the_same_role_is_the_same_thing_in_texts_of_every_length() -> None:
    (short, long) = named("reversed", "12+34", "1234+5")
    assert short["a2"] == "1"
    assert long["a2"] == "3"
    assert set(short) - set(long) == {"b2"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("scratchpad", "98/12"), ("column", "98/12"), ("scratchpad", "2+3*4"), ("column", "12*34")],
)
def test_rows_of_longer_working_are_told_apart(name: str, text: str) -> None:
    (found,) = named(name, text)
    assert len(found) == int(get_format(name).render(arrays([ask(text)])).lengths[0])
    assert any("quotient digit" in role or "product" in role or "operation" in role for role in found)


def test_columns_of_roles() -> None:
    notation = get_format("reversed")
    gold = notation.render(arrays([ask("12+34"), ask("5+6")]))
    found = roles(notation, gold)
    columns = found.where("a2", "b1", "answer 1", "no such role")
    assert columns.tolist() == [[1, 3, 6, -1], [-1, 2, 4, -1]]
    assert np.array_equal(gold.ids[[0, 1], columns[:, 2]], [6, 1])
