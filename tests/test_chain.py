"""Chains modulo 10: the task, its texts and their places."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset, import_dataset
from mathllm.data.importing import read_problems
from mathllm.errors import ExpressionError, UsageError
from mathllm.formats import ALLOWED, Format, Walk, get_format
from mathllm.resolve import resolve_data
from mathllm.tasks import Sampling, answer, get_tasks, operands_asked, sample, sizes
from mathllm.tasks.chain import apply_steps, running_states
from mathllm.tasks.expressions import expressions, parse_expression, parse_expressions
from mathllm.tasks.splits import SplitRatios, hash_problems, split_of
from mathllm.tokenizer import END_THINK, EQUALS, THINK, TOKENS, decode, encode

TASKS = get_tasks("chain")
CHAIN = TASKS[0]
CONTROLS = ("no-steps", "filler", "random-steps")
chains = st.tuples(
    st.integers(0, 9),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("+-"), st.integers(0, 9)),
            st.tuples(st.just("*"), st.sampled_from([1, 3, 7, 9])),
        ),
        max_size=9,
    ),
)


def text_of(chain) -> str:
    start, steps = chain
    return str(start) + "".join(f"{operator}{digit}" for operator, digit in steps)


def states_of(chain) -> list[int]:
    """The states in Python's own numbers: the first number, and after each step."""
    start, steps = chain
    states = [start]
    for operator, digit in steps:
        made = {"+": states[-1] + digit, "-": states[-1] - digit, "*": states[-1] * digit}
        states.append(made[operator] % 10)
    return states


def drawn(n: int = 2000, numbers: int = 9, **how):
    return sample(np.random.default_rng(1), n, TASKS, Sampling(numbers, **how))


def places(notation: Format, problems, ids) -> np.ndarray:
    """The places of texts, or of their beginnings."""
    return notation.coordinates(problems, ids, ("place",))["place"]


def choices(notation: Format, problems, ids) -> np.ndarray:
    """Which tokens may follow each one [N, T, V]."""
    walk = Walk(notation, problems, ())
    walk.read(ids)
    return ALLOWED[walk.choices]


@given(st.lists(chains, min_size=1, max_size=8))
def test_a_text_is_read_and_written_and_worked_out_as_python_does(asked):
    problems = parse_expressions([text_of(chain) for chain in asked], TASKS)
    assert expressions(problems) == [text_of(chain) for chain in asked]
    assert answer(problems).to_ints() == [states_of(chain)[-1] for chain in asked]
    assert problems.num_operands.tolist() == [1 + len(chain[1]) for chain in asked]
    assert sizes(problems).tolist() == problems.num_operands.tolist()
    assert (operands_asked(problems) <= 2).all(), "its numbers are not what --max-operands bounds"
    for row, chain in enumerate(asked):
        states = states_of(chain)
        assert running_states(problems)[row, : len(states)].tolist() == states
        for done, state in enumerate(states):
            rest = apply_steps(problems[row : row + 1], np.array([state], np.uint8), done)
            assert rest.tolist() == [states[-1]]


@given(st.text(alphabet="0123456789+-*/%= <", max_size=9))
def test_what_is_no_chain_is_refused_with_a_place(text):
    bare = re.sub(r"\s", "", text)
    right = re.fullmatch(r"[0-9]([+-][0-9]|\*[1379])*=?", bare) and not re.search(
        r"[0-9]\s+[0-9]|\+\s*\+", text
    )
    if right:
        assert expressions(parse_expression(text, TASKS)) == [bare.removesuffix("=")]
        return
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, TASKS)
    assert 0 <= caught.value.position <= max(1, len(text))


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("3*2", 2, "'2' does not fit: a chain has"),
        ("3*5+1", 2, "'5' does not fit: a chain has"),
        ("12+3", 0, "'12' does not fit: a chain has"),
        ("3+4/2", 3, "'/' does not fit: a chain has"),
        ("3+", 2, "the problem ends too early"),
        ("3+-4", 2, "a number was expected here"),
        ("", 0, "there is no problem here"),
    ],
)
def test_the_error_says_what_is_wrong(text, position, message):
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, TASKS)
    assert caught.value.message.startswith(message)
    assert caught.value.position == position
    assert caught.value.hint == "write a problem like 3+4*7-2"


