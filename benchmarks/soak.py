"""Is no answer lost or mixed up? `python -m benchmarks.soak [--clients 200] [--requests 500] [--repeat 1]`.

So many clients ask a server of its own process so many sums and differences each, one in ten hangs up without waiting,
the model is put away and back meanwhile, and SIGTERM comes before all is done. Some ask without a draft, some name no
model. Every answer has to be whole, and the text that `MathModel.solve` writes; what was refused has to say so; and
each request that the server's log calls answered has to have come to who asked, and none may be given up in it whose
client had not hung up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import IO, Any

import mathllm
from mathllm.finding import SHIPPED

MODEL, KEY = "addsub-3digit", "soak"
HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer soak\r\n"
WAYS: tuple[dict[str, Any], ...] = ({"model": MODEL}, {"model": MODEL}, {}, {"draft": False})


class Line:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: Any = None

    async def send(self, path: str, body: Any, known: str = "") -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        named = f"X-Request-Id: {known}\r\n" if known else ""
        self.writer.write(
            f"{HEAD.format(path=path)}{named}Content-Length: {len(data)}\r\n\r\n".encode() + data
        )
        await self.writer.drain()

    async def read(self) -> tuple[int, Any]:
        assert self.reader is not None
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length, head
        body = await self.reader.readexactly(int(length[1]))
        if b"connection: close" in head.lower():
            self.hang_up()
        return int(head.split(b" ", 2)[1]), json.loads(body)

    def hang_up(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def client(
    number: int, port: int, requests: int, truth: dict[str, str], counts: Counter[str], fates: dict[str, str]
) -> None:
    """Asks one after the other, until all is asked or the server is gone; `fates` has the ids of what was `answered`,
    or not waited for (`hung up`)."""
    rng, line = random.Random(number), Line(port)
    for at in range(requests):
        problem, known = rng.choice(PROBLEMS), f"{number}-{at}"
        try:
            await line.send("/v1/solve", {"expressions": [problem], **rng.choice(WAYS)}, known)
            if rng.random() < 0.1:
                line.hang_up()
                counts["hung up"] += 1
                fates[known] = "hung up"
                continue
            status, found = await line.read()
        except (ConnectionError, asyncio.IncompleteReadError, OSError):
            line.hang_up()
            counts["not connected" if ENDING.is_set() else "LOST"] += 1
            if ENDING.is_set():
                return
            continue
        if status == 200:
            (result,) = found["results"]
            same = result.get("text") == truth[problem] and result["expression"] == problem
            counts["answered" if same and known not in fates else "WRONG"] += 1
            fates[known] = "answered"
        elif status == 503 and found["error"]["type"] in ("overloaded", "draining"):
            counts[f"refused: {found['error']['type']}"] += 1
            await asyncio.sleep(0.05)
        else:
            counts[f"STATUS {status}"] += 1


def status_of(port: int, path: str) -> int:
    """The status of an answer; 0 where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def megabytes(process: subprocess.Popen[bytes]) -> float:
    """Its resident memory."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))
    return int(kilobytes) / 1024


async def soak(
    port: int,
    process: subprocess.Popen[bytes],
    options: argparse.Namespace,
    truth: dict[str, str],
    fates: dict[str, str],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    ENDING.clear()
    clients = [
        asyncio.create_task(client(number, port, options.requests, truth, counts, fates))
        for number in range(options.clients)
    ]
    admin = Line(port)
    for body in ({"path": options.copy}, {"path": str(SHIPPED / MODEL)}, {"rollback": True}):
        await asyncio.sleep(options.pause)
        await admin.send(f"/admin/models/{MODEL}", body)
        status, found = await admin.read()
        assert status == 200, found
    whole, memory = options.clients * options.requests, []
    for part in (0.1, 0.95):
        while sum(counts.values()) < part * whole:
            await asyncio.sleep(0.05)
        memory.append(megabytes(process))
    print(f"{memory[0]:.0f} MB after a tenth, {memory[1]:.0f} MB before SIGTERM", flush=True)
    ENDING.set()
    process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    return counts


ENDING = asyncio.Event()
PROBLEMS = [f"{a}{sign}{b}" for a in range(0, 1000, 37) for b in range(0, 1000, 41) for sign in "+-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each change of the model")
    options = parser.parse_args()
    model = mathllm.load(MODEL)
    truth = {solution.expression: solution.text for solution in model.generate(PROBLEMS)}
    with tempfile.TemporaryDirectory() as folder:
        # the same weights, but for the last bit of one that changes no answer: another version
        options.copy = str(Path(folder) / "copy")
        subprocess.run(["cp", "-r", str(SHIPPED / MODEL), options.copy], check=True)
        change(Path(options.copy) / "model.safetensors")
        for round_ in range(options.repeat):
            command = [
                sys.executable,
                "-m",
                "mathllm",
                "serve",
                "--model",
                f"{MODEL}={MODEL}",
                "--port",
                "0",
                "--max-queue",
                "256",
            ]
            with tempfile.TemporaryFile() as log:
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "MATHLLM_ADMIN_KEY": KEY}
                )
                assert process.stdout
                port = int(process.stdout.readline().decode().strip().rpartition(":")[2])
                while status_of(port, "/readyz") != 200:
                    time.sleep(0.1)
                started = time.monotonic()
                fates: dict[str, str] = {}
                counts = asyncio.run(soak(port, process, options, truth, fates))
                code = process.wait(60)
                counts["LOST"] += lost(log, fates)
            bad = {
                name: count
                for name, count in counts.items()
                if count and (name.isupper() or name.startswith("STATUS"))
            }
            spent = time.monotonic() - started
            print(f"round {round_ + 1}: {dict(counts)}, {spent:.0f} s, exit code {code}", flush=True)
            if bad or code:
                raise SystemExit(f"not whole: {bad}, exit code {code}")


def lost(log: IO[bytes], fates: dict[str, str]) -> int:
    """How many requests a server's log calls answered, or given up, that did not fare so for who asked."""
    log.seek(0)
    lines = (json.loads(line) for line in log if line.startswith(b"{"))
    logged = {line["request_id"]: line["status"] for line in lines if line.get("route") == "/v1/solve"}
    bad = [
        (known, status)
        for known, status in logged.items()
        if status != 503
        and fates.get(known) not in (("answered", "hung up") if status == 200 else ("hung up",))
    ]
    print(*bad[:5], file=sys.stderr)
    return len(bad)


def change(path: Path) -> None:
    """Another hash, and next to the same weights."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] *= 1 + 1e-7
    save_file(weights, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
