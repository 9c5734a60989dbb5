"""Rows of working: every row is what it says, and every token stands where the working has it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import ALL, Question, arrays, ask, batches, equation_like_ids, integers_of
from workings import Text

from mathllm.errors import UsageError
from mathllm.formats import FORMATS, Walk, get_format, scratchpad
from mathllm.formats.rows import AXES, CELLS, INITIAL, RESULT
from mathllm.model.positions.coupled_bias import SEGMENTS
from mathllm.registry import OWN
from mathllm.tasks import Problems, get_tasks
from mathllm.tokenizer import END, EQUALS, TOKENS, Ids, encode

SCRATCHPAD = FORMATS["scratchpad"]
QUERIED = tuple(axis for axis in AXES if not axis.startswith(OWN))
OWN_AXES = tuple(OWN + axis for axis in QUERIED)
# nothing, all kinds of signs, one digit, long by short and short by long, multiples and what is next to them
CORNERS = (
    "0+0 7+0 0+7 5+95 99+1 1+2+3 0+0+0+0 999+1+99+9",
    "0-0 7-7 0-5 5-0 12-34 100-99 99-100 3-1000 1000-3 9000-9",
    "0*0 0*123 123*0 1*9 99*99 999999999*9 123456789*7 7*123456789 1*0*9 12*34*56 9*9*9*9*9*9",
    "0/1 0/123 5/123 9/9 99/99 98/99 100/10 99/10 101/10 123456789/1 1/123456789 144/12 143/12 145/12 999/1",
    "0%1 0%123 5%123 9%9 99%99 98%99 100%10 99%10 101%10 1000003%1000 123456789%9 1000%999",
    "2+3*4 2-3+4 2-3-4 1-8-4/2 2-2*3+6 5-9%4 0-0-0 0-1+1 1-2+3-4+5-6 7%4*2/3",
    "100-99*9+1 9/2*2%5-8 1-9+20 12*34/56 98765/43-2 5-9*87%65",
)

any_batch = batches(max_size=4, max_digits=7, max_operands=6, symbols=ALL)
few = settings(max_examples=20)


def told_of(
    problems: Problems, ids: Ids, axes: tuple[str, ...] = QUERIED + OWN_AXES
) -> dict[str, list[list[int]]]:
    return {axis: known.tolist() for axis, known in SCRATCHPAD.coordinates(problems, ids, axes).items()}


def check(asked: list[Question], whole: bool = False) -> None:
    """Is every text of these, or of whole expressions like these, the one that a person writes, and does every token
    stand where it is there?"""
    problems = as_expressions(arrays(asked)) if whole else arrays(asked)
    rendered = SCRATCHPAD.render(problems)
    told = told_of(problems, rendered.ids)
    shown = SCRATCHPAD.texts(problems, rendered.ids, rendered.lengths)
    for row, question in enumerate(asked):
        text, length = Text(question, whole), int(rendered.lengths[row])
        written = [TOKENS[i] for i in rendered.ids[row, :length]]
        assert "".join(written) == "".join(text.tokens)
        assert shown[row] == text.shown
        first = written.index("=")
        assert rendered.prompt_lengths[row] == first + 1
        for axis in QUERIED:
            own = [stand[axis] for stand in text.stands]
            assert len(own) == length + 1
            # in a prompt a token is what it is, and behind it the one that it predicts
            prompt = [*own[:first], *own[first + 1 :]]
            if axis == "cell":  # a result is copied from, but is no copy
                results = [stand["segment"] == RESULT for stand in text.stands]
                del results[first]
                prompt = [0 if result else at for at, result in zip(prompt, results, strict=True)]
            if axis == "block":  # what is above the first digit brought down is left in the block before that
                own = [
                    stand[axis] - (stand["place"] - 1 if stand["segment"] == INITIAL else 0)
                    for stand in text.stands
                ]
            assert told[axis][row][:length] == prompt, axis
            assert told[OWN + axis][row][:length] == own[:length], axis
            assert not any(told[axis][row][length:])
    parsed = SCRATCHPAD.parse(rendered.ids)
    assert integers_of(parsed.answer) == [question.answer for question in asked]
    assert parsed.well_formed.all()
    assert parsed.ended.all()


def as_expressions(problems: Problems) -> Problems:
    """The same as problems of arithmetic, which knows all operators."""
    (task,) = get_tasks("arithmetic")
    return replace(problems, task=np.full_like(problems.task, task.code))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("texts", CORNERS)
def test_corners(texts: str, whole: bool) -> None:
    check([ask(text) for text in texts.split()], whole)


@given(any_batch, st.booleans())
def test_every_row_is_what_it_says_and_every_token_stands_where_it_is(
    asked: list[Question], whole: bool
) -> None:
    # whole expressions have no numbers below zero
    assume(not whole or all(min(question.operands) >= 0 for question in asked))
    check(asked, whole)


@few
@given(st.tuples(*[st.integers(0, 10**40 - 1)] * 2), st.integers(0, 40), st.sampled_from("+-*/%"))
def test_long_numbers(pair: tuple[int, int], cut: int, symbol: str) -> None:
    left, right = pair[0] // 10**cut, pair[1] // 10 ** (40 - cut)
    check([Question(symbol, (left, max(right, 1))), Question(symbol, (right, max(left, 1)))])


# as in the table at the top of the format, where the two longest are cut short
LONG = "890 -=680+1 -=470+2 -=260+3 -=050+4 -=830+5 -=620+6 -=410+7 -="
EXAMPLES = {
    "12+34+56": "21+43+65=<think>+=64</think>201",
    "1+2+30+9": "1+2+03+9=<think>+=3 +=33</think>24",
    "34-12": "43-21=<think>-=22+ =22</think>22",
    "12-34": "21-43=<think>-=87- =22 =22</think>-22",
    "12*34": "21*43=<think>*4=840 +=840 *3=630 +=040</think>804",
    "98/12": f"89/21=<think>9+8={LONG}200+8 -=099-8</think>8",
    "98%12": f"89%21=<think>9+8={LONG}200+8 -=099-8 =-2</think>2",
    "2+3*4": "2+3*4=<think>3*4=<think>*4=21 +=21</think>21</think><think>2+21=<think></think>41</think>41",
    "1-3+5": "1-3+5=<think>1-3=<think>-=8- =2 =2</think>-2</think><think>-2+5=<think>-=3+ =3</think>3</think>3",
    "1-3-5": "1-3-5=<think>1-3=<think>-=8- =2 =2</think>-2</think><think>-2-5=<think></think>-7</think>-7",
    "5/12": "5/21=<think>0+5=500 -=399-0</think>0",
    "23/5": "32/5=<think>+2=20 -=79-0 +3=32 -=81+1 -=31+2 -=80+3 -=30+4 -=89-4</think>4",
}


@pytest.mark.parametrize(("problem", "text"), EXAMPLES.items())
def test_worked_examples(problem: str, text: str) -> None:
    problems = arrays([ask(problem)])
    assert SCRATCHPAD.texts(problems, SCRATCHPAD.render(problems).ids) == [text + "<end>"]


def test_the_table_of_the_format_is_true() -> None:
    told = " ".join((scratchpad.__doc__ or "").split())
    for problem in ("12+34+56", "34-12", "12-34", "12*34", "98/12"):
        text = EXAMPLES[problem].replace(LONG, "890-=680+1~...~-=").replace(" ", "").replace("~", " ")
        assert f"| {problem} | `{text}`" in told
    assert "| 98%12 | the same, and what is left, from the top, without the zeros there: `=-2` |" in told
    assert EXAMPLES["98%12"] == EXAMPLES["98/12"].replace("/", "%", 1).replace("</think>8", " =-2</think>2")
    assert f"`{EXAMPLES['2+3*4'].replace(' ', '')}`" in told


def of_tasks(asked: list[Question], whole: bool) -> tuple[Problems, Ids]:
    """Problems of all tasks, every other one as an expression where asked for, and their texts."""
    problems = arrays(asked)
    if whole:
        task = np.where(np.arange(len(asked)) % 2, problems.task, as_expressions(problems).task)
        problems = replace(problems, task=task.astype(np.uint8))
    return problems, SCRATCHPAD.render(problems).ids


@st.composite
def texts(draw: st.DrawFn, damaged: bool | None = None) -> tuple[Problems, Ids]:
    """Problems of several tasks with their texts, or with texts that are true up to some point, and damaged there."""
    problems, ids = of_tasks(
        draw(batches(max_size=3, max_digits=4, max_operands=4, symbols=ALL)), draw(st.booleans())
    )
    if damaged is False or (damaged is None and draw(st.booleans())):
        return problems, ids
    found = []
    for row in ids.tolist():
        start = draw(st.integers(row.index(EQUALS) + 1, len(row)))
        stop = draw(st.integers(start, len(row))) if draw(st.booleans()) else len(row)
        # the tokens that the working itself has there are the most likely to be followed
        other = draw(
            st.one_of(equation_like_ids, st.just(row[stop:]), st.permutations(row[start : start + 12]))
        )
        found.append(row[:start] + other + row[stop:])
    width = max(map(len, found))
    return problems, np.array([row + [END] * (width - len(row)) for row in found], np.uint8)


@given(texts(), st.data())
def test_token_by_token_a_walk_says_what_it_says_of_the_whole(
    case: tuple[Problems, Ids], data: st.DataObject
) -> None:
    problems, ids = case
    axes = QUERIED + OWN_AXES
    told = Walk(SCRATCHPAD, problems, axes).read(ids)
    start = data.draw(st.integers(int((ids == EQUALS).argmax(1).max()) + 1, ids.shape[1]))
    walk, kept = Walk(SCRATCHPAD, problems, axes), np.arange(len(problems))
    beginning = walk.read(ids[:, :start])
    pushed = [{axis: known[:, column] for axis, known in beginning.items()} for column in range(start)]
    stops = data.draw(st.lists(st.integers(start, ids.shape[1]), max_size=2))
    for column in range(start, ids.shape[1]):
        if column in stops:
            rows_left = data.draw(st.lists(st.sampled_from(range(len(kept))), min_size=1, unique=True))
            walk.keep(np.array(rows_left))
            kept = kept[rows_left]
        pushed.append(walk.push(ids[kept, column]))
        assert walk.allowed() is None
        for axis in axes:
            assert pushed[column][axis].tolist() == told[axis][kept, column].tolist(), axis
    # so what has been told never changes; and of what a beginning tells nothing depends on what comes
    for axis in axes:
        assert (beginning[axis] == told[axis][:, :start]).all(), axis
    # a row does not look at its neighbours
    for row in range(len(problems)):
        alone = told_of(problems[row : row + 1], ids[row : row + 1])
        assert alone == {axis: told[axis][row : row + 1].tolist() for axis in axes}


@given(texts(damaged=True))
def test_whatever_a_model_writes_is_about_something_that_there_is(case: tuple[Problems, Ids]) -> None:
    problems, ids = case
    told = SCRATCHPAD.coordinates(problems, ids, QUERIED + OWN_AXES)
    length, most = ids.shape[1], 2 * problems.operands.shape[1]
    for axis, known in told.items():
        highest = {"segment": SEGMENTS - 1, "step": most, "cell": most * CELLS}.get(
            axis.removeprefix(OWN), 2 * length
        )
        assert known.min() >= 0, axis
        assert known.max() <= highest, axis
    # a token is what the one before it is about
    behind = np.cumsum(ids == EQUALS, 1)[:, :-1] > 0
    for axis in QUERIED:
        special = {"cell": RESULT, "block": INITIAL}.get(axis, -1)
        copies = told["segment"][:, :-1] != special
        assert (told[OWN + axis][:, 1:] == told[axis][:, :-1])[behind & copies].all(), axis
    parsed = SCRATCHPAD.parse(ids)
    assert len(parsed.answer) == len(problems)
    # where rows begin does not depend on what comes, either
    starts = SCRATCHPAD.step_starts(problems, ids)
    assert starts is not None
    assert (SCRATCHPAD.step_starts(problems, ids[:, : length // 2]) == starts[:, : length // 2]).all()


@given(texts(), st.integers(0, 10**6))
def test_only_what_a_text_shows_counts(case: tuple[Problems, Ids], seed: int) -> None:
    problems, ids = case
    told = told_of(problems, ids)
    rng = np.random.default_rng(seed)
    # another problem with as many digits has another truth, and the same text stands as it did
    digits = rng.integers(1, 10, problems.operands.shape, dtype=np.uint8)
    digits *= np.arange(digits.shape[2]) < problems.lengths[..., None]
    assert told_of(replace(problems, operands=digits), ids) == told
    # and wrong digits are at the places of the true ones
    wrong = np.where(ids < 10, rng.integers(0, 10, ids.shape, dtype=np.uint8), ids)
    assert told_of(problems, wrong) == told


@pytest.mark.parametrize(
    ("problem", "tokens", "places", "rows_told"),
    [
        (  # rows that end one place too soon
            "12*34",
            "2 1 + + 4 3 = <think> + + 4 = 8 4 + = 8 4 + + 3 = 6 3 + = 0 4 </think> 8 0 4 <end>",
            "1 2 3 0 0 0 0 1       0 0 0 1 2 3 0 1 2 3 0 0 0 1 2 3 0 1 2 3 1        1 2 3 0",
            "0 0 0 0 1 2 0 0       1 1 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 2 2 1        2 2 2 0",
        ),
        (  # a digit too many brought down, of a block that there is not, and too much left
            "9%4",
            "9 - + 4 = <think> + 9 = 9 0 - = 5 0 - 0 + 1 = 1 0 - = 6 0 - 1 = - - 5 </think> 1 <end>",
            "0 0 0 1 0 1       0 0 1 2 3 0 1 2 3 0 0 0 0 1 2 3 0 1 2 3 0 0 1 0 0 0 1        2 0",
            "0 0 0 0 0 1       3 3 3 3 3 4 4 4 4 4 4 5 5 5 5 5 6 6 6 6 6 6 7 7 7 7 8        8 0",
        ),
        (  # a borrow that there is not
            "34-12",
            "4 3 - 2 1 = <think> - = 2 2 - = 8 7 = 8 7 </think> - 8 7 <end>",
            "1 2 3 1 2 0 0       0 1 2 3 0 1 2 3 2 1 0 1        1 2 3 0",
            "1 1 1 2 2 0 1       2 2 2 2 2 3 3 3 4 4 4 5        5 5 5 0",
        ),
    ],
)
def test_a_wrong_text_is_followed_as_it_stands(
    problem: str, tokens: str, places: str, rows_told: str
) -> None:
    told = told_of(arrays([ask(problem)]), encode(tokens)[None])
    assert told["place"] == [[int(place) for place in places.split()]]
    assert told["row"] == [[int(row) for row in rows_told.split()]]


def test_numbers_are_not_padded() -> None:
    padded = get_format("scratchpad", zero_pad=True)
    for name in ("addition", "subtraction", "multiplication", "division", "remainder", "arithmetic"):
        (task,) = get_tasks(name)
        assert SCRATCHPAD.knows_task(task)
        assert not padded.knows_task(task)
        with pytest.raises(UsageError, match="pads no numbers") as caught:
            padded.check_task(task)
        assert caught.value.hint == "leave out --zero-pad"
    with pytest.raises(UsageError, match="format 'scratchpad' has no thought for task 'chain'"):
        SCRATCHPAD.check_task(*get_tasks("chain"))


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        (
            "12*34",
            {
                "*4=": "multiplier's digit in row 1",
                "840": "partial product in row 1 at digit",
                "+=": "sum so far in row 1",
                "*3=": "multiplier's digit in row 2",
            },
        ),
        (
            "203/2",
            {
                "-=00+1": "for quotient digit 3 from the right",
                "-=99-1": "for quotient digit 1 from the right",
            },
        ),
        ("2+3*4", {"3*4=": "operation of operation 1"}),
    ],
)
def test_parts_have_names(expression: str, named: dict[str, str]) -> None:
    """Of a mistake, what it is a part of and where that is."""
    gold = SCRATCHPAD.render(arrays([ask(expression)]))
    tokens = [TOKENS[i] for i in gold.ids[0, : gold.lengths[0]]]
    columns = np.arange(gold.prompt_lengths[0] + 1, gold.lengths[0] - 1)
    found = [" ".join(SCRATCHPAD.parts(gold, np.array([column]))[0]).strip() for column in columns.tolist()]
    spelled = "".join(tokens).replace("*", "++")
    for row, name in named.items():
        unfolded = row.replace("*", "++")
        start = spelled.index(unfolded, spelled.index("<think>"))
        # tokens before it: those of several characters are the thinking ones alone
        at = len(re.findall(r"</?think>|.", spelled[:start])) - int(columns[0])
        count = len(unfolded)
        assert any(name in part for part in found[at : at + count]), (row, found[at : at + count])
        if row.startswith("*"):  # but for what ends the row before it
            assert all(part == name for part in found[at + 1 : at + count]), found[at : at + count]
