"""Every `mathllm` command in the README runs, in order, in an empty directory (made small by options at the end)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"

# later options win, so these make a command small without changing what it does
SMALL = {
    "gen-data": ["--num-examples", "2000"],
    "train": [
        "--max-steps",
        "3",
        "--set",
        "train.eval_examples=20",
        "--eval-steps",
        "3",
        "--batch-size",
        "8",
    ],
    "eval": ["--exhaustive", "3"],
    "demo": ["--max-steps", "3", "--exhaustive", "3"],
}


def readme_commands() -> list[str]:
    """The lines of the README's code blocks that start with `$`, continuations joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip()[2:] for line in lines if line.startswith("$ ")]


def test_readme_shows_the_main_line() -> None:
    commands = readme_commands()
    for name in ("gen-data", "train", "eval", "chat", "solve", "demo"):
        assert any(f"mathllm {name}" in command for command in commands), name


def test_readme_python_prints_what_its_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*  # (.*)$", block, re.MULTILINE)


@pytest.mark.slow
def test_readme_commands_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "my_equations.csv").write_text("equation\n1+2=3\n30+4=34\n5+5=10\n7+8=15\n", encoding="utf-8")
    for command in readme_commands():
        words = shlex.split(command)
        extra = SMALL.get(words[1], []) if words[0] == "mathllm" else []
        if (words[1] == "eval" and "--exhaustive" not in words) or "--from" in words:
            extra = []
        if words[1] == "train":
            extra = [*extra, "--overwrite"]
        line = f"{command} {shlex.join(extra)}"
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=environment,
            input="quit\n",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