def test_without_being_asked_for_a_sum_is_a_sum():
    assert parse_expression("3+9").task.tolist() == [0]
    assert answer(parse_expression("3+9", TASKS)).to_ints() == [2]
    assert answer(parse_expression("3+4*7")).to_ints() == [31]
    with pytest.raises(UsageError, match="one text would have two answers"):
        get_tasks("chain,addition")


def test_every_length_comes_up_and_who_does_not_know_the_start_knows_nothing():
    problems = drawn(40_000, 5)
    counts = np.bincount(problems.num_operands, minlength=6)
    assert counts[0] == 0
    assert (abs(counts[1:] / 40_000 - 0.2) < 0.04).all()
    states = running_states(problems)
    for start in range(10):
        guess = apply_steps(problems, np.full(40_000, start, np.uint8), 0)
        assert abs((guess == states[:, -1]).mean() - 0.1) < 0.01
    assert (drawn(500, 5, method="uniform").num_operands == 5).all()


def test_rows_come_in_blocks_of_one_length():
    lengths = get_format("plain").render(drawn(640)).lengths.reshape(-1, 64)
    assert (lengths == lengths[:, :1]).all()
    assert len(np.unique(lengths[:, 0])) > 3


def test_different_chains_have_different_hashes_and_stay_in_their_split():
    problems = drawn(20_000)
    texts = expressions(problems)
    assert len(np.unique(hash_problems(problems))) == len(set(texts))
    again = parse_expressions(texts, TASKS)
    assert (split_of(again, SplitRatios()) == split_of(problems, SplitRatios())).all()


def test_thoughts_are_the_states():
    rendered = get_format("steps").render(parse_expressions(["3+4*7-2*3", "8"], TASKS))
    assert decode(rendered.ids[0, : rendered.lengths[0]]) == "3+4*7-2*3=<think>7971</think>1<end>"
    assert decode(rendered.ids[1, : rendered.lengths[1]]) == "8=<think></think>8<end>"
    for name in CONTROLS:
        text = decode(get_format(name).render(parse_expressions(["3+4*7"], TASKS)).ids[0])
        thought = text.removeprefix("3+4*7=").removesuffix("9<end>")
        expected = {"no-steps": "", "filler": "<think>00</think>", "random-steps": "<think>[0-9]{2}</think>"}
        assert re.fullmatch(expected[name], thought)


def test_random_thoughts_know_nothing_of_the_states():
    problems = drawn(4000, 4)[:]
    problems = problems[problems.num_operands == 4]
    rendered = get_format("random-steps").render(problems)
    start = (rendered.ids == THINK).argmax(1)[:, None] + np.arange(1, 4)
    thoughts = np.take_along_axis(rendered.ids, start, 1)
    for column in range(3):
        counts = np.bincount(thoughts[:, column], minlength=10)
        assert (abs(counts / len(problems) - 0.1) < 0.04).all()
        for state in running_states(problems).T:
            assert abs((thoughts[:, column] == state).mean() - 0.1) < 0.04
    assert (get_format("random-steps").render(problems[::-1]).ids[::-1] == rendered.ids).all()


def test_given_thoughts_are_a_part_of_the_prompt():
    problems = drawn(300)
    for name in ("filler", "random-steps"):
        notation = get_format(name)
        rendered = notation.render(problems)
        lengths = rendered.prompt_lengths
        for row in range(300):
            assert rendered.ids[row, lengths[row] - 1] == END_THINK
            assert (rendered.ids[row] == EQUALS).argmax() + 1 == notation.prompt_lengths(problems)[row]
        assert (rendered.lengths - lengths == 2).all(), "the answer and <end>"


@pytest.mark.parametrize("name", ["steps", *CONTROLS])
def test_texts_read_back_and_places_do_not_change_with_what_follows(name):
    notation, problems = get_format(name), drawn(128, 6)
    rendered = notation.render(problems)
    parsed = notation.parse(rendered.ids)
    assert parsed.well_formed.all()
    assert parsed.answer.same(answer(problems)).all()
    whole = places(notation, problems, rendered.ids)
    for row in range(0, 128, 9):
        begin = int((rendered.ids[row] == EQUALS).argmax()) + 1
        for end in range(begin, rendered.ids.shape[1] + 1):
            prefix = places(notation, problems[row : row + 1], rendered.ids[row : row + 1, :end])
            assert (prefix == whole[row, :end]).all()


