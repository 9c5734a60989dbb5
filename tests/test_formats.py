"""Notations: what is written is true, says exactly one problem, and reads back as what it says."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ALL_FORMATS,
    SYMBOLS,
    Case,
    Question,
    arrays,
    as_typed,
    ask,
    batches,
    cases,
    equation_like_ids,
    format_id,
    integers_of,
    joined,
    questions_of,
)

from mathllm.errors import UsageError
from mathllm.formats import FORMATS, Format, Parsed, Rendered, formats_for, get_format
from mathllm.tasks import Problems, Sampling, answer_widths, get_tasks
from mathllm.tokenizer import END, END_THINK, EQUALS, THINK, decode, decode_rows, encode

every_format = pytest.mark.parametrize("notation", ALL_FORMATS, ids=format_id)
any_format = st.sampled_from(ALL_FORMATS)
COLUMN, PAIRWISE = FORMATS["column"], FORMATS["pairwise"]
THOUGHTFUL = [f for f in ALL_FORMATS if f.thinks]


def texts_of(notation: Format, problems: Problems) -> list[str]:
    """What the notation makes of problems, with spaces between the steps."""
    rendered = notation.render(problems)
    return notation.texts(problems, rendered.ids, rendered.lengths)


def write(notation: Format, text: str) -> str:
    """What the notation makes of `12+34`."""
    return texts_of(notation, arrays([ask(text)]))[0]


def written(number: int, notation: Format, width: int = 1, backwards: bool | None = None) -> str:
    """A number as the notation writes it, made of Python's own digits; padded to the width where it pads."""
    digits = str(abs(number)).zfill(width if notation.zero_pad else 1)
    if notation.least_significant_first if backwards is None else backwards:
        digits = digits[::-1]
    if notation.hints:
        digits = "".join(f"{place % 10}{digit}" for place, digit in enumerate(digits, 1))
    return "-" * (number < 0) + digits


def answer_width(question: Question) -> int:
    """Digits that a padded answer has: as many as the largest of that shape."""
    if question.symbol == "*":
        return sum(len(str(abs(operand))) for operand in question.operands)
    if question.symbol in ("/", "%") or question.task == "arithmetic":
        return int(answer_widths(arrays([question]))[0])  # which has a test of its own
    nines = 10**question.width - 1
    return len(str(nines * len(question.operands) if question.symbol == "+" else nines))


def prompt_of(question: Question, notation: Format) -> str:
    numbers = [written(n, notation, question.width) for n in question.operands]
    rest = zip(question.symbols, numbers[1:], strict=True)
    return numbers[0] + "".join(f"{symbol}{number}" for symbol, number in rest) + "="


def answer_of(question: Question, notation: Format) -> str:
    return written(question.answer, notation, answer_width(question))


