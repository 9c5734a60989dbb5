"""Runs inputs of the fuzzer and judges how they end: with an answer or one clean error, in little time and memory.

They run by the dozen in forked processes: whatever an input does to one, the next dozen knows nothing of it. This is
for Linux, which tells the sizes of processes.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import torch._dynamo
import torch.distributed
import typer.main

import mathllm
import mathllm.cli.demo
import mathllm.cli.main
import mathllm.training.run
from tests.fuzz_setup import FILES, LOADED, SETUP, Case, prepare

GIB = 2**30
MEMORY, MEMORY_REFUSED = 2 * GIB, 1 * GIB  # to answer, and to refuse
# characters on stderr, and more for each line of those that are answered line by line
MOST_WORDS, WORDS_OF_A_LINE = 20_000, 500
FILE_SIZE = 1 * GIB
NOBODY = 65534
BATCH = 40  # inputs in a process
CODES = (0, 1, 2, 3, 130, 143)
LEFT_BEHIND = re.compile(r"\.(tmp|old)-(?=\d)|\.unfinished-|\.lock$")
# what our own errors and those of click begin with
COMPLAINT = re.compile(r"^(?:error: |╭─ Error )", re.MULTILINE)
PACKAGE = str(Path(mathllm.__file__).parent)


@dataclass
class Outcome:
    """How an input ended; `bytes` is what the process grew by at its largest, and `wrong` what should not be."""

    code: int | None
    seconds: float
    bytes: int
    stderr: str
    wrong: list[str]


def setup(home: Path) -> Path:
    """Makes what lies about when a command is called, and this process fit to be forked many times: with all in memory
    that a command loads and builds."""
    os.environ.update(NO_COLOR="1", TERM="dumb", COLUMNS="100", WANDB_MODE="disabled", HOME=str(home))
    torch._dynamo.config.disable = True  # compiling takes a minute, and is another program's business
    command = typer.main.get_command(mathllm.cli.main.app)
    typer.main.get_command = lambda app: command  # type: ignore[assignment]
    # as much as is needed
    mathllm.cli.demo.EXAMPLES = 200
    mathllm.training.run.TEST_EXAMPLES = 20
    there = home / "setup"
    there.mkdir()
    for name, text in FILES.items():
        (there / name).write_text(text)
    os.chdir(there)
    for words in (*SETUP, *LOADED):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
            code, _ = call(words)
        assert code == 0 or words in LOADED, said.getvalue()
    os.chdir(home)
    if os.getuid() == 0:
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return there


def drop_rights() -> None:
    """Leaves this process no right to write elsewhere, even where it had all rights."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def run_all(cases: list[Case], there: Path, room: Path, seconds: int) -> list[Outcome]:
    """What comes of the inputs. `room` is an empty directory to work in."""
    found: list[Outcome] = []
    while len(found) < len(cases):
        found += run_some(cases[len(found) :][:BATCH], there, room, seconds)
    return found


def run_some(cases: list[Case], there: Path, room: Path, seconds: int) -> list[Outcome]:
    """What comes of the first inputs, one at least: of all, or up to one that spoils the process."""
    for number, case in enumerate(cases):
        prepare(case, there, room / str(number) / "here")
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            work(cases, room, seconds)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes of its own
    found = [
        Outcome(**json.loads(path.read_text()))
        for path in (result(room, n) for n in range(len(cases)))
        if path.exists()
    ]
    if len(found) < len(cases) and status != 0:
        where = room / str(len(found))
        stuck = (where / "stuck").read_text() if (where / "stuck").exists() else ""
        said = (where / "err").read_text(errors="replace") if (where / "err").exists() else ""
        reason = f"takes more than {seconds} s {innermost(stuck)}" if stuck else f"ends the process: {status}"
        found.append(Outcome(None, seconds if stuck else 0.0, 0, said + stuck, [reason]))
    for number, outcome in enumerate(found):
        outcome.wrong += judged(cases[number], outcome, room / str(number) / "here")
    for number in range(len(cases)):
        shutil.rmtree(room / str(number))
    return found


