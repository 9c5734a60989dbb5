"""The routes, but for those of OpenAI's clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mathllm import __version__
from mathllm.errors import CheckpointError, UsageError, unknown_choice
from mathllm.serve import answers, protocol
from mathllm.serve.answers import ALWAYS, ASKED, CHANGED, GUARDED, LIMITED, METRICS, STREAMED, errors
from mathllm.serve.hunting import hunt
from mathllm.serve.jobs import Done, Job, Line, Outcome, Refused, Solved, Token
from mathllm.serve.looks import explain, raw_of
from mathllm.serve.service import Unknown, service_of, sse, stream, stream_search
from mathllm.serve.versions import Version
from mathllm.tasks import get_tasks
from mathllm.tasks.expressions import parse_expression
from mathllm.tokenizer import THINK, TOKENS

router = APIRouter()
FEW = 16  # lines that are read and answered at once


@router.get("/health", responses=errors(*ALWAYS))
async def health(request: Request) -> dict[str, Any]:
    """Is the process there, and has it its models?"""
    return {"status": "ok", "model_loaded": service_of(request).shelf.loaded}


@router.get("/livez", responses=answers.probe(*ALWAYS))
async def livez(request: Request) -> protocol.Json:
    """Does the engine move, or has it nothing to do?"""
    stalled = service_of(request).engine.stalled
    if stalled:
        return protocol.Json({"status": "stalled", "seconds": round(stalled)}, 503)
    return protocol.Json({"status": "ok"})


@router.get("/readyz", responses=answers.probe(*ALWAYS))
async def readyz(request: Request) -> protocol.Json:
    """Would a request be taken in now?"""
    service = service_of(request)
    engine = service.engine
    states = {
        "failed": bool(service.failed),
        "draining": engine.draining,
        "loading": not service.shelf.loaded,
        "full": engine.full,
    }
    for status, so in states.items():
        if so:
            return protocol.Json({"status": status}, 503, {"retry-after": str(engine.wait)})
    return protocol.Json({"status": "ready"})


@router.get("/version", responses=errors(*ALWAYS, 503))
async def version(request: Request) -> dict[str, Any]:
    return {"mathllm": __version__, "models": [one.label for one in service_of(request).shelf.newest]}


@router.get("/metrics", response_class=Response, responses=errors(*GUARDED, 503) | METRICS)
async def metrics(request: Request) -> Response:
    service = service_of(request)
    text = service.metrics.text(service.engine, service.shelf)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/predict", response_model=protocol.Prediction, responses=answers.PREDICT)
async def predict(asked: protocol.Predict, request: Request) -> protocol.Json:
    """The first model's answer, as math-llm-poc gives it."""
    service, started = service_of(request), time.perf_counter()
    job = Job([asked.equation[:-1]], version=service.shelf.newest[0], deadline=service.deadline(request))
    (outcome,) = await service.answer(request, job)
    if isinstance(outcome, Exception):
        raise outcome
    answer = ""
    if isinstance(outcome, Solved) and outcome.solution.answer is not None:
        answer = str(outcome.solution.answer)
    return protocol.Json(
        {
            "equation": asked.equation,
            "predicted_answer": answer,
            "full_output": asked.equation + answer,
            "latency_ms": round(1000 * (time.perf_counter() - started), 2),
        }
    )


