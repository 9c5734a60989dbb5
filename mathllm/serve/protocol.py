"""What comes in and goes out, in JSON. Numbers that can be long are texts: JSON's break at 2^53."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from mathllm.errors import ExpressionError, MathLLMError
from mathllm.inference.sampling import SamplingParams
from mathllm.limits import MAX_DIGITS
from mathllm.serve.guard import FAILED
from mathllm.serve.jobs import How, Outcome, Refused, Shares, Solved, Token, is_ours
from mathllm.serve.versions import Version
from mathllm.tokenizer import TOKENS

MOST_EXPRESSIONS = 1024
MOST_CHARACTERS = 2 * MAX_DIGITS + 100  # of an expression
MOST_TEXT = 16_384  # characters of a text to go on from
SEED = 2**63 - 1
TAKES = "/openapi.json has what each route takes"  # the hint of an error that has none of its own


class Json(JSONResponse):
    """JSON in ASCII: what was asked may be quoted, and half a character of UTF-16 has no place in UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Strict(BaseModel):
    """No field that is not known: a misspelt one would do nothing. No value of another type: 0 is not false."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Predict(BaseModel):
    """A sum or difference of numbers of up to three digits, with its `=`."""

    equation: str = Field(pattern=r"^[0-9]{1,3}[+\-][0-9]{1,3}=$", examples=["951+11="])


class Prediction(BaseModel):
    equation: str
    predicted_answer: str
    full_output: str
    latency_ms: float


class Sampled(Strict):
    """How tokens are picked: temperature 0 always takes the likeliest."""

    temperature: float = Field(0.0, ge=0, le=100)
    top_k: int = Field(0, ge=0, le=len(TOKENS))
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, le=SEED)
    draft: bool = True
    tokens: bool = False

    @property
    def how(self) -> How:
        # the likeliest token alone is what temperature 0 takes
        params = SamplingParams(0.0 if self.top_k == 1 else self.temperature, self.top_k, self.top_p)
        return How(params, self.seed, self.draft, self.tokens)


class Solve(Sampled):
    """Expressions, each answered or refused by itself; or texts in the notation of the model that is named, to be gone
    on from anywhere in their thought."""

    expressions: list[str] = Field(min_length=1, max_length=MOST_EXPRESSIONS, examples=[["658+189", "12*34"]])
    model: str | None = None
    stream: bool = False


class Explain(Strict):
    """An expression, whose true text is read, or a text in the model's own notation."""

    expression: str | None = Field(None, max_length=MOST_CHARACTERS)
    text: str | None = Field(None, max_length=MOST_TEXT)
    model: str | None = None


class Hunt(Strict):
    """A search for wrong answers among many problems."""

    kind: Literal["random", "carry", "edge"] = "random"
    task: str = "addition"
    digits: int = Field(3, ge=1, le=1000)
    count: int = Field(10_000, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, le=SEED)
    keep: int = Field(50, ge=0, le=1000)
    model: str | None = None


class Place(Strict):
    """What a model's name is to stand for: another checkpoint, the same one read again, or the version before."""

    path: str | None = None
    rollback: bool = False


def error_of(error: Exception) -> dict[str, Any]:
    """What an error says, to a program and to people."""
    if isinstance(error, Refused):
        return {"type": error.kind, "message": error.message, "hint": f"try again in {error.retry_after} s"}
    if is_ours(error) or not isinstance(error, MathLLMError):
        return {"type": FAILED.type, "message": FAILED.message, "hint": FAILED.hint}
    found: dict[str, Any] = {"type": "invalid_request", "message": error.message}
    if isinstance(error, ExpressionError):
        found |= {"type": "invalid_expression", "position": error.position}
    return found | {"hint": error.hint or TAKES}


def result_of(line: str, outcome: Outcome) -> dict[str, Any]:
    """A line's answer, or why there is none."""
    if not isinstance(outcome, Solved):
        return {"expression": line, "error": error_of(outcome)}
    solution = outcome.solution
    found: dict[str, Any] = {
        "expression": solution.expression,
        "answer": None if solution.answer is None else str(solution.answer),
        "expected": str(solution.expected),
        "correct": solution.correct,
        "steps": list(solution.steps),
        "text": solution.text,
        "confidence": solution.confidence,
        "finish_reason": "stop" if solution.reason == "end" else "length",
        "unseen": list(solution.unseen),
        "decoding": outcome.decoding,
        "model": outcome.version.label,
    }
    if outcome.words:
        found["words"] = list(outcome.words)
    if outcome.stated:
        found["stated"] = {"answer": outcome.stated, "true": outcome.stated == str(solution.expected)}
    if outcome.shares is not None:
        pairs = zip(outcome.ids, outcome.shares, strict=True)
        found["tokens"] = [token_of(token, shares) for token, shares in pairs]
    return found


def token_of(token: int, shares: Shares) -> dict[str, Any]:
    """A token, its probability, and all others, the likeliest first."""
    order = sorted(range(len(TOKENS)), key=lambda id: -shares[id])
    top = [[TOKENS[id], round(float(shares[id]), 6)] for id in order if shares[id] >= 5e-7]
    return {"id": token, "token": TOKENS[token], "p": float(shares[token]), "top": top}


def event_of(token: Token) -> dict[str, Any]:
    """A token as it comes."""
    return {"index": token.row, "i": token.place, **token_of(token.id, token.shares)}


def usage_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many tokens were read and written."""
    solved = [one for one in outcomes if isinstance(one, Solved)]
    completion = sum(len(one.ids) for one in solved)
    prompt = sum(one.prompt for one in solved)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_of(version: Version, versions: Sequence[Version]) -> dict[str, Any]:
    """What there is to know of a model."""
    about = version.model
    meta = {
        "parameters": about.model.num_parameters,
        "task": about.data.task,
        "format": about.format.name,
        "max_digits": about.data.max_digits,
        "versions": [one.label for one in versions],
    }
    return {
        "id": version.name,
        "object": "model",
        "created": version.created,
        "owned_by": "mathllm",
        "root": version.label,
        "max_model_len": about.scope.max_length,
        "meta": meta,
    }


def log_prob(share: float) -> float:
    return math.log(max(share, 1e-30))
