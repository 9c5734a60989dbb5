"""A report for people, on a Rich console."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mathllm.evaluation.breakdown import NOTHING, Count
from mathllm.evaluation.grid import Grid
from mathllm.evaluation.lengths import STRESS, Length, LengthReport
from mathllm.evaluation.report import Report
from mathllm.evaluation.samples import Mistake
from mathllm.percent import percent
from mathllm.tasks.base import plural

TITLES = {
    "by_task": "task",
    "by_operand_digits": "operand digits",
    "by_answer_digits": "answer digits",
    "by_carries": "longest carry chain",
}
KIND_TITLES = {
    "no_end": "no end (infinite generation)",
    "malformed": "malformed, no number (hallucination)",
    "out_of_range": "out of range for such operands",
    "wrong_value": "wrong value",
}
LENGTH_TITLES = {
    "dropped_digit": "the true number without one of its digits",
    "doubled_digit": "the true number with a digit written twice",
    "shorter": "too few digits, in another way",
    "longer": "too many digits, in another way",
}
MOST_LINES = 10  # of one table: more groups than that are shown as ranges


def headline(answers: Count, complete: bool = False) -> str:
    """`exact match 99.98% (4,999 of 5,000; 95% interval 99.89% to 99.996%)`, or without it if `complete`."""
    counts = f"{answers.correct:,} of {answers.num_examples:,}"
    low, high = answers.interval
    sure = "all there are" if complete else f"95% interval {percent(low)} to {percent(high)}"
    return f"exact match {percent(answers.exact_match)} ({counts}; {sure})"


def show_report(console: Console, report: Report, complete: bool = False) -> None:
    """The headline, what is hard, what went wrong, and the first mistakes.

    `complete` says that all problems there are were judged, so that there is nothing to infer.
    """
    colour = "green" if report.answers.correct == report.answers.num_examples else "yellow"
    console.print(Text(headline(report.answers, complete), style=f"bold {colour}"))
    console.print(
        f"whole text {percent(report.completions.exact_match)}, tokens {percent(report.tokens.exact_match)}; "
        f"{report.decoded:,} decoded token by token; {report.seconds:.1f} s",
        highlight=False,
    )
    for name, counts in report.groups.items():
        if len(counts) > 1:  # one group would only repeat the headline
            console.print()
            print_table(console, _group_table(TITLES[name], counts, complete))
    if report.answers.correct < report.answers.num_examples or report.errors.thought_wrong_answer_right:
        console.print()
        print_table(console, _error_table(report))
    show_mistakes(console, report)


def plain_table(*titles: str, gap: int = 2) -> Table:
    """A table without lines; columns whose title begins with > are flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim", highlight=False)
    for title in titles:
        table.add_column(title.removeprefix(">"), justify="right" if title.startswith(">") else "left")
    return table


def print_table(console: Console, table: Table) -> None:
    """Prints a table of which no word, and so no figure, is cut: where it is too wide, its columns are as narrow as
    their longest words."""
    if Measurement.get(console, console.options.update(max_width=1000), table).maximum > console.width:
        table.padding = (0, 1, 0, 0)
        for column in table.columns:
            words = " ".join(map(str, [column.header, *column.cells])).split()
            column.min_width = max(map(len, words), default=1)
    console.print(table, crop=False)


def _group_table(title: str, counts: dict[str, Count], complete: bool) -> Table:
    table = plain_table(
        title, ">right", ">of", ">exact match", *([] if complete else [">95% interval"]), gap=3
    )
    for key, count in _ranges(counts).items():
        cells = [key, f"{count.correct:,}", f"{count.num_examples:,}", percent(count.exact_match)]
        low, high = count.interval
        table.add_row(*cells, *([] if complete else [f"{percent(low)} to {percent(high)}"]))
    return table


