"""What the verdicts are made of, and how people and programs get to see it."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import half_trained, kinds, mixed_problems, report_of, written
from rich.console import Console

from mathllm.evaluation import report
from mathllm.evaluation.breakdown import KINDS, Count, find
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.report import Report, evaluate_problems
from mathllm.evaluation.samples import first_mistakes, sample_rows
from mathllm.evaluation.show import headline, marked_lines, show_report

# kinds of mistakes


@pytest.mark.parametrize(
    ("expression", "completion", "kind"),
    [
        ("658+189", "<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>", "correct"),
        ("658+189", "<think></think>847<end>", "correct"),
        ("658+189", "<think>8+9=17</think>0847<end>", "correct"),
        ("658+189", "<think>8+9=17 5+8+1=14 6+1+1=8</think>847", "no_end"),
        ("658+189", "", "no_end"),
        ("658+189", "<think>8+9=17 5+8+1=14 6+1+1=8</think><end>", "malformed"),
        ("658+189", "<think></think>8+47<end>", "malformed"),
        ("658+189", "847<end>", "malformed"),
        ("658+189", "<think>8+9=17 847<end>", "malformed"),
        ("658+189", "<end>", "malformed"),
        ("658+189", "<think></think>-847<end>", "out_of_range"),
        ("658+189", "<think></think>1999<end>", "out_of_range"),
        ("658+189", "<think></think>1998<end>", "wrong_value"),
        ("658+189", "<think></think>199<end>", "out_of_range"),
        ("658+189", "<think></think>200<end>", "wrong_value"),
        ("3+4+5", "<think></think>27<end>", "wrong_value"),
        ("3+4+5", "<think></think>28<end>", "out_of_range"),
        ("58-9", "<think></think>-1<end>", "out_of_range"),
        ("58-9", "<think></think>0<end>", "out_of_range"),
        ("58-9", "<think></think>99<end>", "wrong_value"),
        ("58-9", "<think></think>100<end>", "out_of_range"),
        ("58-19", "<think></think>-39<end>", "wrong_value"),
        ("8-91", "<think></think>83<end>", "out_of_range"),
        ("5-5", "<think></think>-0<end>", "correct"),
    ],
)
def test_kinds_of_mistakes(expression: str, completion: str, kind: str) -> None:
    assert kinds(written((expression, completion))) == [kind]


@pytest.mark.parametrize(
    ("expression", "said", "place", "carry"),
    [
        ("658+189", "837", 2, True),  # the carry into the tens was forgotten
        ("658+189", "747", 3, True),  # the one into the hundreds
        ("658+189", "737", 2, True),  # both
        ("658+189", "857", 2, False),  # there is one already, and two operands make no second
        ("658+189", "846", 1, False),  # nothing is carried into the units
        ("658+189", "848", 1, False),
        ("658+189", "836", 1, False),  # the tens alone would be
        ("658+189", "827", 2, False),
        ("658+189", "937", 2, False),  # one too few in the tens, but two too many in the hundreds
        ("111+222", "343", 2, True),  # a carry from nowhere
        ("111+222", "323", 2, False),  # a carry that is not there cannot be forgotten
        ("95+5", "90", 2, True),
        ("99+1", "90", 2, True),
        ("99+11", "120", 2, False),
        ("94+4", "108", 2, True),  # one wrong carry makes the next
        ("29+9+9", "57", 2, False),
        ("9+9+9", "17", 2, True),
        ("5+5+5", "25", 2, True),  # three operands can make a carry of two
        ("52-17", "45", 2, True),  # the borrow was forgotten
        ("52-17", "25", 2, False),
        ("57-12", "35", 2, True),  # a borrow from nowhere
        ("57-12", "55", 2, False),
        ("17-52", "-45", 2, True),
        ("17-52", "35", 0, False),
        ("17-52", "45", 2, False),
        ("100-1", "109", 2, True),
        ("1000-1", "1099", 3, True),
        ("1000-1", "1989", 2, False),
    ],
)
def test_wrong_digits_and_carries(expression: str, said: str, place: int, carry: bool) -> None:
    verdicts = written((expression, f"<think></think>{said}<end>"))
    findings = find(verdicts)
    assert kinds(verdicts) == ["wrong_value"]
    assert findings.first_wrong[0] == place
    assert findings.carry_error[0] == carry


def test_thoughts_and_answers_are_judged_apart() -> None:
    right = "<think>8+9=17 5+8+1=14 6+1+1=8</think>"
    verdicts = written(
        ("658+189", right + "847<end>"),
        ("658+189", right + "846<end>"),
        ("658+189", right + "<end>"),
        ("658+189", "<think>8+9=17 5+8+1=14 6+1+1=9</think>847<end>"),
        ("658+189", right + "</think>847<end>"),  # a second end of the thought belongs to the thought
        ("658+189", "<think>8+9=18</think>999<end>"),
        ("58-9", "<think>8-9=-1 5-0-1=4</think>49<end>"),
    )
    assert find(verdicts).thought_correct.tolist() == [True, True, True, False, False, False, True]
    errors = report_of(verdicts).errors
    assert errors.thought_right_answer_wrong == 2
    assert errors.thought_wrong_answer_right == 2
    assert errors.kinds == {"no_end": 0, "malformed": 1, "out_of_range": 0, "wrong_value": 2}
    assert verdicts.completion_correct.tolist() == [True, False, False, False, False, False, True]
    # without its end the same text is not the same
    assert not written(("658+189", right + "847")).completion_correct[0]


def test_formats_without_thoughts_have_none_to_judge() -> None:
    verdicts = written(("58+9", "67<end>"), ("58+9", "76<end>"), ("58+9", "+<end>"), format="plain")
    assert kinds(verdicts) == ["correct", "wrong_value", "malformed"]
    assert find(verdicts).thought_correct is None
    errors = report_of(verdicts).errors
    assert errors.thought_right_answer_wrong is errors.thought_wrong_answer_right is None


def test_least_significant_first_formats_count_places_from_the_units_too() -> None:
    verdicts = written(("58+9", "76<end>"), ("58+9", "75<end>"), format="reversed")
    assert kinds(verdicts) == ["correct", "wrong_value"]
    assert find(verdicts).first_wrong[1] == 2
    assert find(verdicts).carry_error[1]


def test_errors_add_up() -> None:
    verdicts = judge(half_trained(), mixed_problems())
    got = report_of(verdicts)
    wrong = got.answers.num_examples - got.answers.correct
    assert sum(got.errors.kinds.values()) == wrong > 0
    assert sum(got.errors.first_wrong_digit.values()) == got.errors.kinds["wrong_value"] > 0
    assert 0 <= got.errors.carry <= got.errors.kinds["wrong_value"]
    assert got.answers.num_examples == len(mixed_problems())
    for counts in got.groups.values():
        assert sum(counts.values(), Count(0, 0)) == got.answers
    assert got.decoded == verdicts.decoded.sum()
    assert 0 < got.tokens.exact_match < 1
    assert got.completions.correct <= got.answers.correct


def test_groups_are_what_they_say() -> None:
    texts = ["658+189", "1+1", "999+1", "100-99", "5-12"]
    answers = ["847", "2", "999", "1", "-7"]
    verdicts = written(*((t, f"<think></think>{a}<end>") for t, a in zip(texts, answers, strict=True)))
    groups = report_of(verdicts).groups
    assert groups["by_task"] == {"addition": Count(2, 3), "subtraction": Count(2, 2)}
    assert groups["by_operand_digits"] == {"1": Count(1, 1), "2": Count(1, 1), "3": Count(2, 3)}
    assert groups["by_answer_digits"] == {"1": Count(3, 3), "3": Count(1, 1), "4": Count(0, 1)}
    assert groups["by_carries"] == {"0": Count(1, 1), "1": Count(1, 1), "2": Count(2, 2), "3": Count(0, 1)}


def test_groups_come_in_the_order_of_numbers_however_parts_are_merged() -> None:
    report = Report()
    for expression in ("9999999999+1", "2+3", "99+1"):
        verdicts = written((expression, "<think></think>0<end>"))
        report.add(verdicts, find(verdicts))
    assert list(report.groups["by_operand_digits"]) == ["1", "2", "10"]


# the interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (50, 100, 0.40383, 0.59617),
        (81, 263, 0.25524, 0.36624),  # Newcombe 1998, table I
        (15, 148, 0.06236, 0.16052),
        (0, 20, 0.0, 0.16113),
        (1, 29, 0.00611, 0.17177),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    assert Count(correct, total).interval == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10**9), st.data())
def test_wilson_interval_holds_the_share(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = Count(correct, total).interval
    assert 0 <= low <= correct / total <= high <= 1
    assert (low == 0) == (correct == 0)
    assert (high == 1) == (correct == total)


# what people and programs see


def test_samples_say_what_was_written() -> None:
    right = "<think>8+9=17 5+8+1=14 6+1+1=8</think>"
    verdicts = written(
        ("658+189", right + "847<end>"),
        ("12-40", "<think></think>-0028<end>"),
        ("658+189", right),
        ("658+189", right + "846<end>"),
    )
    first, second, third, fourth = sample_rows(verdicts, find(verdicts), np.arange(4))
    assert first == {
        "expression": "658+189",
        "answer": "847",
        "predicted": "847",
        "correct": True,
        "error": None,
        "thought_correct": True,
        "reason": "end",
        "text": "658+189=<think>8+9=17 5+8+1=14 6+1+1=8</think>847<end>",
    }
    assert (second["answer"], second["predicted"], second["correct"]) == ("-28", "-28", True)
    assert second["thought_correct"] is False
    assert (third["predicted"], third["error"], third["reason"]) == (None, "no_end", "length")
    assert third["thought_correct"] is True
    assert (fourth["predicted"], fourth["correct"], fourth["error"]) == ("846", False, "wrong_value")


def test_numbers_of_hundreds_of_digits_are_written_out() -> None:
    nines = "9" * 300
    verdicts = written((f"{nines}+1", "1" + "0" * 300 + "<end>"), (f"{nines}+1", "7<end>"), format="plain")
    samples = sample_rows(verdicts, find(verdicts), np.arange(2))
    assert samples[0]["answer"] == samples[0]["predicted"] == "1" + "0" * 300
    assert samples[0]["correct"]
    assert samples[1]["error"] == "out_of_range"


@pytest.mark.parametrize(
    ("completion", "marked"),
    [
        ("<think>8+9=17 5+8+1=15 6+1+1=8</think>857<end>", "5"),
        ("<think>8+9=17 5+8+1=14 6+1+1=8</think>837<end>", "3"),
        ("<think>8+9=17 5+8+1=14 6+1+1=8</think>84<end>", "<end>"),
        ("<think>8+9=17 5+8+1=14 6+1+1=8847<end>", "8"),
        ("</think>847<end>", "</think>"),
        ("<think>8+9=17", ""),
    ],
)
def test_the_first_wrong_token_is_marked(completion: str, marked: str) -> None:
    verdicts = written(("658+189", completion))
    (mistake,) = first_mistakes(verdicts, find(verdicts), 5)
    assert mistake.text[mistake.wrong_from : mistake.wrong_to] == marked
    for width in (100, 30):
        lines = [line.plain for line in marked_lines(mistake, width)]
        assert max(map(len, lines)) <= width
        above = next(i for i, line in enumerate(lines) if "^" in line) - 1
        under = lines[above + 1]
        assert set(under.strip()) == {"^"}
        shown = lines[above][under.index("^") : under.index("^") + under.count("^")]
        assert marked.startswith(shown)
        assert "".join(line[9:] for line in lines if line.startswith("  wrote")) == mistake.text
        assert "".join(line[9:] for line in lines if line.startswith("  gold")) == mistake.gold


def test_mistakes_come_first_to_last_and_not_too_many() -> None:
    pairs = [("1+1", "2<end>"), ("1+2", "4<end>"), ("1+3", "5<end>"), ("1+4", "6<end>")]
    verdicts = written(*pairs, format="plain")
    assert [m.expression for m in report_of(verdicts, mistakes=2).mistakes] == ["1+2", "1+3"]
    assert report_of(verdicts, mistakes=0).mistakes == ()


def test_the_document_has_what_was_promised() -> None:
    got = evaluate_problems(half_trained(), mixed_problems())
    document = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    for name in ("exact_match", "exact_match_ci95", "correct", "num_examples", "completion_exact_match"):
        assert name in document
    for name in (
        "token_accuracy",
        "errors",
        "by_task",
        "by_operand_digits",
        "by_answer_digits",
        "by_carries",
    ):
        assert name in document
    for name in ("seconds", "decoded", "mistakes"):
        assert name in document
    assert document["exact_match"] == document["correct"] / document["num_examples"]
    group = document["by_task"]["addition"]
    assert set(group) == {"correct", "num_examples", "exact_match", "exact_match_ci95"}
    assert set(KINDS) < set(document["errors"])


def shown(got: report.Report, complete: bool = False, **options: object) -> str:
    console = Console(file=io.StringIO(), width=100, **options)
    show_report(console, got, complete)
    return console.file.getvalue()


def test_the_report_reads_without_colours() -> None:
    text = shown(evaluate_problems(half_trained(), mixed_problems(), mistakes=2))
    assert text.startswith("exact match ")
    assert "95% interval" in text
    assert "longest carry chain" in text
    assert "thought wrong, answer right" in text
    assert text.count("  wrote  ") == text.count("  gold   ") == 2
    assert text.count("^") >= 2
    assert "\x1b" not in text


def test_the_report_marks_the_wrong_token_in_colour() -> None:
    verdicts = written(("58+9", "77<end>"), format="plain")
    text = shown(report_of(verdicts), force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;31m7\x1b[0m" in text
    assert "all mistakes" in text


def test_no_figure_is_cut_where_there_is_little_room() -> None:
    got = evaluate_problems(half_trained(), mixed_problems(), mistakes=0)
    wide, narrow = (io.StringIO(), io.StringIO())
    show_report(Console(file=wide, width=100), got)
    show_report(Console(file=narrow, width=40), got)
    assert "…" not in narrow.getvalue()
    figures = [re.findall(r"[0-9.,]+%?", file.getvalue()) for file in (wide, narrow)]
    assert sorted(figures[0]) == sorted(figures[1])
    assert max(map(len, narrow.getvalue().splitlines())) <= 46


def test_a_perfect_report_is_short() -> None:
    text = shown(report_of(written(("58+9", "67<end>"), format="plain")), complete=True)
    assert text.startswith("exact match 100.00% (1 of 1; all there are)")
    assert "mistake" not in text


def test_many_groups_are_shown_as_ranges() -> None:
    report = Report()
    for digits in range(1, 35):
        verdicts = written((f"{'1' * digits}+1", "0<end>"), format="plain")
        report.add(verdicts, find(verdicts))
    lines = shown(report).splitlines()
    ranges = [line.split("  ")[0] for line in lines if " to " in line and line[0].isdigit()]
    assert "1 to 4" in ranges
    assert "33 to 34" in ranges
    assert len(ranges) <= 20


def test_the_headline_gives_the_count() -> None:
    got = report.Report(
        Count(4999, 5000), Count(0, 1), Count(0, 1), report_of(written(("1+1", ""))).errors, {}, (), 0, 0.0
    )
    assert headline(got.answers) == "exact match 99.98% (4,999 of 5,000; 95% interval 99.89% to 99.996%)"
