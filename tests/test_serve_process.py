"""The server as a process: how it begins and ends, and clients that do not behave."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from serving import Server, serving

from mathllm.finding import SHIPPED

SLOW = {"expressions": ["658+189"] * 20, "model": "addsub-3digit", "temperature": 0.5}

HEAD = b"POST /v1/solve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def raw(server: Server, text: bytes, read: int = 1 << 16) -> bytes:
    """Sends bytes as they are, and returns what comes back."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line, suppress(ConnectionError):
        line.sendall(text)
        line.shutdown(socket.SHUT_WR)
        while part := line.recv(read):
            found += part
    return found


def settled(server: Server) -> None:
    """Waits until nothing is left to be done."""
    end = time.monotonic() + 30
    while server.count("mathllm_queue_requests") and time.monotonic() < end:
        time.sleep(0.02)
    assert server.count("mathllm_queue_requests") == 0


def test_of_two_hundred_clients_each_gets_its_own_answer_or_is_told() -> None:
    """A tenth hang up, the model is put away and back meanwhile, and SIGTERM comes near the end."""
    how = ["--clients", "200", "--requests", "5", "--pause", "0.3"]
    command = [sys.executable, "-m", "benchmarks.soak", *how]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "LOST': 0" in ended.stdout


def test_a_client_that_hangs_up_is_not_computed_for(server: Server) -> None:
    before = server.count("mathllm_cancelled_total")
    for streams in (True, False):
        more = {"stream": True} if streams else {"expressions": ["658+189"] * 1000}
        body = json.dumps({**SLOW, **more}).encode()
        text = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        line.sendall(text)
        line.recv(64) if streams else time.sleep(0.3)
        line.close()
        settled(server)
    assert server.count("mathllm_cancelled_total") == before + 2
    assert server.post("/v1/solve", {"expressions": ["1+1"]})[1]["results"][0]["answer"] == "2"


def test_who_has_hung_up_is_499_in_the_counts(server: Server) -> None:
    before = server.count("mathllm_http_requests_total", 'status="499"')
    body = json.dumps({**SLOW, "expressions": ["658+189"] * 1000}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
    settled(server)
    assert server.count("mathllm_http_requests_total", 'status="499"') == before + 1


def test_who_reads_slowly_or_says_nothing_holds_nobody_up(server: Server) -> None:
    body = json.dumps({**SLOW, "stream": True}).encode()
    text = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as lines:

        def connect(said: bytes) -> socket.socket:
            line = lines.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.settimeout(30)
            line.connect(("127.0.0.1", server.port))
            line.sendall(said)
            return line

        slow = connect(text)
        # half a head, a head without its body, nothing at all
        waiting = [connect(said) for said in (text[:20], text[: len(HEAD) + 50], text[:-1], b"") * 5]
        found = b""
        for _ in range(20):
            found += slow.recv(1)
            status, said = server.post("/v1/solve", {"expressions": ["1+1"]})
            assert (status, said["results"][0]["answer"]) == (200, "2")
        while part := slow.recv(1 << 16):
            found += part
        assert found.count(b"event: result") == len(SLOW["expressions"])
        assert b"event: done" in found
        waiting[2].sendall(text[-1:])  # who is only slow to ask is answered
        assert waiting[2].recv(12) == b"HTTP/1.1 200"
    settled(server)


def test_what_is_no_request_or_too_much_of_one(server: Server) -> None:
    assert b" 400 " in raw(server, b"nonsense\r\n\r\n")
    for size, status in ((10**5, b"431"), (10**7, b"400")):
        text = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"a" * size + b"\r\n\r\n"
        # of very much it does not read all before it hangs up
        assert raw(server, text)[9:12] in ((status,) if size == 10**5 else (status, b""))
    chunks = b"".join(b"%x\r\n%s\r\n" % (size, b" " * size) for size in (1 << 16, 16, 0))
    asked = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert b" 413 " in raw(server, asked)
    assert server.get("/livez")[0] == 200


def test_the_health_check_of_the_container(server: Server) -> None:
    for port, code in ((server.port, 0), (1, 1)):
        ended = subprocess.run([sys.executable, "-m", "mathllm.serve.health", str(port)], check=False)
        assert ended.returncode == code


def test_a_port_that_is_taken_is_an_error(server: Server) -> None:
    command = [sys.executable, "-m", "mathllm", "serve", "--port", str(server.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert str(server.port) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_was_taken_in_is_answered_before_it_ends() -> None:
    with serving("--model", "addsub-3digit=addsub-3digit") as server:
        answers: list[int] = []

        def ask() -> None:
            status, found = server.post("/v1/solve", SLOW)
            answers.append(status if status != 200 else len(found["results"]))

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while server.count("mathllm_queue_requests") < 10 and time.monotonic() < end and len(answers) < 10:
            time.sleep(0.01)
        code, said = server.end(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers == [20] * 10
        assert code == 0
        lines = [json.loads(line) for line in said.splitlines()]
        assert sum(line["event"] == "request" and line.get("status") == 200 for line in lines) >= 10
        assert all(line.get("request_id") for line in lines if line["event"] == "request")


def test_what_takes_too_long_ends_with_an_error() -> None:
    with serving("--model", "addsub-3digit=addsub-3digit", "--drain-timeout", "0") as server:
        answers: list[Any] = []
        body = {**SLOW, "expressions": ["658+189"] * 800}
        thread = threading.Thread(target=lambda: answers.append(server.post("/v1/solve", body)))
        thread.start()
        end = time.monotonic() + 30
        while not server.count("mathllm_queue_requests") and time.monotonic() < end:
            time.sleep(0.01)
        code, _ = server.end(signal.SIGINT)
        thread.join()
        status, found = answers[0]
        # some of it may have been answered by then
        errors = [one["error"] for one in found.get("results", [found]) if "error" in one]
        assert (code, status) in ((0, 200), (0, 503))
        assert {one["type"] for one in errors} == {"draining"}


def test_new_weights_are_taken_while_it_runs(tmp_path: Path) -> None:
    place = Path(shutil.copytree(SHIPPED / "addsub-3digit", tmp_path / "model"))
    with serving("--model", f"mine={place}", "--watch") as server:
        before = json.loads(server.get("/version")[1])["models"]
        other = SHIPPED / "add-any-length"
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((other / name).read_bytes())
            (tmp_path / name).replace(place / name)
        end = time.monotonic() + 30
        while json.loads(server.get("/version")[1])["models"] == before and time.monotonic() < end:
            time.sleep(0.2)
        answer = server.post("/v1/solve", {"expressions": ["1234567+7654321"]})[1]["results"][0]
        assert answer["answer"] == str(1234567 + 7654321)
        assert answer["model"] != before[0]
