"""A command that writes may be killed at any moment; see `kills`, which kills more often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_a_kill_leaves_is_whole_and_the_next_call_clears_or_uses_it() -> None:
    command = [sys.executable, "-m", "tests.kills", "--kills", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
