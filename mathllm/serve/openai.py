"""The routes that OpenAI's clients know, so that these work unchanged: /v1/completions and /v1/chat/completions.

What differs is meant so: temperature is 0 and the most tokens are as many as the model has room for, unless asked
otherwise (theirs, 16, would cut every thought)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from mathllm.errors import UsageError
from mathllm.inference.sampling import SamplingParams
from mathllm.limits import MAX_LENGTH
from mathllm.serve import answers
from mathllm.serve.jobs import How, Job, Line, Outcome, Solved
from mathllm.serve.looks import raw_of
from mathllm.serve.openai_stream import Talk, content_of, end, finish_of, said
from mathllm.serve.protocol import MOST_TEXT, SEED, Json, log_prob, usage_of
from mathllm.serve.service import Service, service_of, stream
from mathllm.serve.versions import Version
from mathllm.tokenizer import END, TOKENS, decode

router = APIRouter(prefix="/v1")
MOST_CHOICES, MOST_TEXTS = 64, 256
# what changes nothing at these values may come along
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": (None, {}),
    "best_of": (1, None),
    "suffix": (None, ""),
    "stop": (None, [], ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "user": (),
    "metadata": (),
    "store": (None, False),
    "reasoning_effort": (),
}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Common(BaseModel):
    """What both routes take."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_LENGTH)
    temperature: float | None = Field(0.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    n: int | None = Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=0, le=SEED)
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def how(self, detail: bool) -> How:
        params = SamplingParams(self.temperature or 0.0, 0, 1.0 if self.top_p is None else self.top_p)
        return How(params, self.seed or 0, detail=detail, most=self.max_tokens or 0)

    def ended(self, head: dict[str, Any]) -> Callable[[Sequence[Outcome]], str]:
        """What makes the end of a stream."""
        return partial(end, head, with_usage=bool(self.stream_options and self.stream_options.include_usage))

    def check_more(self) -> None:
        """Raises UsageError for what is not supported and would change something."""
        for name in ("logprobs", "echo"):
            asked = getattr(self, name, None)  # 0, too, would be answered
            if self.stream and asked is not None and asked is not False:
                raise UsageError(f"{name} is not supported in a stream", "leave one of them out")
        for name, value in (self.model_extra or {}).items():
            if name not in NEUTRAL:
                raise UsageError(f"{name} is not supported", "leave it out")
            if NEUTRAL[name] and value not in NEUTRAL[name]:
                raise UsageError(f"{name} can only be {json.dumps(NEUTRAL[name][0])} here", "leave it out")


class Completion(Common):
    """A problem, a text in the model's own notation (with anything behind its `=`), or ids of one; or several."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=len(TOKENS))
    echo: bool | None = False


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class Chat(Common):
    """The last message of the user is the problem."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_LENGTH)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=len(TOKENS))


