"""Puts the ratios of benchmarks/results/*.json into the README: `python -m benchmarks.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- benchmarks: made by python -m benchmarks.table -->", "<!-- end of benchmarks -->"


def rows(document: dict[str, Any]) -> list[str]:
    """A line of Markdown for each comparison."""
    found = []
    for section in document["sections"]:
        own = section["ways"]["mathllm"]
        for name, row in section["ways"].items():
            if name != "mathllm":
                speeds = f"{own['median']:,.0f} to {row['median']:,.0f} {row['unit']}"
                found.append(
                    f"| {section['what']} | {name} | {row['mathllm_times']:.2f} times as fast | {speeds} |"
                )
    return found


def table(documents: list[dict[str, Any]]) -> str:
    """The whole part of the README."""
    lines = [BEGIN, "", "| work | compared with | mathllm is | |", "| --- | --- | --- | --- |"]
    machines = []
    for document in documents:
        lines += rows(document)
        machines.append(
            f"{document['cpu'] or document['machine']}, {document['threads']} threads, torch {document['torch']}, "
            f"transformers {document['transformers']}, commit {document['commit']}"
        )
    return "\n".join([*lines, "", f"{'; '.join(machines)}: `python -m benchmarks.compare`.", "", END])


def insert(readme: str, text: str) -> str:
    """The README with its old table replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + text + after


def main() -> None:
    documents = [
        json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    ]
    path = ROOT / "README.md"
    path.write_text(insert(path.read_text(encoding="utf-8"), table(documents)), encoding="utf-8")


if __name__ == "__main__":
    main()
