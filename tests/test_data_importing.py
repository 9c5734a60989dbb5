"""Problems from files of any kind, and which rows are refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ask, questions_of

from mathllm.config import DataConfig
from mathllm.data.files import generate_dataset, import_dataset, read_problems
from mathllm.data.importing import true_equations, units_last
from mathllm.errors import DataError, UsageError
from mathllm.tasks.expressions import expressions

BOTH = DataConfig(task="addition,subtraction", signed=True, max_operands=3)


def rows_of(directory: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (directory / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 rows of both tasks, with everything that makes them difficult."""
    directory = tmp_path_factory.mktemp("dataset")
    generate_dataset(BOTH, 4000, 7, directory)
    return directory


def text_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_what_was_written_can_be_read(dataset: Path) -> None:
    for split in ("train", "val", "test"):
        questions = questions_of(read_problems(dataset / f"{split}.jsonl"))
        assert [q.text for q in questions] == [row["expression"] for row in rows_of(dataset, split)]


KINDS = {
    "lines.txt": "951+11=962\n\n 3 - 5 = -2 \r\n\t\n1+2+3=6\n007+0=7",
    "table.csv": '\ufeffid, Equation \r\n1,951+11=962\r\n\r\n2,"3-5=-2"\r\n'
    '"a, ""b""\nc",1+2+3=6\r\n4,7+0=7\r\n',
    "named.dat": "equation\n951+11=962\n3-5=-2\n1+2+3=6\n7+0=7\n",
    "rows.jsonl": '{"expression": "951+11", "answer": "962"}\n\n'
    '{"answer": -2, "expression": "3-5", "more": [1]}\n'
    ' {"expression": "1 +\\n2+3", "answer": " 6"} \n{"expression": "7+0", "answer": 7}\n',
    "bom.txt": "\ufeff951+11=962\n3-5=-2\n1+2+3=6\n7+0=7\n",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(KINDS[name].encode())
    questions = questions_of(read_problems(tmp_path / name))
    assert [q.text for q in questions] == ["951+11", "3-5", "1+2+3", "7+0"]


BAD_LINES = {
    "951+11=963": "the answer is 962",
    "3-5=2": "the answer is -2",
    "951+11": "no '='",
    "951+11=": "not a whole number",
    "3-3=": "not a whole number",
    "951+11=9x2": "not a whole number",
    "1+1=2=2": "not a whole number",
    "=": "no problem",
    "5=5": "ends too early",
    "1++2=3": "a number was expected",
    "1+2-3+4-5+6-7=0": "', position 12: '-' does not fit: an expression has 2 to 6 numbers",
    "12/3=5": "the answer is 4",
    "7%4=2": "the answer is 3",
    "7/2=3.5": "not a whole number: the answer is 3",
    "1/0=0": "', position 3: nothing can be divided by zero",
    "5%0=5": "', position 3: nothing can be divided by zero",
    "2//3=0": "', position 3: a number was expected here",
    "6/-2=-3": "', position 3: a number was expected here: only factors and results may be below zero",
    "3*=3": "', position 3: the problem ends too early",
    "12+x=1": "'x' at position 4",
    "١+1=2": "'١' at position 1",
    "2x3=6": "'x' at position 2",
    "2++3=6": "a number was expected here",
    "1<think>+1=2": "does not belong",
    "1+1=2<end>": "not a whole number",
    "9" * 10_000 + "+1=2": "a number of more than",
    "1+1=" + "7" * 10_000: "the answer is 2",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda text: text[:15])
def test_a_bad_line_is_named_with_the_reason(bad: str, tmp_path: Path) -> None:
    path = text_file(tmp_path / "equations.txt", ["1+1=2", "", bad, "2+2=4"])
    with pytest.raises(DataError) as refused:
        read_problems(path)
    summary, line = refused.value.message.splitlines()
    assert summary == f"1 of the 3 rows of {path} cannot be used"
    assert line.startswith(f"  {path}:3: ")
    assert BAD_LINES[bad] in line
    assert len(line) < len(str(path)) + 160
    assert refused.value.hint


BAD_ROWS = {
    '{"expression": "1+1", "answer": "3"}': "the answer is 2",
    '{"expression": "1+1"}': "'expression' and 'answer'",
    '{"text": "1+1=2"}': "'expression' and 'answer'",
    '{"expression": "1+1", "answer": "2"': "not JSON",
    '{"expression": "1+1", "answer": "2"}, {"expression": "1+1", "answer": "2"}': "not JSON",
    '["1+1", "2"]': "'expression' and 'answer'",
    '"1+1=2"': "'expression' and 'answer'",
    "1+1=2": "not JSON",
    "null": "'expression' and 'answer'",
    '{"expression": "1+1", "answer": null}': "not a whole number",
    '{"expression": "1+1", "answer": 2.0}': "not a whole number",
    '{"expression": 2, "answer": 2}': "ends too early",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda text: text[:45])
def test_a_bad_row_of_json_is_named_with_the_reason(bad: str, tmp_path: Path) -> None:
    good = '{"expression": "1+1", "answer": "2"}'
    path = text_file(tmp_path / "rows.jsonl", [good, "", good, bad, good])
    with pytest.raises(DataError, match=re.escape(f"{path}:4: ")) as refused:
        read_problems(path)
    assert BAD_ROWS[bad] in refused.value.message
    assert len(refused.value.message.splitlines()) == 2


def test_a_bad_row_of_csv_is_named_by_its_line_in_the_file(tmp_path: Path) -> None:
    lines = ["note,equation", '"two\nlines",1+1=2', "x,1+1=3", "short", "y,", 'z,"1+1=2"']
    path = text_file(tmp_path / "table.csv", lines)
    with pytest.raises(DataError) as refused:
        read_problems(path)
    named = re.findall(re.escape(str(path)) + r":(\d+):", refused.value.message)
    assert named == ["4", "5", "6"]
    assert "no cell in column 'equation'" in refused.value.message.splitlines()[2]
    text_file(path, ["note,equation", "x,"])
    with pytest.raises(DataError, match=r":2: '': there is no problem here"):
        read_problems(path)
    text_file(path, ["a,b", "1+1,2"])
    with pytest.raises(DataError, match="no column 'equation', only: a, b"):
        read_problems(path)


def test_bad_rows_are_counted_and_the_first_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mathllm.data.importing._BATCH_CHARACTERS", 200)
    path = text_file(tmp_path / "equations.txt", ["1+1=2", "2+2=5"] * 500)
    with pytest.raises(DataError) as refused:
        read_problems(path)
    first, *shown, last = refused.value.message.splitlines()
    assert first.startswith("500 of the 1,000 rows")
    assert [line.split(":")[1] for line in shown] == [str(2 * n) for n in range(1, 21)]
    assert last == "  and 480 more"


def test_one_long_row_among_many_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mathllm.data.importing._MOST_BYTES", 500_000)
    long = "9" * 1000
    path = text_file(tmp_path / "equations.txt", ["1+1=2"] * 500 + [f"{long}+0={long}"])
    with pytest.raises(DataError, match=r"2 numbers of 1,000 digits") as refused:
        read_problems(path)
    assert refused.value.hint == "put the longest ones apart from the others"
    assert len(read_problems(text_file(tmp_path / "long.txt", [f"{long}+0={long}"]))) == 1


def test_a_cell_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    path = text_file(tmp_path / "e.csv", ["equation", "1+1=2", '"2+2=5', '"', "3+3=6"])
    with pytest.raises(DataError, match=r"e.csv:3: ") as refused:
        read_problems(path)
    assert refused.value.message.startswith("1 of the 3 rows")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", ["_BATCH_CHARACTERS", "_BATCH_ROWS", "_BATCH_TOKENS"])
def test_lines_are_counted_across_batches(
    size: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name].replace("=7", "=8").replace(": 7", ": 8").encode())
    with pytest.raises(DataError) as expected:
        read_problems(path)
    monkeypatch.setattr(f"mathllm.data.importing.{size}", 1)
    with pytest.raises(DataError) as refused:
        read_problems(path)
    assert refused.value.message == expected.value.message
    assert "1 of the 4 rows" in refused.value.message
    line = len(KINDS[name].splitlines())
    assert f"{path}:{line}: '7+0=8'" in refused.value.message.replace("007", "7")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.bin"
    path.write_bytes(b"1+1=2\n\xff\xfe\x00\x81\n\x00\x01")
    with pytest.raises(DataError, match=r":2: (.|\n)*:3: ") as refused:
        read_problems(path)
    refused.value.message.encode()  # can be printed


