"""What all routes share: the models, the engine, and how a request waits for what it has asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from mathllm.errors import MathLLMError, UsageError
from mathllm.serve import protocol
from mathllm.serve.engine import Engine
from mathllm.serve.guard import known_fields
from mathllm.serve.jobs import Done, Job, Outcome, Refused, Solved
from mathllm.serve.observe import MINUTE, Metrics, Summary, verdict_of
from mathllm.serve.settings import Settings
from mathllm.serve.versions import Shelf, Version

PING = 15.0  # seconds of silence after which a stream says that it is still there
PINGED = ": still there\n\n"
# so many events that nobody has read, and so many seconds without reading: the client counts as gone
UNREAD, SLOW = 1000, 10.0
PATIENCE = 0.05  # seconds before anyone looks whether the client is still there
WATCHED = 5.0  # seconds between looks for newer weights
EVENTS = {"x-accel-buffering": "no"}  # of streams: no proxy should gather them

log = logging.getLogger("mathllm.serve")


class Service:
    """What all routes share."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics, self.summary = settings, Metrics(), Summary()
        self.shelf = Shelf(settings.models, settings.max_tokens)
        self.engine = Engine(
            self.shelf,
            max_requests=settings.max_queue,
            max_tokens=settings.max_queue_tokens,
            threads=settings.threads,
            observe=self.metrics.observe,
        )
        self.failed: dict[str, str] = {}  # why models could not be loaded that are not there
        self.search: asyncio.Task[None] | None = None  # that was begun last

    async def load(self) -> None:
        """Loads all models, beside the loop; what is missing then may come by --watch, SIGHUP or the admin's route."""
        for name in self.shelf.names:
            try:
                await self.reload(name)
            except Exception as error:
                self.failed[name] = str(error)
                log.exception("model %s could not be loaded", name)

    async def tell(self) -> None:
        """A line a minute about all requests."""
        while True:
            await asyncio.sleep(MINUTE)
            if found := self.summary.take():
                log.info("summary", extra={"fields": dict(found)})

    async def watch(self) -> None:
        """Loads what has changed on disk; what cannot be loaded leaves all as it is."""
        while self.settings.watch:
            await asyncio.sleep(WATCHED)
            for name in self.shelf.names:
                with self._told_of(name):
                    if await asyncio.to_thread(self.shelf.changed, name):
                        await self.reload(name)

    async def reload_all(self) -> None:
        """Reads all models again; what cannot be read leaves all as it is."""
        for name in self.shelf.names:
            with self._told_of(name):
                await self.reload(name)

    @contextlib.contextmanager
    def _told_of(self, name: str) -> Iterator[None]:
        """Logs what goes wrong with a model, and goes on."""
        try:
            yield
        except (MathLLMError, OSError) as error:
            log.warning("model", extra={"fields": {"model": name, "error": str(error)}})
        except Exception:
            log.exception("model %s", name)

    async def reload(self, name: str, path: Path | None = None) -> Version:
        """Reads a model again, from where it is or from another place; requests go on meanwhile."""
        found = await asyncio.to_thread(self.shelf.load, name, path)
        self.failed.pop(name, None)
        log.info("model", extra={"fields": {"model": found.label, "path": str(found.model.path)}})
        return found

    def version(self, name: str | None) -> Version | None:
        """The version that a request names; None where it leaves that open. Raises Unknown where there is none."""
        try:
            return None if name is None else self.shelf.find(name)
        except UsageError as error:
            raise Unknown(error) from None

    def deadline(self, request: Request) -> float:
        """When work on a request has to have begun: the header may shorten the server's own."""
        asked, most = request.headers.get("x-deadline-ms", ""), self.settings.deadline
        shorter = int(asked) / 1000 if re.fullmatch(r"[0-9]{1,9}", asked) else most
        return time.monotonic() + min(most, shorter)

    async def answer(self, request: Request, job: Job) -> list[Outcome]:
        """The outcomes of a job, unless the client goes: then nothing more is computed for it."""
        self.engine.submit(job)
        await asyncio.wait([job.answered], timeout=PATIENCE)
        if not job.answered.done():
            gone = asyncio.create_task(left(request))
            both: list[asyncio.Future[Any]] = [job.answered, gone]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
            if not job.answered.done():
                self.engine.cancel(job)
                self.metrics.cancelled.inc()
                raise Gone
        outcomes = job.answered.result()
        self.note(request, job, outcomes)
        return outcomes

    def note(self, request: Request, job: Job, outcomes: Iterable[Outcome]) -> None:
        """Counts outcomes, and has the log tell of them."""
        outcomes = list(outcomes)
        for outcome in outcomes:
            self.metrics.answered(outcome)
            self.summary.answered(outcome)
        solved = [one for one in outcomes if isinstance(one, Solved)]
        fields: dict[str, Any] = {"rows": len(job.lines)}
        if job.began:
            fields["ms_queue"] = round(1000 * (job.began - job.submitted), 2)
            fields["ms_engine"] = round(1000 * ((job.ended or time.monotonic()) - job.began), 2)
        if solved:
            fields |= {"model": solved[0].version.label}
            for name, of in (("decoding", _decoding), ("finish_reason", _reason), ("verdict", verdict_of)):
                fields[name] = ",".join(dict.fromkeys(map(of, solved)))
            fields |= {"right": sum(one.solution.correct for one in solved)}
            fields |= {
                f"tokens_{name.partition('_')[0]}": n for name, n in protocol.usage_of(outcomes).items()
            }
        if self.settings.log_problems:
            fields["problem"] = str(job.lines[0] if job.lines else "")[:64]
        known_fields(request.scope, **fields)


