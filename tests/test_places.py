"""Places: each token says which digit of the problem it is about, and goes on saying so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ALL_FORMATS,
    Case,
    Question,
    arrays,
    ask,
    batches,
    cases,
    equation_like_ids,
    format_id,
    questions,
)

from mathllm.errors import UsageError
from mathllm.formats import ALLOWED, FORMATS, Format, Walk, get_format
from mathllm.formats.follow import Coordinates, Follower
from mathllm.formats.slots import CountedFollower
from mathllm.formats.thought import Thought
from mathllm.registry import OWN
from mathllm.tasks import TASKS, Numbers, Problems, Sampling, answer_widths, get_tasks, sample
from mathllm.tasks.expressions import parse_expressions
from mathllm.tasks.numbers import Ints
from mathllm.tasks.slots import Slots, constant
from mathllm.tokenizer import END, END_THINK, EQUALS, TOKENS, Ids

ADDITION = get_tasks("addition")
WITH_PLACES = [f for f in ALL_FORMATS if "place" in f.axes(ADDITION)]
# rows of working say themselves what each token is about, and have tests of their own
BY_PLACES = [f for f in WITH_PLACES if f.name != "scratchpad"]
EVERY_FORMAT = [*ALL_FORMATS, *(f for name, f in FORMATS.items() if f not in ALL_FORMATS)]
DIGITS = set("0123456789")


def places_of(notation: Format, problems: Problems, ids: np.ndarray) -> np.ndarray:
    """The places of texts, or of their beginnings."""
    return notation.coordinates(problems, ids, ("place",))["place"]


def test_only_without_padding_or_a_thought_that_counts_places_are_unknown() -> None:
    assert [format_id(f) for f in ALL_FORMATS if f not in WITH_PLACES] == ["plain", "slots"]
    for name in ("plain", "slots"):
        with pytest.raises(
            UsageError, match=f"format '{name}' cannot tell the places of an answer"
        ) as caught:
            FORMATS[name].check_axes(("segment", "place"), ADDITION)
        assert caught.value.hint == "use --format reversed, column or pairwise, or zero-padding (--zero-pad)"
        assert caught.value.exit_code == 2


def test_each_format_has_its_axes() -> None:
    axes = {
        name: set(f.axes(get_tasks("chain" if "steps" in name or name == "filler" else "addition")))
        for name, f in FORMATS.items()
    }
    assert {name for name, known in axes.items() if "run" in known} == {"reversed", "hinted", "scratchpad"}
    assert {name for name, known in axes.items() if "place" not in known} == {"plain", "slots"}
    assert all("segment" in known for known in axes.values())
    assert "place" not in FORMATS["plain"].axes(get_tasks("chain"))
    FORMATS["reversed"].check_axes(("place", "run", "segment"), ADDITION)
    with pytest.raises(UsageError, match="position of a digit in its number is not its place") as caught:
        FORMATS["column"].check_axes(("run",), ADDITION)
    assert caught.value.hint == "use --format reversed: all numbers least significant digit first"
    with pytest.raises(UsageError, match="format 'column' does not tell the coordinate 'colour'"):
        FORMATS["column"].check_axes(("place", "colour"), ADDITION)


def table(notation: Format, text: str) -> tuple[str, str]:
    """The text with one space between tokens, and the places under them."""
    problems = arrays([ask(text)])
    ids = notation.render(problems).ids
    tokens, found = [TOKENS[i] for i in ids[0]], places_of(notation, problems, ids)[0]
    places = [str(place).ljust(len(token)) for place, token in zip(found, tokens, strict=True)]
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
            "column",
            False,
            "58*7",
            "5 8 + + 7 = <think> 8 + + 7 = 5 6 5 + + 7 + 5 = 4 0 </think> 4 0 6 <end>",
            "2 1 0 0 0 0 1       1 1 1 1 1 2 2 2 2 2 2 2 2 2 3 3 3        2 1 0 0",
        ),
        (
            "column",
            False,
            "58*0",
            "5 8 + + 0 = <think> 8 + + 0 = 0 5 + + 0 = 0 </think> 0 <end>",
            "2 1 0 0 0 0 1       1 1 1 1 1 2 2 2 2 2 2 3 1        0 0",
        ),
        (
            "column",
            False,
            "12*34",
            "1 2 + + 3 4 = <think> 2 + + 4 = 8 1 + + 4 = 4 2 + + 3 = 6 1 + + 3 = 3 "
            "8 + 0 = 8 4 + 6 = 1 0 0 + 3 + 1 = 4 </think> 4 0 8 <end>",
            "2 1 0 0 0 0 0 1       1 1 1 1 1 2 2 2 2 2 2 2 2 2 2 2 2 3 3 3 3 3 3 1 "
            "1 1 1 1 2 2 2 2 2 3 3 3 3 3 3 3 3 4 3        2 1 0 0",
        ),
        (
            "pairwise",
            False,
            "99+21",
            "9 9 + 2 1 = <think> 9 9 + 1 2 = 0 2 1 </think> 1 2 0 <end>",
            "2 1 0 2 1 0 0       1 2 0 1 2 1 2 3 4 3        2 1 0 0",
        ),
        (
            "slots",
            True,
            "9+8",
            "9 + 8 = <think> 0 0 </think> 1 7 <end>",
            "1 0 1 0 1       2 3 2        1 0 0",
        ),
        ("reversed", False, "123*4", "3 2 1 + + 4 = 2 9 4 <end>", "1 2 3 0 0 0 1 2 3 4 0"),
        ("reversed", False, "99+21", "9 9 + 1 2 = 0 2 1 <end>", "1 2 0 1 2 1 2 3 4 0"),
        ("reversed", False, "3-12", "3 - 2 1 = - 9 <end>", "1 0 1 2 1 1 2 0"),
        ("plain", True, "3-12", "0 3 - 1 2 = - 0 9 <end>", "2 1 0 2 1 2 2 1 0 0"),
        ("plain", True, "99+1", "9 9 + 0 1 = 1 0 0 <end>", "2 1 0 2 1 3 2 1 0 0"),
    ],
)
def test_worked_examples(name: str, zero_pad: bool, text: str, tokens: str, places: str) -> None:
    assert table(get_format(name, zero_pad), text) == (tokens, places)


@given(cases(BY_PLACES, max_digits=8, max_operands=12))
def test_digits_of_operands_have_their_own_places(case: Case) -> None:
    notation, asked = case
    problems = arrays(asked)
    rendered = notation.render(problems)
    places = places_of(notation, problems, rendered.ids)
    for row, question in enumerate(asked):
        expected: list[int] = []
        for k, operand in enumerate(question.operands):
            length = question.width if notation.zero_pad else len(str(abs(operand)))
            counted = range(1, length + 1)
            shown = [*(counted if notation.least_significant_first else reversed(counted))]
            shown = [place for place in shown for _ in range(1 + notation.hints)]
            if question.symbol == "*" and k:
                shown = [0] * len(shown)  # a factor counts in every column alike
            if k:
                expected += [0] * (1 + (question.symbols[k - 1] in "*/%"))  # of tokens
            expected += [0] * (operand < 0) + shown
        assert places[row, : rendered.prompt_lengths[row] - 1].tolist() == expected


@given(cases(BY_PLACES, max_digits=8, max_operands=12))
def test_the_token_before_an_answer_digit_has_its_place(case: Case) -> None:
    notation, asked = case
    # not all workings tell places
    asked = [q for q in asked if "place" in notation.axes(get_tasks(q.task), len(q.operands))] or [ask("9+9")]
    problems = arrays(asked)
    ids = notation.render(problems).ids
    parsed = notation.parse(ids)
    places = places_of(notation, problems, ids)
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
    assert announced_by_columns("-", pairs) == [len(str(abs(a - b))) for a, b in pairs]


def test_a_column_thought_announces_the_digits_of_any_product() -> None:
    numbers = [*range(1200), *(10**n + r for n in range(2, 7) for r in (-1, 0, 1)), 3333334, 1111112]
    pairs = [(number, factor) for number in numbers for factor in range(10)]
    assert announced_by_columns("*", pairs) == [len(str(a * b)) for a, b in pairs]


def announced_by_columns(symbol: str, pairs: list[tuple[int, int]]) -> list[int]:
    """Digits of the answers, as the thoughts' last tokens tell."""
    problems = arrays([Question(symbol, pair) for pair in pairs])
    ids = FORMATS["column"].render(problems).ids
    return places_of(FORMATS["column"], problems, ids)[ids == END_THINK].tolist()