EXAMPLES = {
    ("column", False): [
        "658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>",
        "99+1=<think>9+1=10 9+0+1=10</think>100<end>",
        "100-99=<think>0-9=-9 0-9-1=-10 1-0-1=0</think>1<end>",
        "3-12=<think>2-3=-1 1-0-1=0</think>-9<end>",
        "52-19=<think>2-9=-7 5-1-1=3</think>33<end>",
        "5+7+9=<think>5+7+9=21</think>21<end>",
        "99+9+5=<think>9+9+5=23 9+0+0+2=11</think>113<end>",
        "7-7=<think>7-7=0</think>0<end>",
        "58*7=<think>8*7=56 5*7+5=40</think>406<end>",
        "99*9=<think>9*9=81 9*9+8=89</think>891<end>",
        "12*3=<think>2*3=6 1*3=3</think>36<end>",
        "12*0=<think>2*0=0 1*0=0</think>0<end>",
        "0*7=<think>0*7=0</think>0<end>",
        "5*8=<think>5*8=40</think>40<end>",
        "123*45=<think>3*5=15 2*5+1=11 1*5+1=6 3*4=12 2*4+1=9 1*4=4 5+0=5 1+2=3 6+9=15 0+4+1=5</think>5535<end>",
        "40*20=<think>0*0=0 4*0=0 0*2=0 4*2=8 0+0=0 0+0=0 0+8=8</think>800<end>",
        "0*45=<think>0*5=0 0*4=0 0+0=0</think>0<end>",
        "98/12=<think>98/12=8 2*8=16 1*8+1=9 8-6=2 9-9=0</think>8<end>",
        "203/2=<think>2/2=1 2*1=2 2-2=0 0/2=0 3/2=1 2*1=2 3-2=1</think>101<end>",
        "7/12=<think>7/12=0</think>0<end>",
        "98%12=<think>98/12=8 2*8=16 1*8+1=9 8-6=2 9-9=0</think>2<end>",
        "100%99=<think>100/99=1 9*1=9 9*1=9 0-9=-9 0-9-1=-10 1-0-1=0</think>1<end>",
        "7%12=<think>7/12=0</think>7<end>",
    ],
    ("column", True): [
        "99+01=<think>9+1=10 9+0+1=10</think>100<end>",
        "12+03=<think>2+3=5 1+0=1</think>015<end>",
        "100-099=<think>0-9=-9 0-9-1=-10 1-0-1=0</think>001<end>",
        "58*07=<think>8*7=56 5*7+5=40</think>406<end>",
        "12*00=<think>2*0=0 1*0=0</think>000<end>",
        "12*34=<think>2*4=8 1*4=4 2*3=6 1*3=3 8+0=8 4+6=10 0+3+1=4</think>0408<end>",
        "98/07=<think>9/7=1 7*1=7 9-7=2 28/7=4 7*4=28 8-8=0 2-2=0</think>14<end>",
    ],
    ("pairwise", False): [
        "99+21=<think>99+12=021</think>120<end>",
        "99+21+5=<think>99+12=021</think><think>021+5=521</think>125<end>",
        "100-99=<think>001-99=1</think>1<end>",
        "3-12=<think>3-21=-9</think>-9<end>",
    ],
    ("pairwise", True): [
        "99+05=<think>99+50=401</think>104<end>",
        "99+21+05=<think>99+12=021</think><think>021+50=521</think>125<end>",
        "03-12=<think>30-21=-90</think>-09<end>",
    ],
    ("reversed", False): ["99+12=021<end>", "001-99=1<end>", "3-21=-9<end>", "5+7+9=12<end>"],
    ("reversed", True): ["99+50=401<end>", "001-990=100<end>", "30-21=-90<end>"],
    ("hinted", False): ["1929+1122=102231<end>", "102031-1929=11<end>", "13-1221=-19<end>"],
    ("hinted", True): ["1929+1520=142031<end>"],
    ("plain", False): ["3+5=8<end>", "99+1=100<end>", "100-99=1<end>", "3-12=-9<end>", "1+2+3=6<end>"],
    ("plain", True): ["3+5=08<end>", "99+01=100<end>", "100-099=001<end>", "03-12=-09<end>"],
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in EXAMPLES.items() for text in texts])
def test_worked_examples(key: tuple[str, bool], text: str) -> None:
    notation = get_format(*key)
    prompt = text[: text.index("=")]
    symbol = next(symbol for symbol in SYMBOLS if symbol in prompt)
    backwards = -1 if notation.least_significant_first else 1
    question = Question(
        symbol, tuple(int(n[1::2][::-1] if notation.hints else n[::backwards]) for n in prompt.split(symbol))
    )
    assert write(notation, question.text) == text
    parsed = notation.parse(encode(text)[None])
    assert integers_of(parsed.answer) == [question.answer]
    assert (parsed.well_formed & parsed.ended).all()


