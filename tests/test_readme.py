"""Every `mathllm` command in the README runs, in order, in one directory (made small by options at the end)."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from runs import Child, command_line

from tests import kills

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
        "--model-size",
        "nano",
    ],
    "eval": ["--exhaustive", "3"],
}


def readme_commands() -> list[str]:
    """The lines of the README's code blocks that start with `$`, continuations joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip()[2:] for line in lines if line.startswith("$ ")]


def shown_below(command: str) -> str:
    """The line of the README below a command, up to the dots at its end."""
    _, _, rest = README.read_text(encoding="utf-8").partition(f"$ {command}\n")
    return rest.partition("\n")[0].removesuffix(" ...")


def test_readme_shows_the_main_line() -> None:
    commands = readme_commands()
    for name in ("gen-data", "train", "eval", "chat", "solve", "demo"):
        assert any(f"mathllm {name}" in command for command in commands), name


@pytest.mark.parametrize("page", [README, README.parent / "docs/inside.md"], ids=lambda page: page.name)
def test_python_prints_what_its_comments_say(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, page.name, "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*  # (.*)$", block, re.MULTILINE)


def type_into(stdin: str, *arguments: str) -> None:
    """A command that is given some text."""
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    command_line(*arguments)


def quick_demo(stdin: str, *arguments: str) -> None:
    """The demo, of a recipe that takes seconds."""
    kills.call(*arguments, "--exhaustive", "3")


@pytest.mark.slow
def test_readme_commands_run(tmp_path: Path) -> None:
    (tmp_path / kills.RECIPE).write_text(kills.TINY, encoding="utf-8")
    (tmp_path / "my_equations.csv").write_text("equation\n1+2=3\n30+4=34\n5+5=10\n7+8=15\n", encoding="utf-8")
    for command in readme_commands():
        before, _, line = command.rpartition(" | ")
        words = shlex.split(line)
        assert words[0] == "mathllm"
        extra = SMALL.get(words[1], [])
        if (words[1] == "eval" and "--exhaustive" not in words) or "--from" in words:
            extra = []
        if words[1] == "train":
            extra = [*extra, "--overwrite"]
        stdin = f"{before.removeprefix('echo ')}\n" if before else "quit\n"
        function = quick_demo if words[1] == "demo" else type_into
        child = Child(function, stdin, *words[1:], *extra, files=tmp_path)
        assert child.wait() == 0, f"{command}\n{child.out}\n{child.err}"
        if (
            "--json" in words
        ):  # by a model that ships: the runs are too short to know anything, but not of subtraction
            assert child.out.startswith(shown_below(command))