@router.post("/v1/solve", responses=errors(*ASKED) | STREAMED)
async def solve(asked: protocol.Solve, request: Request) -> Response:
    """Answers to many expressions, with one error each where there is none; as they come, with `stream`."""
    service, started = service_of(request), time.perf_counter()
    for text in asked.expressions:
        if len(text) > protocol.MOST_CHARACTERS:
            raise UsageError(f"an expression has at most {protocol.MOST_CHARACTERS:,} characters")
    lines, version = asked.expressions, service.version(asked.model)
    # many are read, and written, beside the loop, which has others to listen to
    aside = asyncio.to_thread if len(lines) > FEW else at_once
    job = Job(
        await aside(begun, lines, version), asked.how, version=version, deadline=service.deadline(request)
    )
    head = {"id": request.state.request_id}
    if asked.stream:
        return stream(request, job, partial(said_of, lines), partial(done_of, head))
    outcomes = await service.answer(request, job)
    if all(isinstance(one, Refused) for one in outcomes):
        raise outcomes[0]  # type: ignore[misc]
    queue = max(0.0, job.began - job.submitted)

    def answer() -> protocol.Json:
        results = [protocol.result_of(line, outcome) for line, outcome in zip(lines, outcomes, strict=True)]
        total = time.perf_counter() - started
        timing = {"queue": queue, "engine": job.ended - job.submitted - queue, "total": total}
        found = {**head, "results": results, "usage": protocol.usage_of(outcomes)}
        return protocol.Json(
            {**found, "timing_ms": {name: round(1000 * ms, 2) for name, ms in timing.items()}}
        )

    response: Response = await aside(answer)
    return response


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def begun(lines: Sequence[str], version: Version | None) -> list[Line]:
    """Expressions as they are, and texts whose thought has begun as what is to be gone on from."""
    if version is None and any(TOKENS[THINK] in line for line in lines):
        raise UsageError(
            "a text to go on from is in the notation of one model", 'name it: "model": "arithmetic"'
        )
    return [raw_of(version, line) if version and TOKENS[THINK] in line else line for line in lines]


def said_of(lines: Sequence[str], event: Token | Done) -> str:
    """What a stream says of an event."""
    if isinstance(event, Token):
        return sse("token", protocol.event_of(event))
    if event.outcome is None:
        return ""
    return sse("result", {"index": event.row, **protocol.result_of(lines[event.row], event.outcome)})


def done_of(head: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    return sse("done", {**head, "usage": protocol.usage_of(outcomes)})


@router.post("/v1/explain", responses=errors(*ASKED))
async def explain_text(asked: protocol.Explain, request: Request) -> protocol.Json:
    """Where the model looks while it reads, and what it expects next."""
    service = service_of(request)
    if (asked.expression is None) == (asked.text is None):
        raise UsageError("explain takes an expression, or a text in the model's own notation")
    version = service.version(asked.model)
    if version is None:
        version = (
            service.shelf.choose([asked.expression])[0][0] if asked.expression else service.shelf.newest[0]
        )
    if asked.text is not None:
        raw = raw_of(version, asked.text)
        work = explain(version, raw.problems, raw.ids)
    else:
        work = explain(version, parse_expression(asked.expression or "", version.model.readable), None)
    found: list[Any] = []
    for outcome in await service.answer(
        request, Job(work=work, watch=found.append, deadline=service.deadline(request))
    ):
        if isinstance(outcome, Exception):
            raise outcome
    return protocol.Json(found[0])


@router.post("/v1/hunt", response_class=Response, responses=errors(*ASKED) | STREAMED)
async def hunt_wrong(asked: protocol.Hunt, request: Request) -> Response:
    """A search for wrong answers, one at a time on a server: server-sent events, as it goes on."""
    service = service_of(request)
    version = service.version(asked.model) or service.shelf.newest[0]
    if len(get_tasks(asked.task)) > 1:
        raise UsageError("a search is for one task", 'for example "task": "addition"')
    if service.search and not service.search.done():
        raise Refused("busy", "another search is running: there is one at a time", 5)
    service.engine.check_open()
    return stream_search(request, hunt(service.engine, version, asked, service.deadline(request)))


@router.get("/v1/models", responses=errors(*LIMITED))
async def models(request: Request) -> dict[str, Any]:
    """The models that answer, as OpenAI lists them, and more about each."""
    shelf = service_of(request).shelf
    return {
        "object": "list",
        "data": [protocol.model_of(version, shelf.versions(version.name)) for version in shelf.newest],
    }


@router.post("/admin/models/{name}", responses=errors(*CHANGED))
async def place(name: str, asked: protocol.Place, request: Request) -> dict[str, Any]:
    """Reads a model again, from where it was or from another place, or lets the version before answer."""
    shelf = service_of(request).shelf
    if name not in shelf.names:
        raise Unknown(unknown_choice("model", name, shelf.names))
    if asked.rollback:
        return protocol.model_of(shelf.roll_back(name), shelf.versions(name))
    try:
        version = await service_of(request).reload(name, Path(asked.path) if asked.path else None)
    except CheckpointError as error:
        raise UsageError(error.message, error.hint) from error
    return protocol.model_of(version, shelf.versions(name))
