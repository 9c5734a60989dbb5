"""Kills commands that write, at random moments: what is left is whole, and the next call clears it or uses it.

    python -m tests.kills --kills 20

Each command is run once undisturbed. Then it is killed somewhere between its first file and its end (every other time
with SIGTERM, after which nothing at all may be left over), called again as it was, which may be refused, and then with
the option that mends it: the outcome has to be that of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mathllm.cli.demo
from mathllm.checkpoint import load_checkpoint
from mathllm.training.state import read_progress
from tests.runs import Child, command_line, records, state_bytes

LEFT_BEHIND = re.compile(r"\.(tmp|old)-\d|\.unfinished-|\.lock$")
# what is trained, also by the demo: often saved, in milliseconds a step
RECIPE = "tiny.toml"
TINY = """[model]
size = "nano"
layers = 1
hidden = 16
heads = 2
feed_forward = 32
[data]
max_digits = 2
[train]
max_steps = 12
batch_size = 16
eval_steps = 6
eval_examples = 50
save_steps = 3
logging_steps = 1
threads = 1
"""
ENVIRONMENT = {"WANDB_MODE": "disabled", "NO_COLOR": "1", "COLUMNS": "100"}


@dataclass(frozen=True)
class Command:
    """A command that writes: what it is called with, what mends it after a kill, and what it comes to."""

    words: list[str]
    mend: str
    outcome: Callable[[Path], object]
    before: tuple[list[str], ...] = ()  # what has to be there


def dataset(folder: Path) -> object:
    """The bytes of its files, if it is one."""
    names = ("train.jsonl", "val.jsonl", "test.jsonl", "metadata.json")
    return {name: (folder / name).read_bytes() for name in names} if (folder / names[-1]).is_file() else None


def run(folder: Path) -> object:
    """The last state and all measurements."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    best = os.readlink(folder / "best")
    return state_bytes(last), best, records(folder, "train/loss"), records(folder, "val/exact_match")


def samples(folder: Path) -> object:
    result = json.loads((folder / "result.json").read_text())
    return (folder / "samples.jsonl").read_bytes(), {**result, "seconds": 0}


DATA = ["gen-data", "--max-digits", "2", "--num-examples"]
SMALL_DATA = [*DATA, "1000", "--output-dir", "small"]
TRAIN = ["train", "--recipe", RECIPE, "--data-dir", "small", "--no-wandb", "--output-dir", "out"]
EVAL = ["eval", "--checkpoint", "out", "--data-path", "small/train.jsonl", "--output-file", "result.json"]
COMMANDS = {
    "gen-data": Command(
        [*DATA, "40000", "--output-dir", "out"], "--overwrite", lambda here: dataset(here / "out")
    ),
    "train": Command(TRAIN, "--resume", lambda here: run(here / "out"), (SMALL_DATA,)),
    "eval": Command(
        [*EVAL, "--samples", "samples.jsonl"], "", samples, (SMALL_DATA, [*TRAIN, "--max-steps", "1"])
    ),
    "demo": Command(
        ["demo", "--output-dir", "out", "--limit", "9"],
        "--overwrite",
        lambda here: (run(here / "out"), dataset(here / "out/data")),
    ),
}


def call(*words: str) -> None:
    mathllm.cli.demo.EXAMPLES, mathllm.cli.demo.RECIPE = 1000, RECIPE
    command_line(*words)


def started(here: Path, words: list[str]) -> Child:
    return Child(call, *words, files=here, name="said", environment=ENVIRONMENT)


def names(here: Path) -> set[str]:
    """All files and directories, but for what was said."""
    # unlike rglob, os.walk minds no directory that goes while it looks
    found = (Path(place) / name for place, folders, files in os.walk(here) for name in (*folders, *files))
    return {str(path.relative_to(here)) for path in found if path.parent != here or path.stem != "said"}


def wait_for_files(here: Path, child: Child, before: set[str]) -> None:
    """Until a command has begun to write."""
    while child.process.is_alive() and names(here) == before:
        time.sleep(0.001)


