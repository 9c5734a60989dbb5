"""The server under all that is asked of it: `python -m benchmarks.serving_limits` (needs wrk).

How long it takes to start and how much memory it needs; many expressions a request; streams; requests beside a search;
and ten times as many clients as usual: first such as wait as long as they are told to when they are refused, then such
as ask again at once. What they see is measured by a few more beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.serving import OURS, PORT, SERVERS, ended, load
from benchmarks.soak import HEAD, Line, megabytes, status_of

USUAL, TENFOLD, ASKERS = 64, 640, 16  # clients
ROWS = 256  # expressions of one request
MODEL = "addsub-3digit"


def started(**environment: str) -> tuple[subprocess.Popen[bytes], dict[str, float]]:
    """A server that is ready, and the seconds until it was alive and ready."""
    begun, times = time.monotonic(), {}
    assert status_of(PORT, "/livez") == 0, f"somebody listens on port {PORT} already"
    process = subprocess.Popen(
        [sys.executable, "-m", "mathllm", "serve", "--checkpoint", MODEL, "--port", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    for path in ("/livez", "/readyz"):
        while status_of(PORT, path) != 200:
            assert time.monotonic() - begun < 60, f"{path} does not answer"
            time.sleep(0.02)
        times[path] = time.monotonic() - begun
    return process, times


def problem(rng: random.Random) -> str:
    return f"{rng.randrange(1000)}{rng.choice('+-')}{rng.randrange(1000)}"


async def asker(number: int, seconds: float, spent: dict[int, list[float]]) -> None:
    """Asks one problem after the other for so long; what each took goes to its status."""
    rng, line, end = random.Random(number), Line(PORT), time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        await line.send("/predict", {"equation": problem(rng) + "="})
        status, _ = await line.read()
        spent.setdefault(status, []).append(1000 * (time.monotonic() - begun))
        if status != 200:  # as Retry-After says: at least a second
            await asyncio.sleep(1 + rng.random())
    line.hang_up()


async def many(clients: int, seconds: float) -> float:
    """Problems a second that are answered to clients with so many expressions a request."""
    done, end = 0, time.monotonic() + seconds

    async def ask(number: int) -> None:
        nonlocal done
        rng, line = random.Random(number), Line(PORT)
        while time.monotonic() < end:
            await line.send("/v1/solve", {"expressions": [problem(rng) for _ in range(ROWS)], "model": MODEL})
            status, found = await line.read()
            assert status == 200
            assert all(result["correct"] for result in found["results"])
            done += len(found["results"])

    begun = time.monotonic()
    await asyncio.gather(*(ask(number) for number in range(clients)))
    return done / (time.monotonic() - begun)


async def streams(clients: int, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds until the first token of a sampled text, and between two tokens."""
    first: list[float] = []
    gaps: list[float] = []
    end = time.monotonic() + seconds

    async def ask(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            asked = {"expressions": [problem(rng)], "model": MODEL, "stream": True, "temperature": 0.8}
            data = json.dumps({**asked, "seed": rng.randrange(10**6)}).encode()
            writer.write(
                f"{HEAD.format(path='/v1/solve')}Content-Length: {len(data)}\r\n\r\n".encode() + data
            )
            before, came = time.monotonic(), first
            while line := await reader.readline():
                if line.startswith(b"event: token"):
                    now = time.monotonic()
                    came.append(1000 * (now - before))
                    before, came = now, gaps
                elif line.startswith(b"event: done"):
                    break
            writer.close()

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return first, gaps


async def beside_a_search(clients: int, seconds: float) -> dict[int, list[float]]:
    """What requests take while one search goes on."""
    search, spent = Line(PORT), dict[int, list[float]]()
    await search.send("/v1/hunt", {"count": 1_000_000, "model": MODEL, "task": "addition"})
    assert search.reader is not None
    assert b" 200 " in await search.reader.readline()
    await asyncio.gather(*(asker(number, seconds, spent) for number in range(clients)))
    search.hang_up()
    return spent


def crowd(clients: int, seconds: float) -> None:
    """So many clients, who wait when they are told to."""

    async def ask() -> None:
        spent: dict[int, list[float]] = {}
        await asyncio.gather(*(asker(number, seconds, spent) for number in range(100, 100 + clients)))

    asyncio.run(ask())


async def overloaded(seconds: int) -> dict[int, list[float]]:
    """What a few clients see beside ten times as many as usual."""
    spent: dict[int, list[float]] = {}
    others = multiprocessing.Process(target=crowd, args=(TENFOLD, seconds + 2))
    others.start()
    await asyncio.sleep(1)
    await asyncio.gather(*(asker(number, seconds, spent) for number in range(ASKERS)))
    others.join()
    return spent


async def stormed(seconds: int, folder: Path) -> dict[int, list[float]]:
    """The same, where the others do not wait."""
    spent: dict[int, list[float]] = {}
    others = asyncio.create_task(
        asyncio.to_thread(load, SERVERS[OURS], TENFOLD, seconds + 2, folder, refusals=True)
    )
    await asyncio.sleep(1)
    await asyncio.gather(*(asker(number, seconds, spent) for number in range(ASKERS)))
    print(f"  the others: {(await others)['rate']:,.0f} answers and refusals a second")
    return spent


def said(spent: list[float]) -> str:
    """Half, and 99 in 100."""
    ordered = sorted(spent)
    half, most = statistics.median(ordered), ordered[len(ordered) * 99 // 100]
    return f"p50 {half:.1f} ms, p99 {most:.1f} ms (n = {len(ordered):,})"


def timed(name: str, work: Callable[[], Awaitable[dict[int, list[float]]]]) -> None:
    for status, spent in sorted(asyncio.run(work()).items()):  # type: ignore[arg-type]
        print(f"{name}, status {status}: {said(spent)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each part")
    parser.add_argument("--overload", type=int, default=60, help="seconds of it")
    options = parser.parse_args()
    process, times = started()
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(process, times, options, Path(folder))
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        print(f"SIGTERM: exit code {process.wait(60)} after {time.monotonic() - begun:.1f} s")
    finally:
        if process.poll() is None:
            ended(process)


def measure(
    process: subprocess.Popen[bytes], times: dict[str, float], options: argparse.Namespace, folder: Path
) -> None:
    ready = megabytes(process)
    print(", ".join(f"{path} after {spent:.2f} s" for path, spent in times.items()), f"{ready:.0f} MB")
    usual: dict[str, Any] = load(SERVERS[OURS], USUAL, options.seconds, folder)
    print(f"{USUAL} clients: {usual['rate']:,.0f} answers/s, p50 {usual['p50']} ms, p99 {usual['p99']} ms")
    rate = asyncio.run(many(2, options.seconds))
    print(f"{ROWS} expressions a request, 2 clients: {rate:,.0f} problems/s")
    for clients in (1, 16):
        first, gaps = asyncio.run(streams(clients, options.seconds))
        print(f"{clients} streams at temperature 0.8: first token {said(first)}; between tokens {said(gaps)}")
    timed("16 clients", lambda: asyncio.wait_for(beside_a_search(16, options.seconds), 600))
    before = megabytes(process)
    timed(f"{TENFOLD} clients who wait", lambda: overloaded(options.overload))
    timed(f"{TENFOLD} clients who do not", lambda: stormed(options.seconds, folder))
    begun = time.monotonic()
    spent: dict[int, list[float]] = {}
    while not spent or spent.get(200, [1000])[-1] > 2 * usual["p50"]:
        asyncio.run(asyncio.wait_for(asker(0, 0.01, spent), 60))
    print(
        f"as usual {time.monotonic() - begun:.2f} s after that; memory {ready:.0f} MB when ready, {before:.0f} before, "
        f"{megabytes(process):.0f} now"
    )


if __name__ == "__main__":
    main()
