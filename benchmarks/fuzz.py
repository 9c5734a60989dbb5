"""Is there anything that makes the server fail? `python -m benchmarks.fuzz [--requests 100000] [--seed 0]`.

Requests are valid ones with something wrong: values that are too long, of another type or not numbers, fields left out
or added, bytes turned over, other methods, kinds and lengths. No answer may be a failure of ours (500), each refusal
says why, what to do and its id, and the server is as well at the end as at the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from typing import Any

from benchmarks.serving import PORT, ended
from benchmarks.serving_limits import started
from benchmarks.soak import megabytes, status_of

CLIENTS = 16
BODIES: dict[str, list[dict[str, Any]]] = {
    "/predict": [{"equation": "951+11="}],
    "/v1/solve": [
        {
            "expressions": ["658+189", "5-7"],
            "model": "addsub-3digit",
            "temperature": 0.8,
            "top_k": 3,
            "top_p": 0.9,
            "seed": 1,
        },
        {"expressions": ["658+189=<think>8+9=1"], "model": "addsub-3digit", "tokens": True, "draft": False},
        {"expressions": ["1+2"], "stream": True},
    ],
    "/v1/explain": [{"expression": "12+34"}, {"text": "658+189=<think>8+9=17", "model": "addsub-3digit"}],
    "/v1/hunt": [{"kind": "carry", "task": "addition", "digits": 3, "count": 50, "seed": 1, "keep": 5}],
    "/v1/completions": [
        {
            "model": "addsub-3digit",
            "prompt": "658+189",
            "max_tokens": 8,
            "n": 2,
            "logprobs": 3,
            "echo": True,
            "seed": 1,
        },
        {
            "prompt": [6, 5, 8],
            "temperature": 0.5,
            "top_p": 0.5,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
    "/v1/chat/completions": [
        {
            "messages": [{"role": "user", "content": "12+34"}],
            "max_completion_tokens": 9,
            "logprobs": True,
            "top_logprobs": 2,
        }
    ],
    "/admin/models/addsub-3digit": [{"path": "/etc/passwd"}, {"rollback": True}],
}
READ = (
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/version",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/static/app.js",
    "/static/../x",
    "/%00",
    "/nothing",
)
NUMBERS = (0, -1, 1.5, -0.0, 1e308, float("nan"), 2**31, 2**63, 2**64, 10**40)
TEXTS = (
    "",
    "1",
    "+",
    "=",
    "1+",
    "1+1=",
    "1 + 1",
    "1+1\n",
    "1/0",
    "2**3",
    "6/-2",
    "((1))",
    "1+1" * 500,
    "9" * 5000,
)
MARKS = (
    "<think>",
    "</think>",
    "<end>",
    "1+1=<think><think>",
    "%s%n",
    "../../etc/passwd",
    "NaN",
    "9" * 5000 + "+1",
)
SCRIPTS = (
    "\0",
    "\ud800",
    "\u0663+\u0664",
    "\uff11+\uff12",
    "\uff11",
    "\U0001d7d9+1",
    "\u202e1+1",
)  # other digits, and none
SHAPES = (None, True, False, [], {}, [[]], [1], ["1+1"] * 1025, [None], {"a": 1}, [[[[]]]])
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, *MARKS, *SCRIPTS, *SHAPES)
KINDS = (*["application/json"] * 20, "text/plain", "", "application/json; charset=utf-16")
HOSTS = (*["localhost"] * 20, "evil.example", "")


def changed(rng: random.Random, body: Any) -> Any:
    """The same with another value, a field more or one less, somewhere in it."""
    if isinstance(body, dict) and body and rng.random() < 0.9:
        name = rng.choice(list(body))
        kind = rng.random()
        if kind < 0.1:
            return {key: value for key, value in body.items() if key != name}
        if kind < 0.2:
            return {**body, rng.choice([*OTHERS, name + "x", ""]): rng.choice(VALUES)}
        return {**body, name: changed(rng, body[name])}
    if isinstance(body, list) and body and rng.random() < 0.7:
        at = rng.randrange(len(body))
        return [*body[:at], changed(rng, body[at]), *body[at + 1 :]]
    if isinstance(body, str) and body and rng.random() < 0.4:
        at = rng.randrange(len(body))
        return (
            body[:at]
            + rng.choice(("", chr(rng.randrange(1, 0x3000)), rng.choice("0123456789+-*/%=<>()")))
            + body[at + 1 :]
        )
    return rng.choice(VALUES)


OTHERS = sorted({name for bodies in BODIES.values() for body in bodies for name in body})


def request(rng: random.Random) -> bytes:
    """A request, as it goes over the wire."""
    if rng.random() < 0.05:
        path, data, method = (
            rng.choice(READ),
            b"",
            rng.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")),
        )
    else:
        path, method = rng.choice(list(BODIES)), "POST"
        body: Any = rng.choice(BODIES[path])
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            body = changed(rng, body)
        data = json.dumps(body).encode()
        if rng.random() < 0.1:  # not JSON any more, mostly
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(3) :]
        if rng.random() < 0.02:
            data = b"[" * rng.randrange(1, 30_000)
        if rng.random() < 0.05:
            path, method = rng.choice(list(BODIES)), rng.choice(("GET", "PUT", "POST", "DELETE"))
    lines = [f"{method} {path} HTTP/1.1", f"Host: {rng.choice(HOSTS)}"]
    lines.append(f"Content-Type: {rng.choice(KINDS)}")
    lines.append(f"X-Request-Id: {rng.choice(['a-1', 'x' * 65, '<>', ''])}")
    if path.startswith("/admin") and rng.random() < 0.9:
        lines.append("Authorization: Bearer " + rng.choice(("fuzz", "fuz", "", "\xe4")))
    if rng.random() < 0.05:
        lines.append(f"X-Deadline-Ms: {rng.choice(('0', '-1', '1e9', '9' * 30, 'x'))}")
    if rng.random() < 0.1 and data:
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (data[:7], data[7:]) if piece)
        return (
            "\r\n".join([*lines, "Transfer-Encoding: chunked", "\r\n"]).encode("latin-1")
            + pieces
            + b"0\r\n\r\n"
        )
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "\r\n"]).encode("latin-1") + data


async def answered(reader: asyncio.StreamReader, head_only: bool) -> tuple[int, bytes, bytes]:
    """Status, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = re.search(rb"content-length: (\d+)", head.lower())
    body = b""
    if length and not head_only:
        body = await reader.readexactly(int(length[1]))
    elif b"transfer-encoding: chunked" in head.lower() and not head_only:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return status, head, body


