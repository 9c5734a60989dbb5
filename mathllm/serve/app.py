"""The server as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from mathllm import __version__
from mathllm.errors import DataError, UsageError
from mathllm.serve import openai, routes
from mathllm.serve.engine import Engine
from mathllm.serve.guard import OPENAI, Guard, as_openai
from mathllm.serve.jobs import Refused
from mathllm.serve.protocol import TAKES, Json, error_of
from mathllm.serve.service import Gone, Service, Unknown
from mathllm.serve.settings import Settings

STATUS = {"deadline": 504, "busy": 429}  # of work that was refused; else 503
WORK = ("/predict", "/v1/solve", "/v1/explain", "/v1/hunt", "/v1/completions", "/v1/chat/completions")
# the page, and what belongs to it: where each is, and what it is
SHARED, OWN = "mathllm.pages", "mathllm.serve"
PAGE = {
    "": (OWN, "static/index.html", "text/html"),
    "app.js": (OWN, "static/app.js", "text/javascript"),
    "text.js": (OWN, "static/text.js", "text/javascript"),
    "sight.js": (OWN, "static/sight.js", "text/javascript"),
    "style.css": (OWN, "static/style.css", "text/css"),
    "parts.js": (SHARED, "parts.js", "text/javascript"),
    "base.css": (SHARED, "base.css", "text/css"),
}


def create_app(settings: Settings) -> tuple[ASGIApp, Service]:
    """The routes with their guard around them, and what they share. The models are loaded once it has started."""
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        tasks = [asyncio.create_task(work) for work in (service.load(), service.tell(), service.watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(service.engine.stop)

    # no page of documentation: it would come from somewhere else
    app = FastAPI(
        title="mathllm",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(openai.router)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/static/{name}", page, include_in_schema=False)
    handlers: dict[Any, Any] = {
        RequestValidationError: invalid,
        HTTPException: plain,
        UsageError: unusable,
        DataError: unusable,
        Unknown: unknown,
        Refused: refused,
        Gone: gone,
        Exception: failed,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
    guarded = Guard(
        Door(app, service.engine),
        metrics=service.metrics,
        summary=service.summary,
        keys=settings.keys,
        admin_key=settings.admin_key,
        hosts=settings.hosts,
        origins=settings.origins,
        rate=settings.rate,
    )
    return guarded, service


class Door:
    """Refuses work that could not be taken in before anything of it is read: under load that has to cost little."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app, self.engine = app, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in WORK:
            try:
                self.engine.check_open()
            except Refused as error:
                scope["state"]["route"] = scope["path"]
                response = await refused(Request(scope), error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def page(name: str = "") -> Response:
    """The page, and what belongs to it."""
    if name not in PAGE:
        raise HTTPException(404)
    place, path, kind = PAGE[name]
    return Response(files(place).joinpath(path).read_bytes(), media_type=f"{kind}; charset=utf-8")


def failure(
    request: Request, status: int, error: dict[str, Any], headers: dict[str, str] | None = None
) -> Json:
    """An error as a route's clients expect it."""
    known = request.state.request_id
    if request.url.path in OPENAI:
        error = as_openai(error)
    return Json({"error": {**error, "request_id": known}}, status, headers)


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """What is not JSON, or has another shape."""
    if request.url.path == "/predict":
        return Json({"detail": quotable(jsonable_encoder(error.errors()))}, 422)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    found = {"type": "invalid_request", "message": f"{where}: {first['msg']}" if where else first["msg"]}
    hint = {"hint": TAKES}
    status = 400 if request.url.path in OPENAI else 422
    return failure(request, status, {**found, **hint, **({"param": where} if where else {})})


def quotable(found: Any) -> Any:
    """The same, where a number that JSON does not know is a text."""
    return json.loads(json.dumps(found), parse_constant=str)


async def plain(request: Request, error: HTTPException) -> Response:
    """404, 405 and the like, and a body that is no text."""
    status, headers = error.status_code, dict(error.headers or {})
    if request.url.path == "/predict":
        return Json({"detail": error.detail}, status, headers)
    if status == 400 and request.url.path not in OPENAI:
        status = 422
    names = {404: "not_found", 405: "method_not_allowed"}
    hints = {404: "/openapi.json has all routes"}
    found = {"type": names.get(status, "invalid_request"), "message": str(error.detail)}
    return failure(request, status, {**found, "hint": hints.get(status, TAKES)}, headers)


async def unusable(request: Request, error: UsageError | DataError) -> Response:
    """A value that cannot be used."""
    return failure(request, 400 if request.url.path in OPENAI else 422, error_of(error))


async def unknown(request: Request, error: Unknown) -> Response:
    """A model that there is not."""
    return failure(request, 404, {**error_of(error.error), "type": "unknown_model", "param": "model"})


async def refused(request: Request, error: Refused) -> Response:
    """Not now: 503 means us, 429 you, 504 that it was too late."""
    request.scope["state"]["rejected"] = error.kind
    status, headers = STATUS.get(error.kind, 503), {"retry-after": str(error.retry_after)}
    if request.url.path == "/predict" and status == 503:
        return Json(
            {"detail": "Model not loaded" if error.kind == "loading" else error.message}, 503, headers
        )
    return failure(request, status, error_of(error), headers)


async def failed(request: Request, error: Exception) -> Response:
    return failure(request, 500, error_of(error))


async def gone(request: Request, error: Gone) -> Response:
    return Response(status_code=499)
