"""Exact match by the lengths of both operands: what is drawn, what is counted, and what is shown."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from judged import CONFIG, half_trained
from rich.console import Console
from trained import trained_checkpoint
from typer.testing import CliRunner

from mathllm.checkpoint import save_model
from mathllm.cli.main import app
from mathllm.config import DataConfig
from mathllm.errors import UsageError
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.grid import Grid, draw_cells, evaluate_grid, grid_lengths
from mathllm.evaluation.lengths import Length
from mathllm.evaluation.show import show_grid
from mathllm.tasks import Task, answer, get_tasks

ADDITION, SUBTRACTION = get_tasks("addition,subtraction")


def test_the_lengths_of_a_grid() -> None:
    assert grid_lengths(5, 1).tolist() == [1, 2, 3, 4, 5]
    assert grid_lengths(30, 10).tolist() == [1, 10, 20, 30]
    assert grid_lengths(35, 10).tolist() == [1, 10, 20, 30]
    with pytest.raises(UsageError, match="has no cells"):
        grid_lengths(5, 6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("task", [ADDITION, SUBTRACTION])
def test_every_cell_has_problems_of_its_lengths(task: Task, signed: bool) -> None:
    lengths = np.array([1, 3, 12])
    problems, cells = draw_cells(task, lengths, 7, signed=signed)
    assert (problems.lengths == lengths[cells]).all()
    found = {(int(a), int(b)): int((cells == (a, b)).all(1).sum()) for a, b in cells}
    ordered = task is SUBTRACTION and not signed
    assert found == {(a, b): 7 for a in range(3) for b in range(3) if a >= b or not ordered}
    assert answer(problems).negative.any() == (task is SUBTRACTION and signed)
    again, _ = draw_cells(task, lengths, 7, signed=signed)
    assert (again.operands == problems.operands).all()


def test_a_grid_counts_what_judging_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = half_trained()
    problems, cells = draw_cells(ADDITION, np.array([1, 2]), 30, signed=False)
    right = judge(model, problems).answer_correct
    monkeypatch.setattr("mathllm.evaluation.report.CHUNK_TOKENS", 500)  # many chunks
    seen: list[tuple[int, int]] = []
    grid = evaluate_grid(model, ADDITION, 2, per_cell=30, progress=lambda *done: seen.append(done))
    for a in range(2):
        for b in range(2):
            cell = (cells == (a, b)).all(1)
            assert (grid.correct[a, b], grid.num_examples[a, b]) == (right[cell].sum(), 30)
    assert 0 < grid.answers.correct < grid.answers.num_examples == 120
    assert seen[-1] == (120, 120)
    assert len(seen) > 3


def test_too_long_for_the_model() -> None:
    with pytest.raises(UsageError, match="this model writes at most"):
        evaluate_grid(half_trained(), ADDITION, 50)


def shown(grid: Grid, trained: int, second: int = 0) -> list[str]:
    out = io.StringIO()
    show_grid(Console(file=out, width=100, highlight=False), grid, Length(trained, second or trained))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_small_grid_shows_percentages_rounded_down_and_where_training_ends() -> None:
    correct = np.array([[10, 10, 0], [10, 9, 0], [0, 0, 0]])
    examples = np.array([[10, 10, 10], [10, 10, 10], [10, 10, 0]])
    assert shown(Grid(np.array([1, 5, 10]), correct, examples, 1.0), trained=5)[3:] == [
        "      1   5│  10",
        " 1  100 100│   0",
        " 5  100  90│   0",
        "   ────────┼────",
        "10    0   0│",
    ]
    assert shown(Grid(np.array([1, 5, 10]), correct, examples, 1.0), trained=5, second=1)[3:5] == [
        "      1│   5  10",
        " 1  100│ 100   0",
    ]
    almost = Grid(np.array([1]), np.array([[999]]), np.array([[1000]]), 1.0)
    assert shown(almost, trained=1)[-1] == "1   99"


def test_a_large_grid_shows_shades() -> None:
    lengths = np.arange(1, 21)
    examples = np.full((20, 20), 10)
    correct = np.where(lengths[:, None] + lengths > 20, 0, 10)
    correct[0, :4] = 9, 5, 1, 0
    lines = shown(Grid(lengths, correct, examples, 1.0), trained=2)
    assert any(line.startswith(" 1 ▓▒│░·████") for line in lines)
    assert any(line.startswith("20 ··│····") for line in lines)


def test_a_grid_wider_than_the_console_takes_lengths_together() -> None:
    lengths, examples = np.arange(1, 101), np.full((100, 100), 2)
    correct = np.where(lengths[:, None] + lengths <= 100, 2, 0)
    out = io.StringIO()
    show_grid(
        Console(file=out, width=60, highlight=False),
        Grid(lengths, correct, examples, 1.0),
        trained=Length(10, 10),
    )
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines[:-4])
    assert lines[0].startswith("exact match 49.50%")
    assert any(line.startswith(" 1 █████│█") or line.startswith("  1 █████│█") for line in lines)
    assert "a cell is 2 by 2 lengths" in out.getvalue()


def test_without_unicode_it_is_drawn_in_ascii() -> None:
    lengths, examples = np.arange(1, 101), np.full((100, 100), 2)
    for grid in (
        Grid(lengths, examples, examples, 1.0),
        Grid(lengths[:3], examples[:3, :3], examples[:3, :3], 1.0),
    ):
        out = io.TextIOWrapper(io.BytesIO(), "ascii")  # which refuses all else
        show_grid(Console(file=out, width=60, highlight=False), grid, trained=Length(1, 1))
        out.flush()
        shown = out.buffer.getvalue().decode()
        assert "|" in shown
        assert "-+-" in shown


def test_the_command(tmp_path: Path) -> None:
    checkpoint, out = str(trained_checkpoint()), tmp_path / "grid.json"
    options = ["eval", "--checkpoint", checkpoint, "--grid", "2", "--per-cell", "20"]
    result = CliRunner().invoke(app, [*options, "--output-file", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text(encoding="utf-8"))
    addition = document["tasks"]["addition"]
    assert addition["grid_correct"][0][0] == 20, "it knows all problems of one digit"
    assert addition["grid_correct"][1][1] < 20, "and no others"
    assert addition["num_examples"] == 80
    assert document["trained_up_to_digits"] == 1
    assert f"({addition['correct']} of 80;" in result.stdout
    assert json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)["tasks"].keys() == {"addition"}
    assert CliRunner().invoke(app, [*options, "--fail-under", "1"]).exit_code == 3
    both = CliRunner().invoke(app, [*options, "--exhaustive", "9"])
    assert isinstance(both.exception, UsageError)


def test_a_grid_for_each_task(tmp_path: Path) -> None:
    save_model(tmp_path, half_trained().model, CONFIG, DataConfig(task="addition,subtraction", max_digits=2))
    result = CliRunner().invoke(app, ["eval", "--checkpoint", str(tmp_path), "--grid", "2", "--json"])
    tasks = json.loads(result.stdout)["tasks"]
    assert tasks["addition"]["num_examples"] == 40
    assert tasks["subtraction"]["grid_num_examples"] == [[10, 0], [10, 10]]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"grid.{suffix}"
    options = ["eval", "--checkpoint", str(trained_checkpoint()), "--grid", "2", "--plot", str(picture)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    content = picture.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"<svg" in content
    assert list(tmp_path.iterdir()) == [picture], "nothing unfinished is left behind"


def test_the_picture_shows_the_shares_and_the_training_range() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from mathllm.evaluation.plots import _heat_map

    correct, examples = np.array([[10, 5], [0, 0]]), np.array([[10, 10], [10, 0]])
    axis = Figure().subplots()
    image = _heat_map(axis, "addition", Grid(np.array([1, 5]), correct, examples, 1.0), trained=Length(1, 1))
    assert image.get_array().filled(-1).tolist() == [[1.0, 0.5], [0.0, -1.0]]
    assert axis.get_title() == "addition: 15 of 30 right\nframed: up to 1 digit, as in training"
    assert axis.lines[0].get_xdata().tolist() == [-0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "3", "--plot", "grid.txt"], "grid.txt is no picture"),
        (["--plot", "grid.png"], "--plot needs --grid"),
        (["--grid", "3", "--plot", "nowhere/grid.png"], "there is no directory nowhere"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_first(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["eval", "--checkpoint", str(trained_checkpoint()), *options])
    assert isinstance(result.exception, UsageError)
    assert said in result.exception.message
