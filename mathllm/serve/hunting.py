"""A search for wrong answers: problems of one kind, so many at a time, which wait and are answered like anybody's; what
comes out wrong is told as it is found."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.lengths import RANDOM, STRESS, draw_length
from mathllm.math_model import Solution
from mathllm.serve.engine import Engine
from mathllm.serve.jobs import Job, Outcome, Refused, Solved
from mathllm.serve.protocol import Hunt
from mathllm.serve.versions import Version
from mathllm.tasks import Problems, Task, get_tasks
from mathllm.tasks.expressions import expressions

PART, PART_TOKENS = 64, 2048  # problems that are asked at once at most, and about how many tokens

Said = tuple[str, dict[str, Any]]


async def hunt(engine: Engine, version: Version, asked: Hunt, deadline: float) -> AsyncIterator[Said]:
    """What there is to say of a search, by name: each `wrong` answer, `progress`, and at last `done`. Raises UsageError
    where a model cannot be asked such problems, Refused where it was not begun by its deadline or the server shuts
    down."""
    tried = wrong = 0
    so_far: dict[str, Any] = {"tried": 0, "wrong": 0, "interval95": [0.0, 1.0]}
    parts = await asyncio.to_thread(askable_parts, version, asked)
    while (problems := await asyncio.to_thread(next, parts, None)) is not None:
        job = Job(expressions(problems), version=version, deadline=math.inf if tried else deadline)
        for solution in map(solution_of, await answers(engine, job)):
            tried += 1
            if not solution.correct:
                wrong += 1
                if wrong <= asked.keep:
                    yield (
                        "wrong",
                        {
                            "expression": solution.expression,
                            "answer": None if solution.answer is None else str(solution.answer),
                            "expected": str(solution.expected),
                            "text": solution.text,
                        },
                    )
        so_far = {"tried": tried, "wrong": wrong, "interval95": list(Count(wrong, tried).interval)}
        yield "progress", so_far
    yield "done", {**so_far, "model": version.label}


async def answers(engine: Engine, job: Job) -> list[Outcome]:
    """The outcomes of a job, which waits where there is no room for it yet."""
    while True:
        try:
            engine.submit(job)
            break
        except Refused as error:
            if error.kind != "overloaded":
                raise
            await asyncio.sleep(error.retry_after)
    try:
        return await job.answered
    finally:
        engine.cancel(job)  # where nobody waits any more


def solution_of(outcome: Outcome) -> Solution:
    """Raises what went wrong."""
    if isinstance(outcome, Solved):
        return outcome.solution
    raise outcome


def askable_parts(version: Version, asked: Hunt) -> Iterator[Problems]:
    """The problems of a search that a model can be asked, in parts. Raises UsageError where it can be asked none."""
    (task,) = get_tasks(asked.task)
    longest = askable(version, draw_length(task, asked.digits, RANDOM, 1))
    if not len(longest):
        raise UsageError(f"{version.label} cannot be asked for {task.name} of {asked.digits} digits")
    part = max(1, min(PART, PART_TOKENS // int(version.model.render(longest).lengths[0])))
    parts = (askable(version, problems) for problems in drawn(task, asked, part))
    return (problems for problems in parts if len(problems))


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