@pytest.mark.parametrize("name", ["empty.txt", "empty.csv", "empty.jsonl"])
def test_a_file_without_rows_has_no_problems(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("equation\n" if name.endswith("csv") else "\n \n")
    assert len(read_problems(tmp_path / name)) == 0
    with pytest.raises(DataError, match="no problem in"):
        import_dataset(tmp_path / name, DataConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*missing.txt: No such file"):
        read_problems(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="directory") as refused:
        read_problems(tmp_path)
    assert "test.jsonl" in str(refused.value.hint)


LINE = re.compile(r"[0-9]{1,4000}(\+[0-9]{1,4000}){1,99}=-?[0-9]+|[0-9]{1,4000}-[0-9]{1,4000}=-?[0-9]+")


def is_true(line: str) -> bool:
    """The oracle: is a line a true equation?"""
    text = re.sub(r"[ \t\v\f]", "", line)
    if re.search(r"[0-9] +[0-9]", line.partition("=")[0]):
        return False  # two numbers, or one?
    if not LINE.fullmatch(text):
        return False
    left, right = text.split("=")
    return ask(left).answer == int(right)


equation_like = st.one_of(
    st.builds(
        "{}{}{}={}".format, st.integers(0, 9), st.sampled_from("+-"), st.integers(0, 9), st.integers(-9, 18)
    ),
    st.text("0123456789+-= ", max_size=12),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), max_size=5),
)


