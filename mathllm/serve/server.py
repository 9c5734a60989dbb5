"""Uvicorn around the application: it listens before PyTorch is there, and finishes what it has taken in before it
ends."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import uuid
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from mathllm.errors import UsageError
from mathllm.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mathllm.serve.service import Service

HEADERS = 1 << 16  # bytes of a request's
LOADING = {"type": "loading", "message": "the server is starting", "hint": "try again in 2 s"}


class Late:
    """The application once it has been imported, which takes seconds; until then it is alive and not ready."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: ASGIApp | None = None
        self.service: Service | None = None
        self.life: asyncio.Future[None] | None = None  # of the application, from its start to its end
        self.ended = asyncio.Event()
        self.failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            known = str(uuid.uuid4())
            said: dict[str, dict[str, Any]] = {
                "/livez": {"status": "ok"},
                "/health": {"status": "ok", "model_loaded": False},
                "/readyz": {"status": "failed" if self.failed else "loading"},
                "/predict": {"detail": "Model not loaded"},
            }
            loading = {"error": {**LOADING, "request_id": known}}
            status = 200 if scope["path"] in ("/livez", "/health") else 503
            await reply(send, status, said.get(scope["path"], loading), known)

    async def _live(self, receive: Receive, send: Send) -> None:
        """From start to end: the application's own start and end are inside."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        begun = asyncio.create_task(self._begin())
        await receive()
        begun.cancel()
        if self.life is not None:
            self.ended.set()
            await self.life
        await send({"type": "lifespan.shutdown.complete"})

    async def _begin(self) -> None:
        try:
            app, service = await asyncio.to_thread(self._import)
        except Exception:
            self.failed = True
            logging.getLogger("mathllm.serve").exception("the server cannot start")
            return
        started, told = asyncio.Event(), iter(({"type": "lifespan.startup"},))

        async def receive() -> Any:
            for message in told:
                return message
            await self.ended.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Any) -> None:
            started.set()

        self.life = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, receive, send))
        await started.wait()
        self.app, self.service = app, service

    def _import(self) -> tuple[ASGIApp, Service]:
        from mathllm.serve.app import create_app
        from mathllm.serve.observe import set_up_logging

        set_up_logging()
        return create_app(self.settings)


async def reply(send: Send, status: int, body: dict[str, Any], known: str) -> None:
    headers = {"content-type": "application/json", "cache-control": "no-store", "x-request-id": known}
    headers |= {"retry-after": "2"} if status == 503 else {}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class Server(uvicorn.Server):
    """At SIGTERM or Ctrl-C it says that it is not ready any more and refuses what is new, waits for what runs, and
    ends; at the second one it ends at once."""

    def __init__(self, config: uvicorn.Config, late: Late) -> None:
        super().__init__(config)
        self.late, self.draining = late, False
        self.reading: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining:
            self.force_exit = self.should_exit = True
            return
        self.draining = True
        asyncio.run_coroutine_threadsafe(self._drain(), self.loop)

    async def _drain(self) -> None:
        if self.late.service is not None:
            await self.late.service.engine.drain(self.late.settings.drain_timeout)
        self.should_exit = True

    def _read_again(self) -> None:
        """At SIGHUP: all models, from where they are."""
        if self.late.service is not None:
            self.reading = self.loop.create_task(self.late.service.reload_all())

    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self.loop.add_signal_handler(signal.SIGHUP, self._read_again)
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        print(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", flush=True)


def run(settings: Settings, host: str, port: int) -> None:
    """Serves until it is told to end. Raises UsageError where nobody can listen there."""
    late = Late(settings)
    config = uvicorn.Config(
        late,
        host=host,
        port=port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody could say so to get round --rate
        h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=5,
    )
    Server(config, late).run([listening(host, port)])


def listening(host: str, port: int) -> socket.socket:
    """A socket that is listened on. Raises UsageError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only where the protocol is said to be TCP
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
        return found
    except OSError as error:
        found.close()
        what = f"{host}:{port} cannot be listened on: {error.strerror or error}"
        raise UsageError(what, "give another --port, or --host") from error