@given(cases(max_digits=10, max_operands=12))
def test_what_is_rendered_is_the_problem_and_its_answer(case: Case) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    assert rendered.ids.dtype == np.uint8
    assert rendered.ids.max() < 16
    assert rendered.ids.shape == (len(asked), rendered.lengths.max())
    for question, text in zip(asked, decode_rows(rendered.ids, rendered.lengths), strict=True):
        prompt, answer = prompt_of(question, notation), answer_of(question, notation)
        assert text.startswith(prompt)
        if not notation.thinks:
            assert text == prompt + answer + "<end>"
        else:
            assert text.startswith(prompt + "<think>")
            assert text.endswith(f"</think>{answer}<end>")


@given(cases(max_digits=10, max_operands=12), st.integers(0, 3))
def test_what_is_rendered_reads_back(case: Case, padding: int) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    ids = np.pad(rendered.ids, ((0, 0), (0, padding)), constant_values=END)
    parsed = notation.parse(ids)
    assert integers_of(parsed.answer) == [q.answer for q in asked]
    assert parsed.well_formed.all()
    assert parsed.ended.all()
    for row, question in enumerate(asked):
        text = [decode(ids[row, a:b]) for a, b in spans(parsed, row)]
        assert text[1] == answer_of(question, notation)
        if not notation.thinks:
            assert text[0] == ""
        else:
            assert re.fullmatch("<think>.*</think>", text[0])
        whole = decode(rendered.ids[row, : rendered.lengths[row]])
        assert whole == prompt_of(question, notation) + "".join(text) + "<end>"


def spans(parsed: Parsed, row: int) -> list[tuple[int, int]]:
    """Where the thought and the answer of a row stand."""
    return [
        (int(parsed.thought_start[row]), int(parsed.thought_end[row])),
        (int(parsed.answer_start[row]), int(parsed.answer_end[row])),
    ]


@given(cases(max_digits=8))
def test_loss_is_on_what_follows_the_first_equals_sign(case: Case) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    for row, text in enumerate(decode_rows(rendered.ids, rendered.lengths)):
        prompt, equals, rest = text.partition("=")
        prompt, completion = encode(prompt + equals), encode(rest)
        mask = rendered.loss_mask[row]
        assert completion[-1] == END
        assert rendered.prompt_lengths[row] == len(prompt)
        assert rendered.lengths[row] == len(prompt) + len(completion)
        assert rendered.ids[row][mask].tolist() == completion.tolist()
        assert not mask[: len(prompt)].any()
        assert mask.sum() == len(completion)
        # what is left over is padding
        assert (rendered.ids[row, rendered.lengths[row] :] == END).all()