@given(st.lists(equation_like, min_size=1, max_size=8))
def test_exactly_the_lines_that_are_true_equations_pass(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = text_file(tmp_path_factory.getbasetemp() / "fuzz.txt", ["1+1=2", *lines])
    wrong = [n for n, line in enumerate(lines, 2) if line.strip() and not is_true(line)]
    refused = []
    try:
        assert len(read_problems(path)) == 1 + sum(bool(line.strip()) for line in lines)
    except DataError as error:
        refused = [int(line.split(":")[1]) for line in error.message.splitlines()[1:]]
    assert refused == wrong


def test_import_keeps_order_and_repetitions_and_finds_out_what_the_problems_are(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same problems go to the same splits as when they are sampled."""
    monkeypatch.setattr("mathllm.data.files._CHUNK_ROWS", 999)
    rows = [row for split in ("test", "train", "val") for row in reversed(rows_of(dataset, split))]
    lines = [f"{row['expression']}={row['answer']}" for row in rows]
    path = text_file(tmp_path / "all.txt", lines + lines)
    metadata = import_dataset(path, DataConfig(format="reversed"), tmp_path / "out")
    for split in ("train", "val", "test"):
        expected = [row["expression"] for row in reversed(rows_of(dataset, split))]
        expected *= 2 if split == "train" else 1
        assert [row["expression"] for row in rows_of(tmp_path / "out", split)] == expected
    assert metadata["notes"] == ["400 repeated rows were left out of val.jsonl and test.jsonl"]
    assert metadata["from"] == "all.txt"
    assert DataConfig(**metadata["data"]) == replace(BOTH, format="reversed")


def test_an_import_tells_what_to_type_to_have_it_again(tmp_path: Path) -> None:
    path = text_file(tmp_path / "all.txt", ["1+1=2", "12+3=15"])
    metadata = import_dataset(path, DataConfig(format="slots", thought_length=3), tmp_path / "out")
    for words in ("--from all.txt", "--format slots", "--thought-length 3"):
        assert words in metadata["command"]
    assert metadata["data"]["thought_length"] == 3


def test_products_are_imported_in_columns(tmp_path: Path) -> None:
    path = text_file(tmp_path / "all.txt", ["58*7=406", "1+1=2"])
    data = DataConfig(format="column", train_ratio=1.0, val_ratio=0.0)
    metadata = import_dataset(path, data, tmp_path / "out")
    assert metadata["data"]["task"] == "addition,multiplication"
    assert rows_of(tmp_path / "out", "train")[0] == {
        "expression": "58*7",
        "answer": "406",
        "text": "58*7=<think>8*7=56 5*7+5=40</think>406<end>",
    }
    text_file(path, ["58*17=986"])
    import_dataset(path, data, tmp_path / "other")
    working = "8*7=56 5*7+5=40 8*1=8 5*1=5 6+0=6 0+8=8 4+5=9"
    assert rows_of(tmp_path / "other", "train")[0]["text"] == f"58*17=<think>{working}</think>986<end>"


def test_import_refuses_before_it_writes(dataset: Path, tmp_path: Path) -> None:
    path = text_file(tmp_path / "equations.txt", ["1+1=3"])
    with pytest.raises(DataError, match=r"equations.txt:1: '1\+1=3': the answer is 2"):
        import_dataset(path, DataConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="already holds"):
        import_dataset(path, DataConfig(), dataset)


def test_a_line_of_megabytes_does_not_slow_down_the_others(tmp_path: Path) -> None:
    path = text_file(tmp_path / "equations.txt", ["1+1=2"] * 50_000 + ["0" * 4_000_000] + ["1+1=2"] * 50_000)
    with pytest.raises(
        DataError, match=r"1 of the 100,001 rows .*\n.*:50001: .* a number of more than 4,000 digits"
    ):
        read_problems(path)
    # a part of the file is as many lines as fit beside its longest
    parts = list(true_equations(path.read_text().split()))
    assert len(parts) <= 3
    assert sum(len(good) for _, good in parts) == 100_001


def test_products_and_quotients_of_third_parties_are_read(tmp_path: Path) -> None:
    texts = [
        "1234*5678=7006652",
        "12 × 34 = 408",
        "144÷12=12",
        "7/2=3",
        "17 % 5 = 2",
        "2+3*4-9/2 = 10",
        "0/7=0",
    ]
    path = text_file(tmp_path / "all.txt", texts)
    read = expressions(read_problems(path))
    assert read == ["1234*5678", "12*34", "144/12", "7/2", "17%5", "2+3*4-9/2", "0/7"]
    metadata = import_dataset(path, DataConfig(format="plain"), tmp_path / "out")
    assert metadata["data"]["task"] == "multiplication,division,remainder,arithmetic"
    assert (metadata["data"]["second_digits"], metadata["data"]["max_operands"]) == (0, 5)
    path = text_file(tmp_path / "some.txt", ["1234*56=69104", "999/1=999"] * 20)
    assert import_dataset(path, DataConfig(format="plain"), tmp_path / "some")["data"]["second_digits"] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 3 2 1 * 8 7 6 5 = 2 5 6 6 0 0 7", "1234*5678=7006652"),
        ("4321*8765=2566007", "1234*5678=7006652"),
        ("9 3 1 * 7 5||5 6 9 + 0 5 9 6 #### 3 2 9 7", "139*57=7923"),
        ("9 3 1 * 7 5 || #### 3 2 9 7 0", "139*57=07923"),
        ("2 1 - 5 1 = - 3", "12-15=- 3"),
        ("0 0 1 ÷ 01 = 0 1", "100 ÷ 10 = 10"),
        ("", ""),
    ],
)
def test_numbers_may_be_written_units_first(text: str, expected: str, tmp_path: Path) -> None:
    assert "".join(units_last(text).split()) == "".join(expected.split())
    if text:
        path = text_file(tmp_path / "file.txt", [text])
        assert len(read_problems(path, reversed_digits=True)) == 1
        metadata = import_dataset(path, DataConfig(format="plain"), tmp_path / "out", reversed_digits=True)
        assert "--reversed-digits" in metadata["command"]
        with pytest.raises(DataError):
            read_problems(path)


def test_products_of_two_numbers_below_zero_are_signed(tmp_path: Path) -> None:
    """Their results are not below zero, and their texts are longer all the same."""
    rows = [f"-{10**16 + n}*-{10**16 + 3 * n}={(10**16 + n) * (10**16 + 3 * n)}" for n in range(40)]
    path = text_file(tmp_path / "rows.txt", rows)
    metadata = import_dataset(path, DataConfig(format="plain"), tmp_path / "out")
    assert metadata["data"]["signed"] is True


def test_the_equals_of_full_width_is_one(tmp_path: Path) -> None:
    path = text_file(tmp_path / "rows.txt", ["12*34＝408"])
    assert expressions(read_problems(path)) == ["12*34"]


def test_an_error_about_turned_digits_quotes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "turned.txt"
    path.write_text("9 3 1 * 7 5||5 6 9 #### 3 2 9 8\n4 3 2 1 / 0 = 0\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_problems(path, reversed_digits=True)
    first, second = error.value.message.splitlines()[1:]
    assert "'9 3 1 * 7 5||5 6 9 #### 3 2 9 8', with its digits turned round: '139 * 57= 8923'" in first
    assert "'4 3 2 1 / 0 = 0', with its digits turned round: '1234 / 0 = 0', position 8" in second