def why_bad(asked: bytes, status: int, head: bytes, body: bytes) -> str:
    """What is wrong with an answer; nothing, where it is as it should be."""
    if status >= 500 and status not in (503, 504):
        return "our fault"
    if status < 400 or asked.startswith(b"HEAD"):
        return ""
    if status in (429, 503) and b"retry-after" not in head.lower():
        return "no Retry-After"
    if b"x-request-id" not in head.lower():
        return "" if status == 400 and b"Invalid HTTP" in body else "no request id"
    found = json.loads(body)
    if b" /predict " in asked.partition(b"\r")[0] and "detail" in found:
        return ""  # as math-llm-poc says it
    error = found.get("error", {})
    wanted = ("message", "type", "request_id", *([] if "param" in error and "code" in error else ["hint"]))
    return "".join(f"no {name}" for name in wanted if not error.get(name))


async def client(number: int, requests: int, seed: int, counts: Counter[str]) -> None:
    rng = random.Random(f"{seed} {number}")
    reader = writer = None
    asked = b""
    for _ in range(requests):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 22)
        assert reader is not None
        before, asked = asked, request(rng)
        writer.write(asked)
        try:
            status, head, body = await asyncio.wait_for(answered(reader, asked.startswith(b"HEAD")), 60)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            counts["NO ANSWER"] += 1
            print("no answer:", asked[:300], repr(error), "behind", before[:300], flush=True)
            writer = None
            continue
        counts[str(status)] += 1
        if bad := why_bad(asked, status, head, body):
            counts[f"BAD: {bad}"] += 1
            print(f"{bad}:", asked[:600], head[:20], body[:300], flush=True)
        if b"connection: close" in head.lower():
            writer.close()
            writer = None


async def fuzz(options: argparse.Namespace) -> Counter[str]:
    counts: Counter[str] = Counter()
    share = options.requests // CLIENTS
    await asyncio.gather(*(client(number, share, options.seed, counts) for number in range(CLIENTS)))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    process, _ = started(MATHLLM_ADMIN_KEY="fuzz")
    try:
        before, begun = megabytes(process), time.monotonic()
        counts = asyncio.run(fuzz(options))
        spent = time.monotonic() - begun
        answers = sum(n for name, n in counts.items() if name.isdigit())
        print(f"{answers:,} answers in {spent:.0f} s: {dict(sorted(counts.items()))}")
        print(f"memory {before:.0f} MB before, {megabytes(process):.0f} MB after")
        print(f"/livez {status_of(PORT, '/livez')}, /readyz {status_of(PORT, '/readyz')}")
        if (
            any(name.isupper() or name.startswith("BAD") for name in counts)
            or status_of(PORT, "/readyz") != 200
        ):
            raise SystemExit("not as it should be")
    finally:
        ended(process)


if __name__ == "__main__":
    main()