@given(batches(max_digits=10, max_operands=13, symbols="+-*", factor_digits=1), st.booleans())
def test_every_column_step_is_true_and_follows_from_the_ones_before(
    asked: list[Question], zero_pad: bool
) -> None:
    notation = get_format("column", zero_pad)
    for question, text in zip(asked, texts_of(notation, arrays(asked)), strict=True):
        thought = re.search("<think>(.*)</think>", text)
        assert thought
        steps = thought[1].split(" ")
        assert len(steps) == question.width
        # subtraction works on the larger number, whatever the sign
        numbers = sorted(question.operands, reverse=True) if question.symbol == "-" else question.operands
        handed_on = 0
        answer = 0
        for place, step in enumerate(steps):
            left, result = step.split("=")
            column = [number // 10**place % 10 for number in numbers]
            if question.symbol == "*":
                digit, factor = abs(numbers[0]) // 10**place % 10, abs(numbers[1])
                total = digit * factor + handed_on
                column = [f"{digit}*{factor}"]
            column += [handed_on] * (handed_on > 0)  # no carry is not written
            assert left == ("-" if question.symbol == "-" else "+").join(map(str, column))
            if question.symbol == "*":
                handed_on = total // 10
            elif question.symbol == "+":
                total = sum(column)
                handed_on = total // 10
            else:
                total = column[0] - sum(column[1:])
                handed_on = int(total < 0)
            assert int(result) == total
            assert result == str(total)
            answer += total % 10 * 10**place
        answer += handed_on * 10**question.width
        assert answer == abs(question.answer)


by_one_digit = batches(max_digits=10, symbols="*", factor_digits=1)


@given(by_one_digit, st.booleans())
def test_a_column_of_products_announces_the_digits_of_the_answer(
    asked: list[Question], zero_pad: bool
) -> None:
    asked = [*asked, *(Question("*", (asked[0].operands[0], factor)) for factor in (0, 1, 9))]
    notation, problems = get_format("column", zero_pad), arrays(asked)
    rendered = notation.render(problems)
    places = notation.coordinates(problems, rendered.ids, ("place",))["place"]
    for row, question in enumerate(asked):
        closing = rendered.ids[row].tolist().index(END_THINK)
        digits = answer_width(question) if zero_pad else len(str(abs(question.answer)))
        sign = [digits] * (question.answer < 0)
        behind = [0] * (rendered.ids.shape[1] - closing - len(sign) - digits - 1)
        assert places[row, closing:].tolist() == [*sign, *range(digits, -1, -1), *behind]


@given(batches(max_digits=10, max_operands=13), st.booleans())
def test_every_pairwise_equation_is_true_when_turned_round(asked: list[Question], zero_pad: bool) -> None:
    notation = get_format("pairwise", zero_pad)
    for question, text in zip(asked, decode_rows(notation.render(arrays(asked)).ids), strict=True):
        thoughts = re.findall("<think>(.*?)</think>", text)
        assert len(thoughts) == len(question.operands) - 1
        so_far = question.operands[0]
        for step, (thought, operand) in enumerate(zip(thoughts, question.operands[1:], strict=True)):
            match = re.fullmatch(r"(\d+)([+-])(\d+)=(-?)(\d+)", thought)
            assert match
            left, symbol, right, sign, result = match.groups()
            assert symbol == question.symbol
            assert (int(left[::-1]), int(right[::-1])) == (so_far, operand)
            so_far = so_far + operand if symbol == "+" else so_far - operand
            assert int(sign + result[::-1]) == so_far
            padded = answer_width(question) if zero_pad else 1
            assert len(result) == max(len(str(abs(so_far))), padded)
            assert len(right) == (question.width if zero_pad else len(str(operand)))
            if step == 0:
                assert len(left) == (question.width if zero_pad else len(str(question.operands[0])))
        assert so_far == question.answer


@given(cases(max_digits=3, max_operands=4, max_size=20))
def test_no_two_problems_are_written_alike(case: Case) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    for lengths in (rendered.prompt_lengths, rendered.lengths):
        assert len(set(decode_rows(rendered.ids, lengths))) == len(set(asked))


@every_format
def test_no_two_small_problems_are_written_alike(notation: Format) -> None:
    numbers = [0, 1, 2, 9, 10, 11, 19, 20, 90, 99, 100, 101]
    asked = [Question(symbol, pair) for symbol in "+-" for pair in product(numbers, repeat=2)]
    asked += [Question("+", three) for three in product([0, 1, 10], repeat=3)]
    if notation.knows_task(*get_tasks("multiplication")):
        asked += [Question("*", pair) for pair in product(numbers, range(10))]
    rendered = notation.render(arrays(asked))
    prompts = decode_rows(rendered.ids, rendered.prompt_lengths)
    assert len(set(prompts)) == len(asked)
    # and each says its problem to anybody who knows the order of the digits
    backwards = -1 if notation.least_significant_first else 1
    for question, prompt in zip(asked, prompts, strict=True):
        symbol = question.symbol
        bare = [n[1::2] if notation.hints else n for n in prompt.removesuffix("=").split(symbol)]
        read = tuple(int(number[::backwards]) for number in bare)
        assert Question(symbol, read) == question


@given(cases(max_digits=8))
def test_prompts_are_where_texts_begin(case: Case) -> None:
    notation, asked = case
    problems = arrays(asked)
    rendered = notation.render(problems)
    lengths = notation.prompt_lengths(problems)
    assert (lengths == rendered.prompt_lengths).all()
    for row, n in enumerate(lengths):
        assert (rendered.ids[row, :n] == EQUALS).tolist() == [False] * (n - 1) + [True]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        ("658+189", "658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>"),
        ("658+189", "8+9=17 5+8+1=14"),
        ("100-90", "0-9=-10 0-9-1=-10"),
        ("100-99", "100-99=<think>0-9=-9 0-9-1=-10 1-0-1=0</think>1<end>"),
        ("99+9", "99+9=<think>9+9+9+9+9+9+9+9+9+9+9+9=108 9+0"),
        ("58*7", "58*7=<think>8*7=56 5*7+5=40</think>406<end>"),
        ("58*7", "<think>8*7=56 5*7"),
        ("9-8", "9-8=1 0-9"),
        ("1+2", "=1+2"),
        ("1-2", "=-1-2"),
        ("12+34", "12+34=46<end>"),
        ("1+2", "1234+567"),
        ("1+2", "-12+34"),
        ("1+2", "=<end>"),
        ("1+2", ""),
    ],
)
def test_one_space_stands_between_the_steps_of_a_column(problem: str, text: str) -> None:
    ids = encode(text)[None]
    assert COLUMN.texts(arrays([ask(problem)]), ids) == [text]
    starts = COLUMN.step_starts(arrays([ask(problem)]), ids)
    assert starts is not None
    assert starts.sum() == text.count(" ")


