"""A server in a process of its own, as people start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Server:
    """`mathllm serve` on a free port: `url` is where it is."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "mathllm", "serve", "--port", "0", *arguments]
        # a pipe that nobody reads would stop it
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.said, text=True, env={**os.environ, **environment}
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.end()
        self.port = int(self.url.rpartition(":")[2])

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.get("/readyz")[0] == 200:
                return
            time.sleep(0.02)
        raise AssertionError("it does not get ready")

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def count(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels, or over those with one of them."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        lines = [line for line in lines if label in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code, and what it had to say on stderr."""
        self.process.send_signal(number)
        self.process.wait(60)
        self.said.seek(0)
        return self.process.returncode, self.said.read()


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Server]:
    """A server that is ready, and ended in the end."""
    server = Server(*arguments, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