@given(batches(max_digits=8, max_operands=12, symbols="+-*", factor_digits=1), st.booleans())
def test_column_steps_have_the_place_of_their_column(asked: list[Question], zero_pad: bool) -> None:
    notation = get_format("column", zero_pad)
    problems = arrays(asked)
    rendered = notation.render(problems)
    places = places_of(notation, problems, rendered.ids)
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
    problems = arrays(asked)
    rendered = notation.render(problems)
    places = places_of(notation, problems, rendered.ids)
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


def assert_stable(notation: Format, problems: Problems, ids: np.ndarray) -> None:
    """Places of a prefix are those of the whole, from the first `=` on, whatever comes next."""
    whole = places_of(notation, problems, ids)
    equals = [row.tolist().index(EQUALS) for row in ids]
    for width in range(1, ids.shape[1], 1 + ids.shape[1] // 64):
        prefix = places_of(notation, problems, ids[:, :width])
        for row, first in enumerate(equals):
            if width > first:  # before that, more digits of an operand may be to come
                assert prefix[row].tolist() == whole[row, :width].tolist()
    # and rows do not look at one another
    for row in range(len(ids)):
        alone = places_of(notation, problems[row : row + 1], ids[row : row + 1])
        assert alone.tolist() == whole[row : row + 1].tolist()


@given(cases(WITH_PLACES, max_digits=3, max_operands=4, max_size=3))
def test_places_never_change_when_a_token_is_appended(case: Case) -> None:
    notation, asked = case
    assert_stable(notation, arrays(asked), notation.render(arrays(asked)).ids)


@given(cases(WITH_PLACES, max_digits=4, max_size=3), st.data())
def test_nor_whatever_a_model_makes_up(case: Case, data: st.DataObject) -> None:
    notation, asked = case
    problems = arrays(asked)
    assert_stable(notation, problems, made_up(data, notation, problems))


def made_up(data: st.DataObject, notation: Format, problems: Problems) -> np.ndarray:
    """Texts that are true up to some point, and nonsense from there."""
    rendered = notation.render(problems)
    rows = []
    for row, prompt in enumerate(rendered.prompt_lengths):
        start = data.draw(st.integers(int(prompt), int(rendered.lengths[row])))
        rows.append(rendered.ids[row, :start].tolist() + data.draw(equation_like_ids))
    return cut_rows(rows)


@pytest.mark.parametrize("notation", WITH_PLACES, ids=format_id)
@pytest.mark.parametrize("text", ["99+1", "12-15", "100-99", "1+2+3", "58*7", "12*0"])
def test_no_token_at_all_changes_the_places_before_it(notation: Format, text: str) -> None:
    problems = arrays([ask(text)])
    if notation.refusals(problems):
        return
    rendered, many = notation.render(problems), problems[np.zeros(len(TOKENS), int)]
    for length in range(int(rendered.prompt_lengths[0]), int(rendered.lengths[0])):
        prefix = rendered.ids[:, :length]
        followed = np.hstack(
            [np.repeat(prefix, len(TOKENS), axis=0), np.arange(len(TOKENS), dtype=np.uint8)[:, None]]
        )
        before = places_of(notation, problems, prefix)
        assert (places_of(notation, many, followed)[:, :-1] == before).all()


@given(
    st.sampled_from(WITH_PLACES),
    questions(max_digits=4),
    st.lists(equation_like_ids.map(lambda ids: [1, *ids]), min_size=1, max_size=4),
)
def test_any_ids_have_places(notation: Format, question: Question, rows: list[list[int]]) -> None:
    ids, problems = cut_rows(rows), arrays([question] * len(rows))
    places = places_of(notation, problems, ids)
    assert places.shape == ids.shape
    assert places.min() >= 0
    # a place is a count of digits or steps: never more than there are tokens, or digits of the padded answer
    assert places.max() <= max(ids.shape[1], int(answer_widths(problems).max())) + 1


@given(cases(BY_PLACES, max_digits=6, max_operands=4))
def test_runs_and_segments(case: Case) -> None:
    notation, asked = case
    ids = notation.render(arrays(asked)).ids
    told = notation.coordinates(arrays(asked), ids, ("run", "segment"))
    assert set(told) == {"run", "segment"}
    for row, tokens in enumerate(ids.tolist()):
        first, run = tokens.index(EQUALS), 0
        for column, token in enumerate(tokens):
            run = (run + 1) * (token < 10)
            # a hint and its digit are at one position
            assert told["run"][row, column] == ((run + 1) // 2 if notation.hints else run)
            assert told["segment"][row, column] == (column >= first)


@st.composite
def drawn_problems(draw: st.DrawFn) -> tuple[Format, Problems]:
    """A format and problems of one or more of the tasks that it knows."""
    notation = draw(st.sampled_from(EVERY_FORMAT))
    known = [task for task in TASKS if notation.knows_task(task)]
    first = draw(st.sampled_from(known))
    others = [task for task in known if task is not first and task.meaning == first.meaning]
    tasks = (first, *draw(st.lists(st.sampled_from(others), unique=True))) if others else (first,)
    narrow = notation.name == "column" and any(task.name == "multiplication" for task in tasks)
    most = 2 if narrow else draw(st.integers(2, 4))
    how = Sampling(draw(st.integers(1, 6)), most, "digits", draw(st.booleans()), int(narrow))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return notation, sample(rng, draw(st.integers(1, 8)), tasks, how)


@given(drawn_problems(), st.booleans(), st.data())
def test_a_walk_says_the_same_token_by_token_as_of_the_whole(
    case: tuple[Format, Problems], true: bool, data: st.DataObject
) -> None:
    notation, problems = case
    ids = notation.render(problems).ids if true else made_up(data, notation, problems)
    known = notation.axes([TASKS[code] for code in np.unique(problems.task)])
    axes = data.draw(st.lists(st.sampled_from(known), unique=True))
    whole = Walk(notation, problems, axes)
    told = whole.read(ids)
    assert set(told) == set(axes)

    walk, rows = Walk(notation, problems, axes), np.arange(len(problems))
    start = data.draw(st.integers(int((ids == EQUALS).argmax(1).max()) + 1, ids.shape[1]))
    beginning = walk.read(ids[:, :start])
    for axis in axes:
        assert beginning[axis].tolist() == told[axis][:, :start].tolist()
    assert not whole.restricts or walk.choices.tolist() == whole.choices[:, :start].tolist()
    for column in range(start, ids.shape[1]):
        if data.draw(st.integers(0, 3)) == 0:
            kept = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
            walk.keep(np.array(kept))
            rows = rows[kept]
        pushed = walk.push(ids[rows, column])
        assert set(pushed) == set(axes)
        for axis in axes:
            assert pushed[axis].tolist() == told[axis][rows, column].tolist()
        if whole.restricts:
            assert (walk.allowed() == ALLOWED[whole.choices[rows, column]]).all()
        else:
            assert walk.allowed() is None
    assert whole.restricts == walk.restricts == notation.counted


@given(cases(WITH_PLACES, max_digits=4, max_operands=4, max_size=3), st.booleans(), st.data())
def test_every_query_sees_a_key_that_is_about_nothing_or_about_its_own(
    case: Case, true: bool, data: st.DataObject
) -> None:
    """It is what bounds the keys that can be left out (`Relative.reach`)."""
    notation, asked = case
    problems = arrays(asked)
    ids = notation.render(problems).ids if true else made_up(data, notation, problems)
    known = notation.axes([TASKS[code] for code in np.unique(problems.task)])
    axes = [axis for axis in known if OWN + axis in known and axis != "segment"]
    told = notation.coordinates(problems, ids, (*axes, *(OWN + axis for axis in axes)))
    for row, first in enumerate((ids == EQUALS).argmax(1)):
        # of the keys, the one at `=` or the one behind it
        for column in range(first, ids.shape[1]):
            assert any(
                all(
                    told[OWN + axis][row, key] in (0, told[axis][row, column]) or not told[axis][row, column]
                    for axis in axes
                )
                for key in range(first, min(first + 2, column + 1))
            )


@given(drawn_problems())
def test_what_is_rendered_may_follow(case: tuple[Format, Problems]) -> None:
    notation, problems = case
    rendered = notation.render(problems)
    walk = Walk(notation, problems, ())
    assert walk.read(rendered.ids) == {}
    for row, (prompt, end) in enumerate(zip(rendered.prompt_lengths, rendered.lengths, strict=True)):
        columns = np.arange(prompt, end)
        assert ALLOWED[walk.choices[row, columns - 1], rendered.ids[row, columns]].all()
        # where a thought is held to digits, nothing else is left to choose
        closing = np.flatnonzero(rendered.ids[row, :end] == END_THINK)
        if notation.counted:
            held = walk.choices[row, prompt - 1 : closing[-1]]
            assert (held > 0).all()
        assert not walk.choices[row, closing[-1] if len(closing) else 0 :].any()


class Rows(Thought):
    """A thought that tells one more coordinate: in which row a token stands."""

    axes = ("place", "row")

    def write(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        return constant(len(problems), 1, 2)

    def follow(self, problems: Problems, announced: Ints | None) -> Follower:
        return RowFollower(problems.widths + 1)


class RowFollower(CountedFollower):
    def push(self, ids: Ids) -> Coordinates:
        return {**super().push(ids), "row": self.here * ~self.answering}


@pytest.mark.parametrize("task", ["multiplication", "addition,multiplication"])
def test_a_thought_may_tell_an_axis_of_its_own_and_others_are_about_none_of_it(task: str) -> None:
    addition = FORMATS["column"].thoughts["addition"]
    format = Format("rows", "", thoughts={"addition": addition, "multiplication": Rows()})
    tasks = get_tasks(task)
    assert format.axes(tasks) == ("segment", "own_segment", "place", "row", "own_place", "own_row")
    problems = parse_expressions(["12*3", "4*5", *(["12+34"] if len(tasks) > 1 else [])])
    gold = format.render(problems)
    told = format.coordinates(problems, gold.ids, ("place", "row"))
    assert told["row"][1].tolist()[:9] == [0, 0, 0, 0, 0, 1, 2, 3, 0]  # 4 + + 5 = <think> 1 2 </think>
    assert not told["row"][2:].any()
    with pytest.raises(UsageError, match="does not tell the coordinate 'room'") as caught:
        format.check_axes(("room",), tasks)
    assert caught.value.hint == "it tells segment, place, row"