@given(st.sampled_from("+-*"), st.lists(equation_like_ids, min_size=1, max_size=4), st.data())
def test_spaces_stand_where_a_step_begins_and_nowhere_else(
    symbol: str, rows: list[list[int]], data: st.DataObject
) -> None:
    problems = arrays([Question(symbol, (12, 3))] * len(rows))
    ids = np.full((len(rows), max(map(len, rows))), END, np.uint8)
    for row, written_ids in enumerate(rows):
        ids[row, : len(written_ids)] = written_ids
    lengths = np.array(list(map(len, rows)))
    # between `=` and an operator, the last digit of a number is the next step's first operand
    expected = [as_typed(re.sub(r"(=-?\d+)(\d)(?=[+-])", r"\1 \2", joined(row))) for row in rows]
    assert COLUMN.texts(problems, ids, lengths) == expected
    # no other format has steps that no token separates
    for notation in ALL_FORMATS:
        if notation.name not in ("column", "scratchpad") and notation.knows_task(*get_tasks(SYMBOLS[symbol])):
            assert notation.step_starts(problems, ids) is None
            assert notation.texts(problems, ids, lengths) == decode_rows(ids, lengths)


@given(cases(max_digits=8))
def test_texts_of_several_tasks_are_those_of_each(case: Case) -> None:
    notation, asked = case
    together = texts_of(notation, arrays(asked))
    assert together == [text for question in asked for text in texts_of(notation, arrays([question]))]
    assert [text.replace(" ", "") for text in together] == [
        decode(row) for row in map(remove_padding, notation.render(arrays(asked)).ids.tolist())
    ]


def remove_padding(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1]


def test_renderings_can_be_picked_row_by_row() -> None:
    problems = arrays([ask("1+2"), ask("58*7"), ask("3-12")])
    rendered = COLUMN.render(problems)
    picked = rendered[np.array([2, 1])]
    assert questions_of(picked.problems) == [ask("3-12"), ask("58*7")]
    assert [row_of(picked, row) for row in (0, 1)] == [row_of(rendered, row) for row in (2, 1)]
    assert (picked.loss_mask == rendered.loss_mask[[2, 1]]).all()


def row_of(rendered: Rendered, row: int) -> tuple[list[int], int]:
    return rendered.ids[row, : rendered.lengths[row]].tolist(), int(rendered.prompt_lengths[row])


@given(cases(max_digits=8, max_operands=12), st.integers(0, 2), st.integers(0, 3))
def test_a_batch_is_rendered_like_one_at_a_time(case: Case, more_operands: int, more_digits: int) -> None:
    notation, asked = case
    together = notation.render(arrays(asked, more_operands, more_digits))
    assert len(together) == len(asked)
    for row, question in enumerate(asked):
        assert row_of(together, row) == row_of(notation.render(arrays([question])), 0)


