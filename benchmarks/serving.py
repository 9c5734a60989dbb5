"""The server beside others around the same model: `python -m benchmarks.serving` (needs wrk).

Each answers random sums of three digits, asked by wrk with so many clients on the same machine; the servers take turns.
The peers (benchmarks/servers) need packages of their own, so that they may run in another environment: `--python`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORT = 8137
CLIENTS = (1, 16, 64, 256)
PEERS = Path(__file__).parent / "servers"
SCRIPT = """
math.randomseed(os.time())
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  return wrk.format(nil, "PATH", nil, string.format('BODY', math.random(0, 999), math.random(0, 999)))
end
"""


@dataclass(frozen=True)
class Server:
    """The command that starts it, but for its interpreter; where it is asked, and how."""

    command: tuple[str, ...]
    path: str = "/predict"
    body: str = '{"equation": "%d+%d="}'


def peer(name: str) -> tuple[str, ...]:
    return (str(PEERS / f"{name}.py"), str(PORT))


OURS = "mathllm serve"
SERVERS = {
    OURS: Server(
        ("-m", "mathllm", "serve", "--checkpoint", "addsub-3digit", "--port", str(PORT), "--max-queue", "512")
    ),
    "FastAPI, one at a time": Server(peer("one_at_a_time")),
    "LitServe, batches of 32": Server(peer("lit")),
    "BentoML, batches of 32": Server(
        ("-m", "bentoml", "serve", "bento:Solver", "--port", str(PORT), "--working-dir", str(PEERS)),
        body='{"equation": ["%d+%d="]}',
    ),
    "Gradio's API": Server(peer("gradio_page"), path="/gradio_api/run/predict", body='{"data": ["%d+%d="]}'),
}


def started(server: Server, python: str) -> subprocess.Popen[bytes]:
    """A server that answers."""
    process = subprocess.Popen(
        [python, *server.command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{server.path}",
        (server.body % (123, 456)).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(900):
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                if b"579" in answer.read():
                    return process
        except OSError:
            pass
        time.sleep(0.1)
    ended(process)
    raise SystemExit(f"{server.command} does not answer")


def ended(process: subprocess.Popen[bytes]) -> None:
    """Tells a server, and what it has started, to end."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    time.sleep(1)


def load(
    server: Server, clients: int, seconds: int, folder: Path, *, refusals: bool = False
) -> dict[str, float]:
    """What wrk finds: answers a second, and milliseconds that half and 99% of them took. Where no `refusals` are
    expected, there must be none."""
    script = folder / "ask.lua"
    script.write_text(SCRIPT.replace("PATH", server.path).replace("BODY", server.body))
    command = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "--latency",
        "-s",
        str(script),
    ]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{PORT}"], capture_output=True, text=True, check=True
    ).stdout
    assert refusals or "Non-2xx" not in said, said
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    shares = {
        f"p{share}": float(number) * units[unit]
        for share, number, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate
    return {"rate": float(rate[1]), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(SERVERS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that the peers run in")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk: apt-get install wrk")
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        for _ in range(options.rounds):
            for name in options.only or SERVERS:
                server = SERVERS[name]
                process = started(server, sys.executable if name == OURS else options.python)
                try:
                    load(server, 16, 1, folder)  # to warm up
                    for clients in CLIENTS:
                        found.setdefault((name, clients), []).append(
                            load(server, clients, options.seconds, folder)
                        )
                finally:
                    ended(process)
    print("| server | clients | answers/s | half within | 99% within |\n| --- | --- | --- | --- | --- |")
    for (server, clients), runs in found.items():
        middle: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {server} | {clients} | {middle['rate']:,.0f} | {middle['p50']:.1f} ms | {middle['p99']:.1f} ms |"
        )


if __name__ == "__main__":
    main()
