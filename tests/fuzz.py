"""Throws inputs at the commands: each has to end with an answer or one clean error, in little time and memory.

    python -m tests.fuzz --examples 100000 --jobs 2     # prints a summary, and writes failures into files
    python -m tests.fuzz --replay FILE                  # that input again, and what came of it

hypothesis draws them (see `fuzz_inputs`) from a seed, and `fuzz_run` runs and judges them.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis

from tests.fuzz_inputs import kinds
from tests.fuzz_run import GIB, Outcome, drop_rights, run_all, setup
from tests.fuzz_setup import Case

SECONDS = 60


def drawn(strategy: hypothesis.strategies.SearchStrategy[Case], seed: int, count: int) -> list[Case]:
    """As many inputs, the same for the same seed."""
    cases: list[Case] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def draw(case: Case) -> None:
        cases.append(case)

    draw()
    return cases


def packed(case: Case) -> str:
    """An input as JSON: files are compressed, so that a large one is no burden."""

    def pack(content: Any) -> Any:
        return base64.b85encode(zlib.compress(content)).decode() if isinstance(content, bytes) else content

    files = {name: pack(content) for name, content in case.files.items()}
    return json.dumps({**asdict(case), "stdin": pack(case.stdin), "files": files})


def unpacked(text: str) -> Case:
    def unpack(content: Any) -> Any:
        if isinstance(content, str):
            return zlib.decompress(base64.b85decode(content))
        return tuple(content) if isinstance(content, list) else content

    case = Case(**json.loads(text))
    files = {name: unpack(content) for name, content in case.files.items()}
    return replace(case, stdin=unpack(case.stdin), files=files)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Job:
    """So many inputs of a kind."""

    kind: str
    seed: int
    count: int
    seconds: int
    there: Path


def do(job: Job) -> list[tuple[Case, Outcome]]:
    """Draws and runs the inputs of a job in a process that may write nowhere else."""
    cases = drawn(kinds(job.there)[job.kind], job.seed, job.count)
    with tempfile.TemporaryDirectory(dir=job.there.parent, ignore_cleanup_errors=True) as room:
        return list(zip(cases, run_all(cases, job.there, Path(room), job.seconds), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1000, help="inputs in all")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="another one each time, unless CI is set")
    parser.add_argument("--kind", action="append", help="only these kinds of inputs")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for one input")
    parser.add_argument("--chunk", type=int, default=200, help="inputs that are drawn together")
    parser.add_argument("--failures", type=Path, help="directory for inputs that fail")
    parser.add_argument("--replay", type=Path, help="run the input in this file")
    given = parser.parse_args()
    failures = given.failures or Path(tempfile.mkdtemp(prefix="fuzz-failures-"))
    failures.mkdir(parents=True, exist_ok=True)
    failures, replayed = failures.absolute(), given.replay and unpacked(given.replay.read_text())
    shared = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))
    os.chmod(home, 0o777)
    try:
        there = setup(home)
        seed = given.seed if given.seed is not None else 0 if os.environ.get("CI") else int(time.time())
        names = given.kind or list(kinds(there))
        each = min(given.chunk, -(-given.examples // len(names)))
        jobs = [
            Job(names[number % len(names)], seed * 1_000_003 + number, each, given.seconds, there)
            for number in range(-(-given.examples // each))
        ]
        with multiprocessing.get_context("fork").Pool(given.jobs, drop_rights) as pool:
            if replayed:
                (outcome,) = pool.apply(replay, (replayed, there, given.seconds))
                print(outcome.stderr, end="")
                print(json.dumps({**asdict(outcome), "stderr": len(outcome.stderr)}, indent=2))
                sys.exit(bool(outcome.wrong))
            summary = Summary(failures)
            for found in pool.imap_unordered(do, jobs):
                summary.add(found)
        print(f"seed {seed}")
        sys.exit(summary.show())
    finally:
        shutil.rmtree(home, ignore_errors=True)


def replay(case: Case, there: Path, seconds: int) -> list[Outcome]:
    with tempfile.TemporaryDirectory(dir=there.parent, ignore_cleanup_errors=True) as room:
        return run_all([case], there, Path(room), seconds)


class Summary:
    """What came of all inputs so far."""

    def __init__(self, failures: Path) -> None:
        self.failures, self.began = failures, time.perf_counter()
        self.codes: dict[str, Counter[Any]] = {}
        self.slowest: list[tuple[float, str]] = []
        self.largest: list[tuple[float, str]] = []
        self.wrong: Counter[tuple[str, str]] = Counter()

    def add(self, found: list[tuple[Case, Outcome]]) -> None:
        for case, outcome in found:
            self.codes.setdefault(case.kind, Counter())[outcome.code] += 1
            self.slowest = sorted([*self.slowest, (outcome.seconds, brief(case))], reverse=True)[:3]
            self.largest = sorted([*self.largest, (outcome.bytes / GIB, brief(case))], reverse=True)[:3]
            for reason in outcome.wrong:
                key = case.argv[0] if case.argv else "", reason
                self.wrong[key] += 1
                if self.wrong[key] == 1:
                    file = self.failures / f"{len(self.wrong)}.json"
                    file.write_text(packed(case))
                    print(f"FAILED {' '.join(key)}\n  {brief(case)}", flush=True)
                    print(f"  python -m tests.fuzz --replay {file}", flush=True)

    def show(self) -> bool:
        """Prints all; returns whether anything was wrong."""
        for kind, codes in self.codes.items():
            print(f"{kind:<12}{sum(codes.values()):>8,}  exit codes {dict(sorted(codes.items(), key=str))}")
        for what, most in (("s", self.slowest), ("GiB", self.largest)):
            for value, words in most:
                print(f"{value:8.2f} {what}  {words}")
        total, seconds = sum(map(Counter.total, self.codes.values())), time.perf_counter() - self.began
        failures = f"{sum(self.wrong.values()):,} failures of {len(self.wrong)} sorts"
        print(f"{total:,} inputs in {seconds:.0f} s, {failures}")
        for (command, reason), times in self.wrong.most_common():
            print(f"{times:>6}  {command}: {reason}")
        return bool(self.wrong)


def shown(content: Any) -> str:
    return repr(content[:40] if isinstance(content, bytes) else content)


def brief(case: Case) -> str:
    """An input in a line."""
    words = [word[:80] if word.isprintable() else ascii(word[:80]) for word in case.argv]
    stdin = [f"< {case.stdin[:60]!r}"] if case.stdin else []
    files = [f"| {name}: {shown(content)}" for name, content in case.files.items()]
    return " ".join(["mathllm", *words, *stdin, *files])


if __name__ == "__main__":
    main()
