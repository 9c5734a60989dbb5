"""A client that stays and does not read: it holds nobody up, and is not computed for for ever."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from test_serve import MODELS, client_of, ready

from mathllm.serve import service as serving_of
from mathllm.serve.service import Service


def busy(service: Service) -> bool:
    return bool(service.engine.requests) or (service.search is not None and not service.search.done())


async def ask_and_not_read(app: Any, service: Service, path: str, body: dict[str, Any]) -> bool:
    """Asks for a stream of which it reads nothing; returns whether the server has let go, before it had to be told."""
    asked = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Any:
        for message in asked:
            return message
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # there is no room: what was sent before was not read

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    scope |= {"raw_path": path.encode(), "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1)}
    task = asyncio.create_task(app(scope, receive, send))
    while not busy(service):
        await asyncio.sleep(0.001)
    end = time.monotonic() + 20
    while busy(service) and time.monotonic() < end:
        await asyncio.sleep(0.01)
    let_go = not task.done() and not busy(service)
    task.cancel()
    return let_go


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/hunt", {"count": 1_000_000}),
        ("/v1/solve", {"expressions": ["658+189"] * 900, "temperature": 100, "stream": True}),
        ("/v1/completions", {"prompt": ["658+189"] * 64, "n": 4, "temperature": 2, "stream": True}),
    ],
)
def test_who_does_not_read_is_let_go(
    monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(serving_of, "SLOW", 0.2)  # seconds, so that nobody waits for this test
    monkeypatch.setattr(serving_of, "UNREAD", 5)
    client, service = client_of(models={"addsub": MODELS["addsub"]})
    with client:
        ready(client)
        assert client.portal is not None
        unread = client.portal.start_task_soon(ask_and_not_read, client.app, service, path, body)
        while not busy(service):
            pass
        assert client.post("/v1/solve", json={"expressions": ["1+1"]}).json()["results"][0]["answer"] == "2"
        assert unread.result(30)
        assert service.engine.requests == service.engine.tokens == 0
        assert client.post("/v1/hunt", json={"count": 10}).status_code == 200  # no search is left over