@given(cases(max_digits=8))
def test_texts_are_encoded_to_the_same_ids_again(case: Case) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    for row, text in enumerate(decode_rows(rendered.ids, rendered.lengths)):
        assert encode(text).tolist() == row_of(rendered, row)[0]


def is_drawn(symbol: str, pair: tuple[int, int], signed: bool) -> bool:
    """Do such problems come up when they are drawn?"""
    return {"+": True, "-": signed or pair[0] >= pair[1], "*": True}[symbol]


@every_format
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "tasks",
    ["addition", "subtraction", "addition,subtraction", "multiplication", "subtraction,multiplication"],
)
def test_the_longest_text_is_as_long_as_announced(notation: Format, tasks: str, signed: bool) -> None:
    if not all(map(notation.knows_task, get_tasks(tasks))):
        with pytest.raises(UsageError, match="no thought for task 'multiplication'"):
            notation.longest(get_tasks(tasks), Sampling(2, 2, signed=signed))
        return
    # two operands of the lowest and highest digits, and more of fewer kinds
    symbols = [symbol for symbol, name in SYMBOLS.items() if name in tasks]
    pairs = list(product([*range(10), 10, 11, 18, 19, 20, 80, 89, 90, 91, 98, 99], repeat=2))
    asked = [Question(s, p) for s in symbols for p in pairs if is_drawn(s, p, signed)]
    signs = product((1, -1) if signed and "*" in symbols else (1,), repeat=2)
    asked += [Question("*", (a * i, b * j)) for i, j in signs for a, b in pairs if "*" in symbols]
    several = [s for s in symbols if s in "+*"]
    more = [Question(s, p) for s in several for n in (3, 4) for p in product((0, 9, 10, 99), repeat=n)]
    more += [Question("*", tuple(-n for n in q.operands)) for q in more if q.symbol == "*" and signed]
    wide = (0, 1, 9, 10, 99, 100, 189, 190, 199, 899, 900, 901, 999)
    more += [Question(s, p) for s in symbols for p in product(wide, repeat=2) if is_drawn(s, p, signed)]
    more += [Question("*", (-a, b)) for a, b in product(wide, repeat=2) if "*" in symbols and signed]
    second = int(notation.name == "column")
    for max_digits, max_operands in ((1, 2), (2, 2), (3, 2), (2, 3), (2, 4)):
        size = Sampling(
            max_digits, min(max_operands, 2) if second else max_operands, "digits", signed, second
        )
        fitting = [q for q in asked + more if q.width <= max_digits and len(q.operands) <= size.max_operands]
        fitting = [q for q in fitting if not second or q.symbol != "*" or max(map(abs, q.operands[1:])) < 10]
        lengths = notation.render(arrays(fitting)).lengths
        assert notation.longest(get_tasks(tasks), size) == lengths.max()


@given(cases(max_digits=12, max_operands=13))
def test_no_text_is_longer_than_the_longest(case: Case) -> None:
    notation, asked = case
    max_digits = max(q.width for q in asked)
    max_operands = max(len(q.operands) for q in asked)
    tasks = get_tasks(list({q.task for q in asked}))
    signed = any(q.answer < 0 for q in asked)
    assert notation.render(arrays(asked)).lengths.max() <= notation.longest(
        tasks, Sampling(max_digits, max_operands, "digits", signed)
    )


def same_rows(batch: Parsed, row: int, alone: Parsed) -> bool:
    """Does a row say the same in a batch and alone?"""
    fields = ("well_formed", "ended", "thought_start", "thought_end", "answer_start", "answer_end")
    same = all(getattr(batch, name)[row] == getattr(alone, name)[0] for name in fields)
    return same and integers_of(batch.answer)[row] == integers_of(alone.answer)[0]


