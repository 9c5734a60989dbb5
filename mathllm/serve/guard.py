"""Who may ask, and how much: what stands around all routes, as plain ASGI."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mathllm.serve.jobs import request_id
from mathllm.serve.observe import Metrics, Summary
from mathllm.serve.settings import LOOPBACK

MOST_BODY = MOST_HEADERS = 1 << 16  # bytes
CALLERS = 10_000  # whose rate is remembered
OPEN = ("/", "/health", "/livez", "/readyz", "/version")  # without a key; the page's files are open too
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPENAI = ("/v1/completions", "/v1/chat/completions", "/v1/models")  # whose errors look as theirs do
PROBES = ("/health", "/livez", "/readyz", "/metrics")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

log = logging.getLogger("mathllm.serve")


class Refusal(NamedTuple):
    """Why a request goes no further."""

    status: int
    type: str
    message: str
    hint: str
    headers: Mapping[str, str] = {}


LOGIN = {"www-authenticate": "Bearer"}
TOO_LARGE = Refusal(413, "too_large", f"a body has at most {MOST_BODY:,} bytes", "ask in several requests")
FAILED = Refusal(500, "internal", "something went wrong on our side", "the id finds it in the log")


class Rates:
    """A bucket of requests for each caller, that fills again at `rate` a second."""

    def __init__(self, rate: float) -> None:
        self.rate, self.most = rate, max(1.0, rate)
        self.buckets: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> int:
        """Takes one; 0, or the seconds until there is one again."""
        now = time.monotonic()
        left, since = self.buckets.get(caller, (self.most, now))
        left = min(self.most, left + (now - since) * self.rate)
        if left < 1:
            return max(1, math.ceil((1 - left) / self.rate))
        if len(self.buckets) >= CALLERS and caller not in self.buckets:
            del self.buckets[next(iter(self.buckets))]
        self.buckets.pop(caller, None)  # the last to come is the last to be forgotten
        self.buckets[caller] = (left - 1, now)
        return 0


class Guard:
    """Gives every request an id, checks Host, key, rate, kind and size before anything is read, adds the security
    headers, and logs a line when it is answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        summary: Summary,
        keys: Iterable[str] = (),
        admin_key: str = "",
        hosts: Iterable[str] = LOOPBACK,
        origins: Iterable[str] = (),
        rate: float = 0.0,
    ) -> None:
        self.app, self.metrics, self.summary = app, metrics, summary
        self.keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.admin = hashlib.sha256(admin_key.encode()).digest() if admin_key else None
        self.hosts, self.origins = frozenset(host.lower() for host in hosts), frozenset(origins)
        self.rates = Rates(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        asked = headers.get("x-request-id", "")
        known = asked if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", asked) else str(uuid.uuid4())
        token = request_id.set(known)
        scope.setdefault("state", {}).update(request_id=known)
        started, body = time.monotonic(), Body(receive)
        sent = {"x-request-id": known, **self._cors(headers)}
        answer = Answer(send, body, path=scope["path"], started=started, headers=sent)
        try:
            refusal = self._refusal(scope, headers)
            asks_first = scope["method"] == "OPTIONS" and headers.get("origin", "") in self.origins
            if asks_first and (refusal is None or refusal.status == 401):  # browsers ask without a key
                await answer.allow()
            elif refusal is not None:
                await answer.refuse(refusal)
            else:
                await self.app(scope, body.receive, answer.send)
        except Exception:
            log.exception("a request failed")
            if not answer.status:
                await answer.refuse(FAILED)
        finally:
            self._note(scope, answer, started, body)
            request_id.reset(token)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        path, method = scope["path"], scope["method"]
        host = re.sub(r":\d+\Z", "", headers.get("host", "").lower())
        if "*" not in self.hosts and host not in self.hosts:
            message = "this server does not answer to that name"
            return Refusal(403, "host_not_allowed", message, "--allowed-hosts has those that it answers to")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
            return Refusal(431, "too_large", f"headers have at most {MOST_HEADERS:,} bytes", "send fewer")
        caller = (scope.get("client") or ("",))[0]
        opened = path in OPEN or path.startswith("/static/")
        if path.startswith("/admin/"):
            if self.admin is None or not same(key_of(headers), [self.admin]):
                return Refusal(
                    401, "unauthorized", "this needs another key", "it is in MATHLLM_ADMIN_KEY", LOGIN
                )
        elif self.keys and not opened:
            if not same(key_of(headers), self.keys):
                hint = "send Authorization: Bearer KEY, or X-API-Key: KEY"
                return Refusal(401, "unauthorized", "an API key is needed", hint, LOGIN)
            caller = key_of(headers)
            known_fields(scope, key_id=hashlib.sha256(caller.encode()).hexdigest()[:8])
        if self.rates is not None and not opened and path not in PROBES and (wait := self.rates.wait(caller)):
            again = {"retry-after": str(wait)}
            return Refusal(429, "rate_limited", "too many requests from you", f"try again in {wait} s", again)
        if method in ("POST", "PUT", "PATCH"):
            if int_of(headers.get("content-length", "0")) > MOST_BODY:
                return TOO_LARGE
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            brings = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
            if brings and kind != "application/json":
                return Refusal(415, "not_json", "only JSON is read", "say so: Content-Type: application/json")
        return None

    def _cors(self, headers: Mapping[str, str]) -> dict[str, str]:
        origin = headers.get("origin", "")
        if origin not in self.origins:
            return {}
        allowed = {"access-control-allow-origin": origin, "vary": "Origin"}
        return allowed | {
            "access-control-allow-headers": "authorization, content-type, x-api-key, x-deadline-ms, x-request-id",
            "access-control-allow-methods": "GET, POST",
            "access-control-expose-headers": "retry-after, x-request-id",
        }

    def _note(self, scope: Scope, answer: Answer, started: float, body: Body) -> None:
        spent = time.monotonic() - started
        route = getattr(scope.get("route"), "path", None) or scope["state"].get("route", "other")
        status = answer.status or 499  # the client has gone
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.duration.labels(route).observe(spent)
        if answer.first is not None:
            self.metrics.first.observe(answer.first)
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "ms_total": round(1000 * spent, 2),
        }
        fields |= {"bytes_in": body.size} | scope["state"].get("fields", {})
        if route in PROBES:
            log.debug("request", extra={"fields": fields})
            return
        self.summary.add(spent, status)
        if reason := scope["state"].get("rejected") or {
            401: "key",
            403: "host",
            413: "size",
            429: "rate",
        }.get(status):
            self.metrics.rejected.labels(reason).inc()
        log.info("request", extra={"fields": fields})


