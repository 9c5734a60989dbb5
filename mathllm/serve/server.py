"""Uvicorn around the application, which finishes what it has taken in before it ends."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType

import uvicorn

from mathllm.serve.app import create_app
from mathllm.serve.observe import set_up_logging
from mathllm.serve.service import Service, Settings

HEADERS = 1 << 16  # bytes of a request's


class Server(uvicorn.Server):
    """At SIGTERM or Ctrl-C it says that it is not ready any more and refuses what is new, waits for what runs, and
    ends; at the second one it ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service, self.draining = service, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.draining:
            self.force_exit = self.should_exit = True
            return
        self.draining = True
        asyncio.run_coroutine_threadsafe(self._drain(), self.loop)

    async def _drain(self) -> None:
        await self.service.engine.drain(self.service.settings.drain_timeout)
        self.should_exit = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"http://{shown}:{port}", flush=True)


def run(settings: Settings, host: str, port: int) -> int:
    """Serves until it is told to end; returns the exit code."""
    set_up_logging()
    app, service = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=5,
    )
    server = Server(config, service)
    server.run()
    if not server.started:
        print(f"error: {host}:{port} cannot be listened on", file=sys.stderr)
        return 1
    return 0