def whole(here: Path) -> list[str]:
    """What is not whole, of all that has the name that it should have in the end."""
    broken = []
    for path in sorted(here.rglob("*")):
        if any(LEFT_BEHIND.search(part) for part in path.relative_to(here).parts):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl" and (path.parent / "metadata.json").exists():
                list(map(json.loads, path.read_text().splitlines()))
            elif re.fullmatch(r"checkpoint-\d+|best", path.name):
                load_checkpoint(path)
                read_progress(path)
        except Exception as error:
            broken.append(f"{path.relative_to(here)}: {error}")
    return broken


def left_behind(here: Path) -> list[str]:
    return sorted(name for name in names(here) if LEFT_BEHIND.search(name))


@dataclass
class Undisturbed:
    """A command's own way: how long it writes, in seconds, and what it comes to."""

    seconds: float
    files: set[str]
    outcome: object


def undisturbed(command: Command, room: Path) -> Undisturbed:
    """Runs a command, and before it what it needs: that is kept in the room's directory `before`."""
    before, here = room / "before", room / "undisturbed"
    before.mkdir()
    (before / RECIPE).write_text(TINY)
    for words in command.before:
        child = started(before, words)
        assert child.wait() == 0, child.err
    shutil.copytree(before, here, symlinks=True)
    child = started(here, command.words)
    wait_for_files(here, child, names(before))
    began = time.perf_counter()
    assert child.wait() == 0, child.err
    return Undisturbed(time.perf_counter() - began, names(here), command.outcome(here))


def killed(command: Command, room: Path, way: Undisturbed, *, moment: float, number: int) -> list[str]:
    """What is wrong after a kill with that signal, at that moment of the time in which it writes (0 to 1)."""
    before, here = room / "before", room / "killed"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(before, here, symlinks=True)
    child = started(here, command.words)
    wait_for_files(here, child, names(before))
    time.sleep(moment * way.seconds)
    assert child.process.pid is not None
    if child.process.is_alive():
        os.kill(child.process.pid, number)
    code = child.wait()
    wrong = [f"not whole: {one}" for one in whole(here)]
    if number == signal.SIGTERM:
        wrong += [f"left over after SIGTERM (exit code {code}): {one}" for one in left_behind(here)]
        if code not in (0, 128 + number, -number):
            wrong.append(f"exit code {code} after SIGTERM: {child.err[-500:]}")
    again = started(here, command.words)
    if (code := again.wait()) not in (0, 2) or "Traceback" in again.err:
        wrong.append(f"called again, exit code {code}: {again.err[-500:]}")
    if code != 0:
        mended = started(here, [*command.words, command.mend])
        if (code := mended.wait()) != 0:
            return [*wrong, f"{command.mend} ends with {code}: {mended.err[-500:]}"]
    wrong += [f"left over in the end: {one}" for one in left_behind(here)]
    if command.outcome(here) != way.outcome:
        wrong.append("the outcome is another one")
    if names(here) != way.files:
        wrong.append(f"other files: {names(here) ^ way.files}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=[*COMMANDS])
    given = parser.parse_args()
    failed = False
    for name in given.only or COMMANDS:
        draw = random.Random(f"{given.seed} {name}")
        # in memory, where there is such a place: a kill, unlike a crash, asks nothing of a disk
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            room = Path(folder)
            way, found = undisturbed(COMMANDS[name], room), 0
            for kill in range(given.kills):
                moment, number = draw.random(), (signal.SIGKILL, signal.SIGTERM)[kill % 2]
                wrong = killed(COMMANDS[name], room, way, moment=moment, number=number)
                found += bool(wrong)
                for one in wrong:
                    print(f"{name}, {number.name} after {moment:.0%} of {way.seconds:.2f} s: {one}")
        print(f"{name}: {found} of {given.kills} kills went wrong", flush=True)
        failed |= found > 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
