"""Pages that are made from the program say what the program is now."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from mathllm.cli.main import COMMANDS
from mathllm.cli.options import SETTINGS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "reference.py"))


def test_pages_are_what_the_program_makes(reference: dict[str, Any]) -> None:
    pages = reference["pages"]()
    assert {path.relative_to(ROOT).as_posix() for path in pages} == {
        "docs/cli.md",
        "docs/api.md",
        "README.md",
    }
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, "python docs/reference.py makes it anew"


def test_the_page_of_the_command_line_has_every_command_and_flag(reference: dict[str, Any]) -> None:
    page = reference["cli_page"]()
    for name in COMMANDS:
        assert f"\n## mathllm {name}\n" in page
    for one in SETTINGS:
        assert f"`{one.option}" in page
    assert "[dim]" not in page


def test_the_page_of_the_api_has_what_functions_give(reference: dict[str, Any]) -> None:
    page = reference["api_page"]()
    for words in (
        "mathllm.load",
        "mathllm.train",
        ".MathModel",
        ".Report",
        ".Solution",
        "TrainResult",
        "build_config",
    ):
        assert words in page, words


def test_the_table_says_which_combinations_go_together(reference: dict[str, Any]) -> None:
    """Of a judge made up for it: b refuses padding, c refuses subtraction, and one objective wants one format."""
    cells = reference["cells"]()
    tasks, formats, _, positions, objectives = (
        list(dict.fromkeys(column)) for column in zip(*cells, strict=True)
    )

    def allowed(cell: tuple[str, str, bool, str, str]) -> bool:
        task, format, padded, position, objective = cell
        return (
            task == tasks[0]
            and (format == formats[0] or not padded)
            and (position != positions[0] or format != formats[1])
            and (objective == objectives[0] or format == formats[2])
        )

    chosen = {cell for cell in cells if allowed(cell)}
    text = reference["combinations"](chosen)
    dashes = " | –" * (len(tasks) - 1)
    assert f"| `{formats[0]}` | all{dashes} |" in text
    assert f"| `{formats[1]}` | B, not padded{dashes} |" in text
    assert f"| `{formats[2]}` | all, not padded{dashes} |" in text
    assert f"- A: `{positions[0]}`\n" in text
    assert f"`{objectives[1]}` takes `{formats[2]}` ({tasks[0]})." in text
    assert f"{len(chosen):,} of {len(cells):,} combinations" in text
    assert "takes all of these" not in text
    both = {cell for cell in cells if allowed((*cell[:4], objectives[0]))}
    assert f"`{objectives[1]}` takes all of these." in reference["combinations"](both)
    before = f"before {reference['BEGIN']} old {reference['END']} after"
    assert reference["insert"](before, text) == f"before {text} after"