class Body:
    """What a client sends, counted as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.size = receive, 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            if self.too_large:
                return {"type": "http.disconnect"}
        return message

    @property
    def too_large(self) -> bool:
        return self.size > MOST_BODY


class Answer:
    """What is sent: with the headers that all answers have, and a note of the status."""

    def __init__(self, send: Send, body: Body, *, path: str, started: float, headers: dict[str, str]) -> None:
        self._send, self.body, self.path, self.started = send, body, path, started
        self.headers = {**HEADERS, **headers}
        self.status, self.refused = 0, False
        self.first: float | None = None  # seconds until the first piece of a stream
        self._streams = False

    async def send(self, message: Message) -> None:
        if self.body.too_large and not self.refused:  # whatever came of the part that was read
            await self.refuse(TOO_LARGE)
        elif not self.body.too_large:
            await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = [(name.lower(), value) for name, value in message.get("headers", [])]
            names = {name for name, _ in given}
            self._streams = (b"content-type", b"text/event-stream; charset=utf-8") in given
            added = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
            message = {**message, "headers": given + [pair for pair in added if pair[0] not in names]}
        elif self._streams and self.first is None and message.get("body"):
            self.first = time.monotonic() - self.started
        await self._send(message)

    async def allow(self) -> None:
        """What a browser asks before a page from elsewhere may ask: nothing is read or done for it."""
        await self._pass({"type": "http.response.start", "status": 204, "headers": []})
        await self._pass({"type": "http.response.body"})

    async def refuse(self, why: Refusal) -> None:
        """An answer of our own."""
        self.refused = True
        error: dict[str, Any] = {"type": why.type, "message": why.message, "hint": why.hint}
        error = as_openai(error) if self.path in OPENAI else error
        text = json.dumps({"error": {**error, "request_id": self.headers["x-request-id"]}}).encode()
        pairs = {"content-type": "application/json", "content-length": str(len(text)), **why.headers}
        headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
        await self._pass({"type": "http.response.start", "status": why.status, "headers": headers})
        await self._pass({"type": "http.response.body", "body": text})


def as_openai(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    hint = f" ({error['hint']})" if error.get("hint") else ""
    return {
        "message": error["message"] + hint,
        "type": error["type"],
        "param": error.get("param"),
        "code": error["type"],
    }


def key_of(headers: Mapping[str, str]) -> str:
    """The key that a request brings."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def same(key: str, digests: Iterable[bytes]) -> bool:
    """Is it one of these keys? All are compared, in a time that does not depend on which."""
    digest = hashlib.sha256(key.encode()).digest()
    return bool(sum([hmac.compare_digest(digest, one) for one in digests]))


def int_of(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def known_fields(scope: Scope, **fields: Any) -> None:
    """What the log's line of this request is to say, too."""
    scope["state"].setdefault("fields", {}).update(fields)
