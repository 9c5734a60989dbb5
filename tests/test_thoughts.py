"""What thoughts mean: measured on a model that learned them from answers alone, and on texts made up for it."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shipped import ADDSUB, OWN_THOUGHTS
from typer.testing import CliRunner

from mathllm.checkpoint import load_checkpoint
from mathllm.cli.main import app
from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.thoughts import Slot, best_matching, examine
from mathllm.tasks import get_tasks
from mathllm.tasks.expressions import parse_expression

CPU = torch.device("cpu")
(CHAIN,) = get_tasks("chain")


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_best_renaming_is_the_best_of_all(size: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 20, (size, size))
    best = max(
        sum(counts[row, column] for row, column in enumerate(order)) for order in permutations(range(size))
    )
    assert best_matching(counts) == best


def test_agreement_renaming_and_information_of_a_thought() -> None:
    same = Slot(np.eye(10, dtype=np.int64) * 7, Count(0, 0))
    assert (same.agreement, same.renamed) == (1, 1)
    assert same.information == pytest.approx(np.log2(10))
    shifted = Slot(np.roll(same.counts, 1, axis=1), Count(0, 0))
    assert (shifted.agreement, shifted.renamed) == (0, 1)
    assert shifted.information == pytest.approx(np.log2(10))
    nothing = Slot(np.ones((10, 10), np.int64), Count(0, 0))
    assert nothing.information == pytest.approx(0)
    assert nothing.agreement == nothing.renamed == pytest.approx(0.1)


def test_the_model_that_ships_thinks_in_states_that_its_answers_hang_on() -> None:
    model = load_checkpoint(OWN_THOUGHTS, CPU)
    seen: list[tuple[int, int]] = []
    report = examine(model, CHAIN, 6, n=300, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    assert len(report.slots) == 6
    assert report.answers.correct >= 297
    assert report.shuffled.correct <= 60, "about a tenth"
    assert report.followed.correct / report.followed.num_examples > 0.97
    assert report.followed.num_examples > 6 * 250
    for slot in report.slots:
        assert slot.counts.sum() == 300
        assert slot.renamed > 0.97
        assert slot.information > 3


def test_a_model_whose_answers_do_not_hang_on_its_thoughts_is_found_out() -> None:
    """The same model, its weights shaken until it is wrong: nothing follows a donor any more."""
    model = load_checkpoint(OWN_THOUGHTS, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    report = examine(model, CHAIN, 3, n=200)
    assert report.answers.correct < 60
    assert report.followed.correct < 0.4 * report.followed.num_examples
    assert all(slot.information < 2 for slot in report.slots)


def test_the_command_prints_a_table_and_a_document_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture, document = tmp_path / "thoughts.png", tmp_path / "thoughts.json"
    options = ["thoughts", "--checkpoint", str(OWN_THOUGHTS), "--steps", "3", "--max-examples", "100"]
    shown = CliRunner().invoke(app, [*options, "--plot", str(picture), "--output-file", str(document)])
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert "of 100 answers are right" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    as_json = CliRunner().invoke(app, [*options, "--json"])
    said = json.loads(as_json.stdout)
    assert said == json.loads(document.read_text())
    assert said["steps"] == 3
    assert np.array(said["slots"][0]["counts"]).sum() == said["num_examples"] == 100


def test_a_model_whose_thoughts_are_no_states_is_refused() -> None:
    with pytest.raises(UsageError, match="what its thoughts should mean is not known"):
        examine(load_checkpoint(ADDSUB, CPU), CHAIN, 3)


def test_the_invented_thought_is_shown_and_the_answer_is_right() -> None:
    model = load_checkpoint(OWN_THOUGHTS, CPU)
    solution = model.solve("3+4*7-2*3")
    assert solution.correct
    assert solution.answer == 1
    assert len(solution.steps[0]) == 4
    assert solution.text == f"3+4*7-2*3=<think>{solution.steps[0]}</think>1<end>"
    many = model.generate(["9*9", "1-2", "4"])
    assert [one.answer for one in many] == [1, 9, 4]
    with pytest.raises(UsageError, match="written whole"):
        model.finish("7+")
    longer = parse_expression("1+2+3+4+5+6+7", model.readable)
    assert model.unseen(longer) == ["a chain of more than 5 numbers"]
