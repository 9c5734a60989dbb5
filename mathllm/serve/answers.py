"""What routes may answer, for /openapi.json: which statuses, and what comes with them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Answers = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """What went wrong, and what helps. The id finds it in the log."""

    type: str
    message: str
    request_id: str
    hint: str | None = None  # on OpenAI's routes it is in the message
    param: str | None = None  # the field that it is about
    code: str | None = None  # on OpenAI's routes


class Failure(BaseModel):
    error: Problem


class Detail(BaseModel):
    """An error as math-llm-poc has it."""

    detail: str | list[dict[str, Any]]


class State(BaseModel):
    """What a probe is told."""

    model_config = ConfigDict(extra="allow")
    status: str


NO_JSON = "not JSON, or another shape, or no problem that can be answered"
MEANINGS = {
    400: NO_JSON,
    401: "a key is needed",
    403: "a Host that is not this server's",
    404: "no such model",
    413: "a body that is too large",
    415: "not application/json",
    422: NO_JSON,
    429: "too many requests from you, or a second search",
    431: "headers that are too large",
    500: "our fault",
    503: "loading, full, or shutting down",
    504: "it was not begun before its deadline",
}
ALWAYS = (403, 431, 500)
GUARDED = (401, *ALWAYS)
LIMITED = (*GUARDED, 429, 503)
CHANGED = (*LIMITED, 404, 413, 415, 422)
ASKED = (*CHANGED, 504)


def errors(*statuses: int) -> Answers:
    """The errors that a route may answer."""
    return {status: {"model": Failure, "description": MEANINGS[status]} for status in statuses}


# as math-llm-poc answers, where it does
PREDICT = errors(*ASKED) | {
    status: {"model": Detail, "description": MEANINGS[status]} for status in (400, 422, 503)
}


def also(kind: str) -> Answers:
    """Something else than JSON, where all is well."""
    return {200: {"content": {kind: {"schema": {}}}}}


METRICS, STREAMED = also("text/plain"), also("text/event-stream")
# those of OpenAI's clients have no 422, which FastAPI adds unless there is a range
OPENAI = STREAMED | {
    name: {"model": Failure, "description": "; ".join(f"{one}: {MEANINGS[one]}" for one in statuses)}
    for name, statuses in {
        "4XX": (400, 401, 403, 404, 413, 415, 429, 431),
        "5XX": (500, 503, 504),
    }.items()
}


def probe(*statuses: int) -> Answers:
    """A probe: 503 says why not."""
    return errors(*statuses) | {503: {"model": State, "description": "not now"}}