def result(room: Path, number: int) -> Path:
    return room / str(number) / "result"


def work(cases: list[Case], room: Path, seconds: int) -> None:
    """Runs inputs one after the other and writes their outcomes, up to one that leaves no clean process behind."""
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize:") + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE,) * 2)
    before = resident("VmRSS:")
    environment = dict(os.environ)
    for number, case in enumerate(cases):
        where = room / str(number)
        (where / "in").write_bytes(case.stdin)
        for handle, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
            opened = os.open(where / name, flags | os.O_CREAT)
            os.dup2(opened, handle)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "rw"[n > 0], closefd=False) for n in range(3))  # noqa: SIM115
        sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
        os.chdir(where / "here")
        os.environ.clear()
        os.environ.update(environment, HOME=str(where / "here"))
        with (where / "stuck").open("w") as stuck:
            faulthandler.dump_traceback_later(seconds, exit=True, file=stuck)
            started = time.perf_counter()
            code, wrong = call(case.argv)
            spent = time.perf_counter() - started
            faulthandler.cancel_dump_traceback_later()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        said = (where / "err").read_text(errors="replace")
        outcome = Outcome(code, spent, grown, said, wrong)
        result(room, number).write_text(json.dumps(asdict(outcome)))
        if wrong or grown > GIB // 5:
            break
    os._exit(0)


def call(argv: list[str]) -> tuple[int | None, list[str]]:
    """The exit code of a command in this process, and what is wrong with how it ends."""
    torch.set_num_threads(1)
    sys.argv = ["mathllm", *argv]
    code: int | None = 0
    try:
        mathllm.cli.main.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        text = traceback.format_exc()
        with suppress(BaseException):
            print(text[-4000:], file=sys.stderr)
        return None, [f"{type(error).__name__} {innermost(text)}"]
    sys.stdout.flush()
    return code, []


def innermost(text: str) -> str:
    """The place in the package where a traceback ends."""
    places = re.findall(rf'File "{re.escape(PACKAGE)}/([^"]*)", line (\d+),? in (\w+)', text)
    if not places:
        return ""
    # faulthandler's begin with the innermost call
    file, line, function = places[0] if "most recent call first" in text else places[-1]
    return f"in {file}:{line} {function}"


def resident(name: str) -> int:
    """A size of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


# judging


def controls(text: str) -> bool:
    """Is there anything that a terminal would obey?"""
    return any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in set(text))


def judged(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """What is wrong with how an input has ended, besides an exception."""
    wrong, said, code = [], outcome.stderr, outcome.code
    many = case.argv[:1] in (["solve"], ["chat"])  # which tell one error for each bad line
    most_words = MOST_WORDS + WORDS_OF_A_LINE * case.stdin.count(b"\n") * many
    most_words += sum(map(len, case.argv))  # what was typed may be said again
    complaints = len(COMPLAINT.findall(said))
    allowed = MEMORY_REFUSED if code in (1, 2) else MEMORY
    printed = (folder.parent / "out").read_text(errors="replace")
    left = {found[0] for path in folder.rglob(".*") if (found := LEFT_BEHIND.search(path.name))}
    if code is None:
        return [] if outcome.wrong else ["no exit code"]
    for bad, words in (
        (code not in CODES, f"exit code {code}"),
        ("Traceback" in said, "a traceback is printed"),
        (code in (1, 2) and not complaints, "no error is told"),
        (complaints > 1 and not many, "more than one error"),
        (code == 0 and complaints, "an error, and exit code 0"),
        (len(said) > most_words, "too many words on stderr"),
        (controls(said), "control characters on stderr"),
        (controls(printed), "control characters on stdout"),
        (re.search(r"^\S*:\d+: \w*Warning", said, re.MULTILINE), "a warning of a library"),
        (left, f"left behind: {' '.join(sorted(left))}"),
        (outcome.bytes > allowed, f"takes more than {allowed // GIB} GiB"),
    ):
        if bad:
            wrong.append(words)
    return wrong