def texts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    """The texts of a prompt. Raises UsageError for what is none."""
    prompts: Sequence[Any] = (
        [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    )
    if not 1 <= len(prompts) <= MOST_CHOICES:
        raise UsageError(f"there are 1 to {MOST_CHOICES} prompts")
    found: list[str] = []
    for one in prompts:
        if not isinstance(one, str):
            if not all(isinstance(token, int) and 0 <= token < len(TOKENS) for token in one):
                raise UsageError(f"ids of tokens are 0 to {len(TOKENS) - 1}")
            one = decode(one)
        if len(one) > MOST_TEXT:
            raise UsageError(f"a prompt has at most {MOST_TEXT:,} characters")
        found.append(one)
    return found


def line_of(version: Version, text: str) -> Line:
    """What a text asks."""
    problem, _, behind = text.strip().partition("=")
    return raw_of(version, text) if behind else problem


def version_of(service: Service, name: str | None, texts: Sequence[str]) -> Version:
    """The version that is named, or that has learned the problems. Raises UsageError where it has to be named."""
    version = service.version(name)
    if version is not None:
        return version
    if any(text.strip().partition("=")[2] for text in texts):
        raise UsageError("a text to go on from is in the notation of one model", "name it in model")
    (found, _), *others = service.shelf.choose([text.strip().removesuffix("=") for text in texts])
    if others:
        raise UsageError("these problems are for several models", "name one, or ask for them one by one")
    return found


@router.post("/completions", responses=answers.OPENAI)
async def completions(asked: Completion, request: Request) -> Response:
    """Texts of completions, thoughts included."""
    asked.check_more()
    service = service_of(request)
    texts = texts_of(asked.prompt)
    version = version_of(service, asked.model, texts)
    lines = [line_of(version, text) for text in texts]
    copies = [line for line in lines for _ in range(asked.n or 1)]
    if len(copies) > MOST_TEXTS:
        raise UsageError(f"at most {MOST_TEXTS} texts are written at once, and these are {len(copies):,}")
    job = Job(
        copies, asked.how(asked.logprobs is not None), version=version, deadline=service.deadline(request)
    )
    head = {
        "id": f"cmpl-{request.state.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
    }
    head |= {"model": version.label}
    if asked.stream:
        return stream(request, job, lambda event: said(head, event), asked.ended(head))
    outcomes = await checked(service, request, job)

    def answer() -> Json:
        choices = [choice_of(index, one, asked) for index, one in enumerate(outcomes)]
        return Json({**head, "choices": choices, "usage": usage_of(outcomes)})

    return await asyncio.to_thread(answer) if len(copies) > 1 else answer()


async def checked(service: Service, request: Request, job: Job) -> list[Solved]:
    """Outcomes that are all answers. Raises the first error."""
    outcomes = await service.answer(request, job)
    for one in outcomes:
        if not isinstance(one, Solved):
            raise one
    return [one for one in outcomes if isinstance(one, Solved)]


def written(ids: Sequence[int]) -> str:
    """The tokens of a completion, one behind the other, but for its end."""
    return "".join(TOKENS[token] for token in ids if token != END)


def choice_of(index: int, outcome: Solved, asked: Completion) -> dict[str, Any]:
    made = "".join(TOKENS[token] for token in outcome.ids)
    # (the text is for people: there is a space between two steps)
    prompt = outcome.solution.text.replace(" ", "").removesuffix(made) if asked.echo else ""
    found: dict[str, Any] = {
        "index": index,
        "text": prompt + written(outcome.ids),
        "finish_reason": finish_of(outcome),
    }
    found["logprobs"] = None
    if asked.logprobs is not None and outcome.shares is not None:
        tokens = [TOKENS[token] for token in outcome.ids]
        offsets, at = [], len(prompt)
        for token in tokens:
            offsets.append(at)
            at += len(token)
        shares = outcome.shares
        found["logprobs"] = {
            "tokens": tokens,
            "token_logprobs": [log_prob(shares[at, token]) for at, token in enumerate(outcome.ids)],
            "top_logprobs": [top(row, asked.logprobs) for row in shares],
            "text_offset": offsets,
        }
    return found


def top(shares: Any, count: int) -> dict[str, float]:
    order = sorted(range(len(TOKENS)), key=lambda token: -shares[token])[:count]
    return {TOKENS[token]: log_prob(shares[token]) for token in order}


@router.post("/chat/completions", responses=answers.OPENAI)
async def chat(asked: Chat, request: Request) -> Response:
    """The answer as `content`, its thought as `reasoning_content`."""
    asked.check_more()
    service, text = service_of(request), asked_of(asked.messages)
    version = version_of(service, asked.model, [text.partition("=")[0]])
    how = asked.how(bool(asked.logprobs))
    if asked.max_completion_tokens:
        how = How(how.params, how.seed, how.draft, how.detail, asked.max_completion_tokens)
    job = Job([text] * (asked.n or 1), how, version=version, deadline=service.deadline(request))
    head = {"id": f"chatcmpl-{request.state.request_id}", "created": int(time.time()), "model": version.label}
    if asked.stream:
        head["object"] = "chat.completion.chunk"
        talk = Talk(head, version, text)
        return stream(request, job, talk.said, asked.ended(head))
    outcomes = await checked(service, request, job)

    def answer() -> Json:
        choices = [message_of(index, one, asked) for index, one in enumerate(outcomes)]
        return Json({**head, "object": "chat.completion", "choices": choices, "usage": usage_of(outcomes)})

    return await asyncio.to_thread(answer) if len(outcomes) > 1 else answer()


def message_of(index: int, outcome: Solved, asked: Chat) -> dict[str, Any]:
    message = {"role": "assistant", "content": content_of(outcome), "refusal": None}
    message["reasoning_content"] = "\n".join(outcome.solution.steps)
    probabilities = {"content": tokens_of(outcome, asked.top_logprobs or 0)} if asked.logprobs else None
    return {
        "index": index,
        "message": message,
        "finish_reason": finish_of(outcome),
        "logprobs": probabilities,
    }


def tokens_of(outcome: Solved, count: int) -> list[dict[str, Any]]:
    shares = outcome.shares
    if shares is None:
        return []

    def of(token: int, row: Any) -> dict[str, Any]:
        return {
            "token": TOKENS[token],
            "logprob": log_prob(row[token]),
            "bytes": list(TOKENS[token].encode()),
        }

    return [
        {
            **of(token, row),
            "top_logprobs": [
                of(one, row) for one in sorted(range(len(TOKENS)), key=lambda t: -row[t])[:count]
            ],
        }
        for token, row in zip(outcome.ids, shares, strict=True)
    ]


def asked_of(messages: Sequence[Message]) -> str:
    """The problem in the last message of the user."""
    for message in reversed(messages):
        if message.role == "user":
            content = message.content or ""
            if isinstance(content, list):
                content = "".join(str(part.get("text", "")) for part in content)
            return content.strip().removesuffix("?").strip().removesuffix("=")
    raise UsageError("there is no message of the user", 'for example {"role": "user", "content": "12+34"}')
