"""A look inside, which the engine does beside answers; and texts to go on from."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mathllm.errors import CheckpointError, UsageError
from mathllm.formats import Rendered
from mathllm.interp.texts import run_texts
from mathllm.serve.jobs import Raw, softmax
from mathllm.serve.protocol import token_of
from mathllm.serve.versions import Version
from mathllm.tasks import Problems
from mathllm.tasks.expressions import expressions, parse_expression
from mathllm.tokenizer import END, TOKENS, Ids, encode

MOST_TOKENS, MOST_WEIGHTS = 128, 1 << 20
PATTERNS = "blocks.*.attn.hook_pattern"


def raw_of(version: Version, text: str) -> Raw:
    """A text in a model's own notation, `856+981=<think>`, to be gone on from. Raises ExpressionError for what has
    other characters, or begins with no problem."""
    ids, model = encode(text), version.model
    prompt, _, _ = text.partition("=")
    if model.format.least_significant_first:
        digits = [part[::-1] if part.isdigit() else part for part in split_numbers(prompt)]
        prompt = "".join(digits)
    return Raw(parse_expression(prompt, model.readable), ids)


def split_numbers(text: str) -> list[str]:
    """Runs of digits, and what is between them."""
    return ["".join(run) for _, run in itertools.groupby(text, str.isdigit)]


def explain(version: Version, problems: Problems, ids: Ids | None) -> Iterator[dict[str, Any]]:
    """Where a model looks while it reads a text (None: the true one of the problem), and what it expects next."""
    model = version.model
    gold = model.render(problems)
    if ids is not None:
        # with an end behind it, which is no part of what is read
        lengths = np.array([len(ids) + 1])
        gold = Rendered(problems, np.append(ids, END)[None].astype(np.uint8), lengths, gold.prompt_lengths)
    length = int(gold.lengths[0]) - 1
    shape = model.model.depth, model.model.heads, length, length
    if length > MOST_TOKENS or math.prod(shape) > MOST_WEIGHTS:
        raise UsageError(f"attention is shown for texts of up to {MOST_TOKENS} tokens, and this has {length}")
    with torch.inference_mode():
        run = run_texts(model.model, model.format, gold[np.array([0])], names=PATTERNS)
    if run.logits.isnan().any():
        raise CheckpointError(f"the outputs of {version.label} are not numbers: its weights are damaged")
    weights = torch.cat([run.cache[name] for name in sorted(run.cache, key=layer_of)]).numpy()
    read = gold.ids[0, :length]
    shares = softmax(run.logits[0].cpu().numpy())
    yield {
        "model": version.label,
        "expression": expressions(problems)[0],
        "tokens": [TOKENS[token] for token in read],
        "prompt_tokens": int(gold.prompt_lengths[0]),
        "p": [None, *(float(shares[at, read[at + 1]]) for at in range(length - 1))],
        "next": token_of(int(shares[-1].argmax()), shares[-1])["top"],
        "attention": {
            "shape": list(shape),
            "dtype": "uint8",
            "data": base64.b64encode(np.rint(255 * weights).astype(np.uint8).tobytes()).decode(),
        },
    }


def layer_of(name: str) -> int:
    return int(name.split(".")[1])