def test_a_step_finds_all_it_needs_at_its_own_place():
    problem = parse_expression("3+4*7", TASKS)
    ids = encode("3+4*7=<think>79</think>9<end>")[None]
    found = places(get_format("steps"), problem, ids)
    assert found[0].tolist() == [1, 1, 1, 2, 2, 2, 0, 1, 2, 3, 3, 0, 0]
    other = encode("3+4*7=<think>11</think>9<end>")[None]
    assert (places(get_format("steps"), problem, other) == found).all()


def test_a_thought_is_held_to_its_length_and_to_digits():
    notation, ids = get_format("steps"), encode("3+4*7=<think>79</think>9<end>")
    problem = parse_expression("3+4*7", TASKS)
    whole = choices(notation, problem, ids[None])[0]
    equals = int((ids == EQUALS).argmax())
    expected = [[THINK], list(range(10)), list(range(10)), [END_THINK], list(range(16))]
    for after, tokens in enumerate(expected):
        allowed = choices(notation, problem, ids[None, : equals + 1 + after])[0]
        assert np.flatnonzero(allowed[-1]).tolist() == tokens, TOKENS[ids[equals + after]]
        assert (allowed == whole[: equals + 1 + after]).all()
    assert whole[:equals].all(), "the prompt is not the model's"
    walk = Walk(notation, problem, ())
    walk.read(ids[None, : equals + 1])
    assert (walk.allowed() == whole[equals]).all()
    assert Walk(get_format("column"), parse_expression("3+4"), ()).allowed() is None


def test_slots_hold_as_many_thoughts_as_digits_and_one_or_as_many_as_one_says():
    problems = parse_expressions(["99+21", "7+5", "123-45"])
    texts = [decode(row) for row in get_format("slots").render(problems).ids]
    assert texts[0].startswith("99+21=<think>000</think>120")
    assert texts[1].startswith("7+5=<think>00</think>12")
    assert texts[2].startswith("123-45=<think>0000</think>78")
    two = get_format("slots", thought_length=2)
    assert all("<think>00</think>" in decode(row) for row in two.render(problems).ids)
    problem, prefix = problems[2:], encode("123-45=<think>00")[None]
    assert np.flatnonzero(choices(two, problem, prefix)[0, -1]).tolist() == [END_THINK]
    assert choices(get_format("slots"), problem, prefix)[0, -1].sum() == 10
    with pytest.raises(UsageError, match="length of their own"):
        get_format("steps", thought_length=3)


def test_the_task_has_a_code_of_its_own():
    assert [task.name for task in get_tasks("chain")] == ["chain"]
    assert CHAIN.code == 3
    assert (drawn(10).task == 3).all()


def test_settings_that_mean_nothing_to_a_chain_are_refused():
    for name in ("plain", "steps"):
        with pytest.raises(UsageError, match="chain"):
            get_format(name, zero_pad=True).check_task(CHAIN)
    with pytest.raises(UsageError, match="no balanced sampling"):
        resolve_data(DataConfig(task="chain", sampling="digits,balanced"))
    assert DataConfig(task=" chain ").task == "chain"


def test_a_data_directory_of_chains_is_made_read_and_imported(tmp_path):
    data = DataConfig(task="chain", format="steps", max_digits=5)
    generate_dataset(data, 400, 1, tmp_path / "made")
    read = read_problems(tmp_path / "made" / "train.jsonl", TASKS)
    assert (read.task == CHAIN.code).all()
    assert len(read) == 360
    metadata = import_dataset(
        tmp_path / "made" / "train.jsonl", DataConfig(format="steps"), tmp_path / "imported"
    )
    assert metadata["data"]["task"] == "chain"
    rows = [json.loads(line) for line in (tmp_path / "imported" / "train.jsonl").read_text().splitlines()]
    assert all("<think>" in row["text"] for row in rows)
