"""Draws docs/thoughts.png from the table in docs/thoughts.md: `python docs/pictures.py` (needs the extra plots).

The runs behind it are not kept; `mathllm study thoughts --plot` draws the same of runs of one's own.
"""

from __future__ import annotations

from pathlib import Path

from mathllm.evaluation.plots import plot_lengths

DOCS = Path(__file__).parent


def lines(text: str) -> dict[str, dict[int, list[float]]]:
    """Of the table of a study's results: each variant's lowest, median and highest exact match by steps."""
    table = text[text.index("| | seeds | ") :].partition("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table)
    steps = [int(cell.split()[0]) for cell in header[2:]]
    return {
        row[0].replace("`", ""): {n: shares(cell) for n, cell in zip(steps, row[2:], strict=True)}
        for row in rows
    }


def shares(cell: str) -> list[float]:
    """`99.5 (91.8-100)` as shares: the lowest, the median and the highest."""
    median, _, rest = cell.partition(" (")
    low, _, high = rest.rstrip(")").partition("-")
    return [float(value) / 100 for value in (low or median, median, high or median)]


if __name__ == "__main__":
    text = (DOCS / "thoughts.md").read_text(encoding="utf-8")
    plot_lengths(lines(text), DOCS / "thoughts.png", "steps")
