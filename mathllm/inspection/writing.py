"""The files of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mathllm.files import new_file, write_json
from mathllm.inspection.page.page import write_page
from mathllm.inspection.report import Report

REPORT, ARRAYS, PICTURES, PAGE = "report.json", "arrays.npz", "pictures", "index.html"
FILES, SCHEMA = {REPORT, ARRAYS, PICTURES, PAGE}, "mathllm.inspect/1"


def write(report: Report, directory: Path, *, pictures: bool) -> list[Path]:
    """Writes a report into a directory that is there: JSON, arrays, the page, and with matplotlib the pictures."""
    write_json(directory / REPORT, report.to_dict())
    with new_file(directory / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **report.arrays())
    write_page(report, directory / PAGE)
    written = [directory / REPORT, directory / ARRAYS, directory / PAGE]
    if pictures:
        from mathllm.inspection.pictures import draw_all

        (directory / PICTURES).mkdir(exist_ok=True)
        written += draw_all(report, directory / PICTURES)
    return written