def _ranges(counts: dict[str, Count]) -> dict[str, Count]:
    """At most MOST_LINES counts: neighbours added up where there are more."""
    keys = list(counts)
    size = max(1, -(-len(keys) // MOST_LINES))
    parts = [keys[start : start + size] for start in range(0, len(keys), size)]
    names = [part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts]
    sums = [sum((counts[key] for key in part), NOTHING) for part in parts]
    return dict(zip(names, sums, strict=True))


def _error_table(report: Report) -> Table:
    errors = report.errors
    table = plain_table("mistakes", ">", gap=3)
    for kind, count in errors.kinds.items():
        table.add_row(KIND_TITLES[kind], f"{count:,}")
    for place, count in list(errors.first_wrong_digit.items())[:MOST_LINES]:
        where = "only the sign" if place == "sign" else f"first wrong digit: {place} from the right"
        table.add_row(f"  {where}", f"{count:,}", style="dim")
    if errors.kinds["wrong_value"]:
        table.add_row("  explained by a wrong carry or borrow", f"{errors.carry:,}", style="dim")
    for name, count in errors.lengths.items():
        if count:
            table.add_row(LENGTH_TITLES[name], f"{count:,}", style="dim")
    if errors.thought_right_answer_wrong is not None:
        for part, count in list(errors.first_wrong_part.items())[:MOST_LINES]:
            table.add_row(f"  goes wrong first in: {part}", f"{count:,}", style="dim")
        table.add_row("thought right, answer wrong", f"{errors.thought_right_answer_wrong:,}")
        table.add_row("thought wrong, answer right (no mistake)", f"{errors.thought_wrong_answer_right:,}")
    return table


def show_mistakes(console: Console, report: Report) -> None:
    """What was written and what is right, one above the other, with the first wrong token marked."""
    wrong = report.answers.num_examples - report.answers.correct
    if not report.mistakes:
        return
    console.print()
    shown = len(report.mistakes)
    title = f"the first {shown:,} of {wrong:,} mistakes" if shown < wrong else "all mistakes"
    console.print(Text(title, style="bold"))
    for mistake in report.mistakes:
        said = "no number" if mistake.predicted is None else mistake.predicted
        console.print()
        kind = mistake.kind.replace("_", " ")
        console.print(Text(f"{mistake.expression}={mistake.answer}, the model says {said}: {kind}"))
        if mistake.part != "answer":
            console.print(Text(f"  first in: {mistake.part}", style="dim"))
        for line in marked_lines(mistake, console.width):
            console.print(line, no_wrap=True, crop=False)


def marked_lines(mistake: Mistake, width: int) -> list[Text]:
    """The written text in pieces that fit the width, the gold text under each, and between them a caret line
    where the first wrong token is, so that it can be told without colours."""
    margin = len("  wrote  ")
    room = max(20, width - margin)
    lines = []
    for start in range(0, max(len(mistake.text), len(mistake.gold)), room):
        lines.append(
            Text("  wrote  ", style="dim").append(mistake.text[start : start + room], style="not dim")
        )
        left = margin + max(mistake.wrong_from, start) - start
        right = margin + min(mistake.wrong_to, start + room) - start
        if left < right:
            lines[-1].stylize("bold red", left, right)
            lines.append(Text(" " * left + "^" * (right - left), style="bold red"))
        gold = mistake.gold[start : start + room]
        lines.append(Text("  gold   ", style="dim").append(gold, style="not dim green"))
    return lines


# how much of a cell is right, at least, and its colour
SHADES = ((1.0, "green"), (0.9, "yellow"), (0.5, "orange3"), (1e-9, "red"), (0.0, "red"))
# what they are drawn with, and the lines between inside and outside: where there is more than ASCII, and where not
DRAWN, PLAIN = ("█▓▒░·", "│", "─", "┼"), ("#x+-.", "|", "-", "+")
WIDE_CELLS = 15  # of a grid, at most, with room for percentages


def show_lengths(console: Console, report: LengthReport, trained: Length) -> None:
    """A line for each length and kind of problem: exact match, and how the wrong ones are wrong."""
    task = report.task
    table = plain_table(f">{task.unit}s", ">right", ">of", "", "mistakes")
    for result in report.results:
        right, of = result.report.answers.correct, result.report.answers.num_examples
        kind = task.stress if result.kind == STRESS else result.kind
        size = "x".join(f"{digits:,}" for digits in result.length if digits)
        cells = size, f"{right:,}", f"{of:,}", kind, _breakage(result.report)
        table.add_row(*cells, style="green" if right == of else None)
    print_table(console, table)
    second = f", {task.second}s of up to {trained.second:,}" * bool(
        task.second and trained.second < trained.digits
    )
    console.print(f"trained on up to {plural(trained.digits, task.unit)}{second}", style="dim")


def _breakage(report: Report) -> str:
    """How answers are wrong in a few words: `12 no end, 3 wrong value; first wrong digit 11 to 14`."""
    errors = report.errors
    parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in errors.kinds.items() if count]
    lengths = [f"{count:,} {name.replace('_', ' ')}" for name, count in errors.lengths.items() if count]
    text = ", ".join(parts) + (f" ({', '.join(lengths)})" if lengths else "")
    places = sorted(int(place) for place in errors.first_wrong_digit if place != "sign")
    if places:
        text += f"; first wrong digit {places[0]}" + (f" to {places[-1]}" if len(places) > 1 else "")
    return text


def show_grid(console: Console, grid: Grid, trained: Length) -> None:
    """A heat map: a row for each length of the first operand, a column for each of the second.

    Lines mark the longest operands of the training data, which `trained` says. A percentage is rounded down, so that
    100 means all. Where the console is too narrow, a cell stands for several lengths.
    """
    margin = len(str(grid.lengths[-1]))
    stride = -(-len(grid.lengths) // max(1, console.width - margin - 2))
    answers, last = grid.answers, int(grid.lengths[-1])
    grid = merged(grid, stride)
    lengths, wide = grid.lengths.tolist(), len(grid.lengths) <= WIDE_CELLS
    shades, bar, line, cross = DRAWN if console.encoding.lower().startswith("utf") else PLAIN
    width = 4 if wide else 1
    inside, left = (sum(length <= most for length in lengths) for most in trained)
    console.print(Text(headline(answers), style="bold"))
    console.print("digits of the first operand downwards, of the second to the right\n")
    if wide:
        console.print(_ruled(" " * margin, [Text(f"{length:>4}") for length in lengths], left, bar))
    for row, length in enumerate(lengths):
        if row == inside > 0:
            console.print(_ruled(" " * margin, [Text(line * width)] * len(lengths), left, cross))
        counts = zip(grid.correct[row].tolist(), grid.num_examples[row].tolist(), strict=True)
        cells = [_cell(Count(right, of), wide, shades) for right, of in counts]
        console.print(_ruled(f"{length:>{margin}}", cells, left, bar))
    if not wide:
        legend = "{} all right, {} 90%, {} 50%, {} some, {} none".format(*shades)
        console.print(f"\n{lengths[0]} to {last} digits; {legend}")
    if stride > 1:
        console.print(
            f"a cell is {stride} by {stride} lengths, named by the first; a wider terminal shows more"
        )


def merged(grid: Grid, stride: int) -> Grid:
    """The same counts with that many neighbouring lengths taken together."""
    first = np.arange(0, len(grid.lengths), stride)
    correct, num_examples = (
        np.add.reduceat(np.add.reduceat(counts, first, 0), first, 1)
        for counts in (grid.correct, grid.num_examples)
    )
    return Grid(grid.lengths[first], correct, num_examples, grid.seconds)


def _ruled(head: str, cells: list[Text], inside: int, bar: str) -> Text:
    """A line of the heat map: its head and cells, with a bar behind the first `inside` of them."""
    line = Text(head + " ")
    for column, cell in enumerate(cells):
        line.append(bar if column == inside > 0 else "").append_text(cell)
    return line


def _cell(count: Count, wide: bool, shades: str) -> Text:
    if not count.num_examples:
        return Text("    " if wide else " ")
    place = next(place for place, (least, _) in enumerate(SHADES) if count.exact_match >= least)
    shown = f"{100 * count.correct // count.num_examples:>4}" if wide else shades[place]
    return Text(shown, style=SHADES[place][1])
