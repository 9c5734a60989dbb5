"""The fuzzer finds nothing wrong in some hundred inputs of all kinds; see `fuzz` for many more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the sizes of processes")
def test_no_input_ends_with_anything_but_an_answer_or_one_clean_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--examples", "70", "--failures", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