def _decoding(solved: Solved) -> str:
    return solved.decoding


def _reason(solved: Solved) -> str:
    return solved.solution.reason


class Unknown(Exception):
    """A model that there is not."""

    def __init__(self, error: UsageError) -> None:
        super().__init__(error.message)
        self.error = error


class Gone(Exception):
    """The client has hung up: nobody reads what is sent."""


async def left(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def sse(name: str, data: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def stream(
    request: Request,
    job: Job,
    say: Callable[[Any], str],
    end: Callable[[Sequence[Outcome]], str],
) -> StreamingResponse:
    """Server-sent events of a job: what `say` makes of each event, and `end` of all outcomes. Raises Refused where it
    is not taken in."""
    service = service_of(request)
    events: asyncio.Queue[Any] = asyncio.Queue()
    awaited, read = job.missing, time.monotonic()

    def take(event: Any) -> None:
        if events.qsize() > UNREAD and time.monotonic() - read > SLOW:
            service.engine.cancel(job)  # nobody reads: what has come fills the memory
        events.put_nowait(event)

    job.watch = take
    service.engine.submit(job)

    async def send() -> AsyncIterator[str]:
        nonlocal read
        outcomes: list[Outcome] = []
        missing = awaited
        try:
            while missing and not (job.cancelled and events.empty()):
                said = []
                found, read = await next_events(events), time.monotonic()
                for event in found:
                    said.append(PINGED if event is None else say(event))
                    if isinstance(event, Done):
                        missing -= 1
                        outcomes += [event.outcome] if event.outcome is not None else []
                yield "".join(said)
            if not missing:
                yield end(outcomes)
        finally:
            if missing:
                service.engine.cancel(job)
                service.metrics.cancelled.inc()
                known_fields(request.scope, cancelled=True)
            service.note(request, job, outcomes)

    return StreamingResponse(send(), media_type="text/event-stream", headers=EVENTS)


def stream_search(request: Request, said: AsyncIterator[tuple[str, dict[str, Any]]]) -> StreamingResponse:
    """Server-sent events of a search, which goes on beside whoever reads them, and ends with them."""
    service, events = service_of(request), asyncio.Queue[tuple[str, dict[str, Any]]](UNREAD)

    async def tell(name: str, data: dict[str, Any]) -> None:
        await asyncio.wait_for(events.put((name, data)), SLOW)

    async def search() -> None:
        try:
            try:
                async for event in said:
                    await tell(*event)
            except (Refused, MathLLMError) as error:
                await tell("error", protocol.error_of(error))
            except asyncio.TimeoutError:
                raise
            except Exception as error:
                log.exception("a search failed")
                await tell("error", protocol.error_of(error))
        except asyncio.TimeoutError:
            pass  # nobody reads

    service.search = task = asyncio.create_task(search())

    async def send() -> AsyncIterator[str]:
        ended = False
        try:
            while not ended and not (task.done() and events.empty()):
                found = await next_events(events)
                ended = any(event is not None and event[0] in ("done", "error") for event in found)
                yield "".join(PINGED if event is None else sse(*event) for event in found)
        finally:
            task.cancel()
            if not ended:
                service.metrics.cancelled.inc()
                known_fields(request.scope, cancelled=True)

    return StreamingResponse(send(), media_type="text/event-stream", headers=EVENTS)


async def next_events(events: asyncio.Queue[Any]) -> list[Any]:
    """All that have come by now; [None] after a silence."""
    try:
        found = [await asyncio.wait_for(events.get(), PING)]
    except asyncio.TimeoutError:
        return [None]
    while not events.empty():
        found.append(events.get_nowait())
    return found
