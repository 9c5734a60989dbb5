"""Work that the engine does slice by slice beside answers: a look inside, and a search for wrong ones."""

from __future__ import annotations

import base64
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mathllm.errors import CheckpointError, UsageError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exact_match import judge
from mathllm.evaluation.lengths import RANDOM, STRESS, draw_length
from mathllm.formats import Rendered
from mathllm.interp.texts import run_texts
from mathllm.serve.jobs import Raw, softmax
from mathllm.serve.protocol import Hunt, token_of
from mathllm.serve.versions import Version
from mathllm.tasks import Problems, Task, get_tasks
from mathllm.tasks.expressions import expressions, parse_expression
from mathllm.tokenizer import END, TOKENS, Ids, encode

MOST_TOKENS, MOST_WEIGHTS = 128, 1 << 20
PART, PART_TOKENS = 64, 2048  # problems of a slice at most, and about how many tokens
SOON = 0.1  # seconds that a slice may take
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


def hunt(version: Version, asked: Hunt) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tries problems of one kind, and tells of wrong answers as they are found: fewer at a time where a model is
    unsure of many, as these are decoded token by token, which others wait for."""
    model, (task,) = version.model, get_tasks(asked.task)
    tried = wrong = 0
    so_far: dict[str, Any] = {"tried": 0, "wrong": 0, "interval95": [0.0, 1.0]}
    longest = askable(version, draw_length(task, asked.digits, RANDOM, 1))
    if not len(longest):
        raise UsageError(f"{version.label} cannot be asked for {task.name} of {asked.digits} digits")
    part = count = max(1, min(PART, PART_TOKENS // int(model.render(longest).lengths[0])))
    for problems in drawn(task, asked, part):
        rest = askable(version, problems)
        while len(rest):
            some, rest = rest[:count], rest[count:]
            began = time.monotonic()
            verdicts = judge(model, some)
            count = max(1, count // 2) if time.monotonic() - began > SOON else min(part, 2 * count)
            missed = np.flatnonzero(~verdicts.answer_correct)
            for solution in model.read(verdicts.written[missed[: max(0, asked.keep - wrong)]]):
                answer = None if solution.answer is None else str(solution.answer)
                found = {
                    "expression": solution.expression,
                    "answer": answer,
                    "expected": str(solution.expected),
                }
                yield "wrong", {**found, "text": solution.text}
            tried, wrong = tried + len(some), wrong + len(missed)
            so_far = {"tried": tried, "wrong": wrong, "interval95": list(Count(wrong, tried).interval)}
            yield "progress", so_far
    yield "done", {**so_far, "model": version.label}


def askable(version: Version, problems: Problems) -> Problems:
    """Those that a model can be asked."""
    _, refused = version.model.fit(problems)
    kept = np.delete(np.arange(len(problems)), list(refused))
    return problems[kept]


def drawn(task: Task, asked: Hunt, part: int) -> Iterator[Problems]:
    """The problems of a search, so many at a time."""
    if asked.kind == "edge":
        task.check_pairs()
        numbers = sorted(
            {abs(n) for power in range(asked.digits) for n in (10**power - 1, 10**power, 10**power + 1)}
            | {10**asked.digits - 1, 0, 5}
        )
        numbers = [n for n in numbers if n < 10**asked.digits]
        pairs = (
            pair
            for pair in itertools.product(numbers, numbers)
            if pair[1] >= task.least_second and (pair[0] >= pair[1] or not task.ordered(False))
        )
        chosen = itertools.islice(pairs, asked.count)
        while some := [*itertools.islice(chosen, part)]:
            texts = [[f"{n:0{asked.digits}d}"[::-1].encode() for n in pair] for pair in some]
            yield task.problems(
                np.array([[list(text) for text in pair] for pair in texts], np.uint8) - ord("0")
            )
        return
    kind = STRESS if asked.kind == "carry" else RANDOM
    for number, start in enumerate(range(0, asked.count, part)):
        count = min(part, asked.count - start)
        yield draw_length(task, asked.digits, kind, count, seed=asked.seed + number)