def expected_of(notation: Format, ids: list[int]) -> tuple[bool, bool, int | None]:
    """Well formed, ended and the answer, read from the text with regular expressions."""
    text = joined(ids)
    before, end, _ = text.partition("<end>")
    thought = "<think>.*</think>" if notation.thinks else ""
    match = re.fullmatch(rf"[^=]*={thought}(-?)(\d+)", before)
    value = None
    if match:
        digits = match[2]
        if notation.hints:
            if len(digits) % 2 or any(int(hint) != place % 10 for place, hint in enumerate(digits[::2], 1)):
                return False, bool(end), None
            digits = digits[1::2]
        digits = digits[::-1] if notation.least_significant_first else digits
        value = int(match[1] + digits)
    return match is not None, bool(end), value


def check_parse(notation: Format, rows: list[list[int]]) -> None:
    width = max(map(len, rows))
    # rows that stop without `<end>` are as long as the array, as those are that an engine cuts off
    ids = np.array([row + [END] * (width - len(row)) for row in rows], np.uint8).reshape(len(rows), width)
    parsed = notation.parse(ids)
    answers = integers_of(parsed.answer)
    for row, padded in enumerate(ids.tolist()):
        well_formed, ended, value = expected_of(notation, padded)
        assert parsed.well_formed[row] == well_formed
        assert parsed.ended[row] == ended
        if well_formed:
            assert answers[row] == value
        (a, b), (c, d) = spans(parsed, row)
        assert 0 <= a <= b <= c <= d <= width
        assert END not in padded[a:d]
        assert same_rows(parsed, row, notation.parse(ids[row : row + 1]))


@given(any_format, st.lists(equation_like_ids, min_size=1, max_size=5))
def test_anything_at_all_can_be_parsed(notation: Format, rows: list[list[int]]) -> None:
    check_parse(notation, rows)


@given(cases(max_digits=4, max_size=3), st.data())
def test_texts_cut_off_or_damaged_are_parsed_as_what_they_are(case: Case, data: st.DataObject) -> None:
    notation, asked = case
    rendered = notation.render(arrays(asked))
    rows = []
    for row in range(len(asked)):
        ids = row_of(rendered, row)[0]
        start = data.draw(st.integers(0, len(ids)))
        stop = data.draw(st.integers(start, min(len(ids), start + 3)))
        rows.append(ids[:start] + data.draw(st.lists(st.integers(0, 15), max_size=3)) + ids[stop:])
        rows.append(ids[:start])
    check_parse(notation, rows)


@pytest.mark.parametrize(
    ("text", "well_formed", "ended", "value"),
    [
        ("1+2=<think>1+2=3</think>3<end>", True, True, 3),
        ("1+2=<think>1+2=3</think>3", True, False, 3),
        ("1+2=<think>1+2=3</think>-3<end>", True, True, -3),
        ("1+2=<think>1+2=3</think>003<end>", True, True, 3),
        ("1+2=<think>1+2=3</think>-0<end>", True, True, 0),
        ("1+2=<think></think>4<end>", True, True, 4),
        ("1+2=<think>1+2=3</think><think>1+2=3</think>3<end>", True, True, 3),
        ("1+2=<think>1+2=3</think>3<end>=<think></think>9<end>", True, True, 3),
        ("1+2=<think>1+2=3</think><end>", False, True, None),
        ("1+2=<think>1+2=3</think>", False, False, None),
        ("1+2=<think>1+2=3<end>", False, True, None),
        ("1+2=<think>1+2=3", False, False, None),
        ("1+2=3<end>", False, True, None),
        ("1+2=1+2=3</think>3<end>", False, True, None),
        ("1+2=<think>1+2=3</think>3+<end>", False, True, None),
        ("1+2=<think>1+2=3</think>-<end>", False, True, None),
        ("1+2=<think>1+2=3</think>--3<end>", False, True, None),
        ("1+2=<think>1+2=3</think>3=3<end>", False, True, None),
        ("1+2=<end>", False, True, None),
        ("1+2=", False, False, None),
        ("1+2", False, False, None),
        ("<end>", False, True, None),
        ("<think></think>3<end>", False, True, None),
        ("", False, False, None),
    ],
)
def test_malformed_texts_are_flagged(text: str, well_formed: bool, ended: bool, value: int | None) -> None:
    parsed = COLUMN.parse(encode(text)[None])
    assert parsed.well_formed.tolist() == [well_formed]
    assert parsed.ended.tolist() == [ended]
    if value is not None:
        assert integers_of(parsed.answer) == [value]


