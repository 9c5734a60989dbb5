"""What a server tells of itself: metrics for Prometheus, and a line of JSON for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mathllm import __version__
from mathllm.serve.engine import Engine
from mathllm.serve.jobs import Outcome, Solved, request_id
from mathllm.serve.versions import Shelf

QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
MINUTE = 60.0

log = logging.getLogger("mathllm.serve")


class Metrics:
    """All of them in a registry of their own. Labels are bounded: templates of routes, and models that are loaded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def of(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"mathllm_{name}", text, labels, registry=self.registry, **more)

        self.requests = of(Counter, "http_requests", "Requests answered", ("route", "method", "status"))
        self.duration = of(
            Histogram,
            "http_request_duration_seconds",
            "From the first byte to the last",
            ("route",),
            buckets=QUICK,
        )
        self.wait = of(
            Histogram,
            "queue_wait_seconds",
            "From its admission until work on a request begins",
            buckets=QUICK,
        )
        self.first = of(Histogram, "time_to_first_token_seconds", "Of streams", buckets=QUICK)
        self.rows = of(Histogram, "batch_rows", "Texts read at once", buckets=SIZES)
        self.batch = of(Histogram, "batch_tokens", "Tokens read or decoded at once", ("kind",), buckets=SIZES)
        self.gap = of(Histogram, "inter_token_seconds", "Between tokens of a stream", buckets=QUICK)
        self.busy = of(Counter, "engine_busy_seconds", "Time in which the engine has computed", ("kind",))
        self.tokens = of(Counter, "tokens", "Tokens read and written", ("model", "kind"))
        self.drafts = of(Counter, "draft_rows", "Rows whose truth was tried as a draft", ("model", "outcome"))
        self.answers = of(
            Counter, "answers", "Answers, right or wrong: live exact match", ("model", "verdict", "seen")
        )
        self.rejected = of(Counter, "rejected", "Requests that were refused", ("reason",))
        self.cancelled = of(Counter, "cancelled", "Requests whose client has gone")
        self.queued = of(Gauge, "queue_requests", "Requests admitted and not answered")
        self.queued_tokens = of(Gauge, "queue_tokens", "Tokens that these may take")
        self.since = of(Gauge, "engine_last_progress_seconds", "Seconds since the engine last began a turn")
        self.models = of(Gauge, "model_info", "Models that answer", ("model", "version", "format", "task"))
        of(Gauge, "build_info", "The version of mathllm", ("version",)).labels(__version__).set(1)

    def observe(self, name: str, value: float, kind: str = "") -> None:
        """What the engine tells, in its thread."""
        if name == "busy_seconds":
            self.busy.labels(kind).inc(value)
        elif name == "batch_tokens":
            self.batch.labels(kind).observe(value)
        else:
            {"queue_wait_seconds": self.wait, "batch_rows": self.rows, "inter_token_seconds": self.gap}[
                name
            ].observe(value)

    def answered(self, outcome: Outcome) -> None:
        """Counts what came of a row."""
        if not isinstance(outcome, Solved):
            return
        name, seen = outcome.version.name, "no" if outcome.solution.unseen else "yes"
        self.answers.labels(name, verdict_of(outcome), seen).inc()
        self.tokens.labels(name, "prompt").inc(outcome.prompt)
        self.tokens.labels(name, "completion").inc(len(outcome.ids))
        if outcome.drafted:
            self.drafts.labels(name, "accepted" if outcome.decoding == "draft" else "decoded").inc()

    def text(self, engine: Engine, shelf: Shelf) -> bytes:
        """All of it, as Prometheus reads it."""
        self.queued.set(engine.requests)
        self.queued_tokens.set(engine.tokens)
        self.since.set(time.monotonic() - engine.progress)
        self.models.clear()
        for version in shelf.newest:
            about = version.model.data
            self.models.labels(version.name, version.digest[:8], about.format, about.task).set(1)
        return generate_latest(self.registry)


def verdict_of(solved: Solved) -> str:
    """What an answer comes to, in a word."""
    solution = solved.solution
    if solution.correct:
        return "right"
    if solution.reason != "end":
        return "unended"
    return "unreadable" if solution.answer is None else "wrong"


class JsonLines(logging.Formatter):
    """Each record as a line of JSON, with the id of the request that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if known := request_id.get():
            line["request_id"] = known
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(level: int = logging.INFO) -> None:
    """Lines of JSON on stderr, ours and uvicorn's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("mathllm.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = (
            [handler] if name != "uvicorn.error" else [],
            name == "uvicorn.error",
        )
        logger.setLevel(level)


class Summary:
    """Requests of the last minute, for one line about all of them."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=100_000)
        self.counts: Tally[str] = Tally()

    def add(self, seconds: float, status: int) -> None:
        self.times.append(seconds)
        self.counts["rejected"] += status in (429, 503)

    def answered(self, outcome: Outcome) -> None:
        if isinstance(outcome, Solved):
            self.counts["right" if outcome.solution.correct else "wrong"] += 1

    def take(self) -> Mapping[str, Any] | None:
        """What happened since the last call; None: nothing."""
        times, counts = sorted(self.times), self.counts
        self.times, self.counts = deque(maxlen=100_000), Tally()
        if not times:
            return None
        at = {
            f"p{share}_ms": round(1000 * times[min(len(times) - 1, len(times) * share // 100)], 2)
            for share in (50, 95, 99)
        }
        return {
            "requests": len(times),
            **at,
            **{name: counts[name] for name in ("right", "wrong", "rejected")},
        }
