"""The routes that OpenAI's clients know, so that these work unchanged: /v1/completions and /v1/chat/completions.

What differs is meant so: temperature is 0 and the most tokens are as many as the model has room for, unless asked
otherwise (theirs, 16, would cut every thought)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from mathllm.errors import UsageError
from mathllm.inference.sampling import SamplingParams
from mathllm.limits import MAX_LENGTH
from mathllm.serve import answers, protocol
from mathllm.serve.guard import as_openai
from mathllm.serve.jobs import Done, How, Job, Line, Outcome, Solved, Token
from mathllm.serve.looks import raw_of
from mathllm.serve.protocol import MOST_TEXT, SEED, Json, log_prob, usage_of
from mathllm.serve.service import Service, service_of, stream
from mathllm.serve.versions import Version
from mathllm.tokenizer import END, END_THINK, THINK, TOKENS, decode

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


def lines_of(prompt: str | list[str] | list[int] | list[list[int]], version: Version) -> list[Line]:
    """What a prompt asks."""
    prompts: Sequence[Any] = (
        [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    )
    if not 1 <= len(prompts) <= MOST_CHOICES:
        raise UsageError(f"there are 1 to {MOST_CHOICES} prompts")
    found: list[Line] = []
    for one in prompts:
        if not isinstance(one, str):
            if not all(isinstance(token, int) and 0 <= token < len(TOKENS) for token in one):
                raise UsageError(f"ids of tokens are 0 to {len(TOKENS) - 1}")
            one = decode(one)
        if len(one) > MOST_TEXT:
            raise UsageError(f"a prompt has at most {MOST_TEXT:,} characters")
        problem, _, behind = one.strip().partition("=")
        found.append(raw_of(version, one) if behind else problem)
    return found


def version_of(service: Service, name: str | None, text: str) -> Version:
    """The version that is named, or that has learned the text."""
    return service.version(name) or service.shelf.choose([text])[0][0]


def first_text(prompt: Any) -> str:
    one = prompt[0] if isinstance(prompt, list) and prompt else prompt
    return one.partition("=")[0] if isinstance(one, str) else "0"


@router.post("/completions", responses=answers.OPENAI)
async def completions(asked: Completion, request: Request) -> Response:
    """Texts of completions, thoughts included."""
    asked.check_more()
    service = service_of(request)
    version = version_of(service, asked.model, first_text(asked.prompt))
    lines = lines_of(asked.prompt, version)
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
        return stream(request, job, lambda event: said(head, event), lambda done: end(head, done, asked))
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


def finish_of(outcome: Solved) -> str:
    return "stop" if outcome.solution.reason == "end" else "length"


def choice_of(index: int, outcome: Solved, asked: Completion) -> dict[str, Any]:
    whole, made = outcome.solution.text, "".join(TOKENS[token] for token in outcome.ids)
    prompt = whole.removesuffix(made) if asked.echo else ""
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
    version = version_of(service, asked.model, text)
    how = asked.how(bool(asked.logprobs))
    if asked.max_completion_tokens:
        how = How(how.params, how.seed, how.draft, how.detail, asked.max_completion_tokens)
    job = Job([text] * (asked.n or 1), how, version=version, deadline=service.deadline(request))
    head = {"id": f"chatcmpl-{request.state.request_id}", "created": int(time.time()), "model": version.label}
    if asked.stream:
        head["object"] = "chat.completion.chunk"
        talk = Talk(head, version)
        return stream(request, job, talk.said, lambda done: end(head, done, asked))
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


def content_of(outcome: Solved) -> str:
    """The answer, the right way round."""
    answer = outcome.solution.answer
    return "" if answer is None else str(answer)


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


def said(head: dict[str, Any], event: Token | Done) -> str:
    """A chunk of a stream of completions."""
    if isinstance(event, Token):
        text = "" if event.id == END else TOKENS[event.id]
        return chunk(head, {"index": event.row, "text": text, "finish_reason": None, "logprobs": None})
    if isinstance(event.outcome, Solved):
        ending = finish_of(event.outcome)
        return chunk(head, {"index": event.row, "text": "", "finish_reason": ending, "logprobs": None})
    return failed(event)


class Talk:
    """Chunks of a chat: the thought as it comes, then the answer, the right way round."""

    def __init__(self, head: dict[str, Any], version: Version) -> None:
        self.head, self.backwards = head, version.model.format.least_significant_first
        self.depth: dict[int, int] = {}
        self.begun: set[int] = set()  # choices that have said whose words they are

    def said(self, event: Token | Done) -> str:
        if isinstance(event, Token):
            depth = self.depth.get(event.row)
            if event.id in (THINK, END_THINK):
                self.depth[event.row] = (depth or 0) + (1 if event.id == THINK else -1)
                return ""
            thought = bool(depth)
            if event.id == END or (not thought and self.backwards):
                return ""  # an answer with its units first comes whole
            return self.delta(event.row, "reasoning_content" if thought else "content", TOKENS[event.id])
        if not isinstance(event.outcome, Solved):
            return failed(event)
        whole = self.delta(event.row, "content", content_of(event.outcome)) if self.backwards else ""
        choice = {
            "index": event.row,
            "delta": {},
            "finish_reason": finish_of(event.outcome),
            "logprobs": None,
        }
        return whole + chunk(self.head, choice)

    def delta(self, row: int, name: str, text: str) -> str:
        delta = {name: text} if row in self.begun else {"role": "assistant", name: text}
        self.begun.add(row)
        return chunk(self.head, {"index": row, "delta": delta, "finish_reason": None, "logprobs": None})


def chunk(head: dict[str, Any], choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


def failed(event: Done) -> str:
    if event.outcome is None or isinstance(event.outcome, Solved):
        return ""
    return f"data: {json.dumps({'error': as_openai(protocol.error_of(event.outcome))})}\n\n"


def end(head: dict[str, Any], outcomes: Sequence[Outcome], asked: Common) -> str:
    """The end of a stream."""
    usage = ""
    if asked.stream_options and asked.stream_options.include_usage:
        usage = f"data: {json.dumps({**head, 'choices': [], 'usage': usage_of(outcomes)})}\n\n"
    return usage + "data: [DONE]\n\n"