@pytest.mark.parametrize("text", ["9-12=3-<end>", "9-12=--3<end>", "9-12=3-4<end>", "9-12=-<end>"])
@pytest.mark.parametrize("name", ["plain", "reversed"])
def test_a_sign_stands_first_whatever_the_order_of_digits(name: str, text: str) -> None:
    assert not FORMATS[name].parse(encode(text)[None]).well_formed.any()


@every_format
def test_no_rows_at_all(notation: Format) -> None:
    nothing = arrays([ask("1+2")])[:0]
    assert notation.render(nothing).ids.shape[0] == 0
    assert len(notation.render(nothing)) == 0
    assert notation.prompt_lengths(nothing).shape == (0,)
    assert notation.texts(nothing, notation.render(nothing).ids) == []
    assert len(notation.parse(np.zeros((0, 5), np.uint8)).answer) == 0


@every_format
def test_numbers_of_200_digits(notation: Format) -> None:
    asked = [Question("+", (10**200 - 1, 1, 10**199)), Question("-", (10**199, 10**200 - 7))]
    parsed = notation.parse(notation.render(arrays(asked)).ids)
    assert integers_of(parsed.answer) == [q.answer for q in asked]
    assert questions_of(arrays(asked)) == asked


def test_formats_are_chosen_by_name() -> None:
    assert formats_for("addition") == [
        "column",
        "pairwise",
        "scratchpad",
        "reversed",
        "hinted",
        "plain",
        "slots",
    ]
    assert formats_for("chain") == ["plain", "steps", "no-steps", "filler", "random-steps"]
    for name in FORMATS:
        assert get_format(name).name == name
        assert not get_format(name).zero_pad
        assert get_format(name, zero_pad=True).zero_pad
        assert get_format(name).summary
    with pytest.raises(UsageError, match="unknown format 'colum'; choose from column, pairwise") as caught:
        get_format("colum")
    assert caught.value.hint == "did you mean 'column'?"


@pytest.mark.parametrize("notation", THOUGHTFUL, ids=format_id)
def test_a_task_without_a_thought_is_refused(notation: Format) -> None:
    only_addition = Format("mine", "", thoughts={"addition": COLUMN.thoughts["addition"]})
    only_addition.check_task(*get_tasks("addition"))
    assert not only_addition.knows_task(*get_tasks("subtraction"))
    with pytest.raises(UsageError, match="format 'mine' has no thought for task 'subtraction'"):
        only_addition.render(arrays([ask("1+2"), ask("3-2")]))
    for task in get_tasks("addition,subtraction"):
        notation.check_task(task)
        assert notation.knows_task(task)


def test_formats_say_what_their_thoughts_are() -> None:
    thinking = {"column", "pairwise", "scratchpad", "slots", "steps", "filler", "random-steps"}
    assert {name for name, notation in FORMATS.items() if notation.thinks} == thinking
    true = {name for name, notation in FORMATS.items() if notation.true_thoughts}
    assert true == {"column", "pairwise", "scratchpad", "steps"}
    assert {name for name, notation in FORMATS.items() if notation.counted} == {"slots", "steps"}


def test_only_thoughts_have_think_tokens() -> None:
    for notation in ALL_FORMATS:
        ids = notation.render(arrays([ask("12+3"), ask("12-3")])).ids
        assert bool((ids == THINK).any()) == bool((ids == END_THINK).any()) == (notation in THOUGHTFUL)
