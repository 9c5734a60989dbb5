"""Does the server write the same with the truth as a draft and token by token? `python -m benchmarks.draft_or_steps`

Random problems like those of training are asked of its engine both ways, without HTTP; every text that differs is an
error. Also counted is how many a draft settles.
"""

from __future__ import annotations

import argparse
import asyncio

import numpy as np

from mathllm.data.sources import sampling
from mathllm.finding import SHIPPED
from mathllm.serve.engine import Engine
from mathllm.serve.jobs import How, Job, Solved
from mathllm.serve.versions import Shelf
from mathllm.tasks import sample
from mathllm.tasks.expressions import expressions

MODELS = ("addsub-3digit", "add-any-length", "arithmetic")
ROWS, AT_ONCE = 64, 4  # problems of a job, and jobs that wait


async def texts(engine: Engine, problems: list[str], draft: bool) -> list[Solved]:
    """What the engine answers, in order."""
    found: list[Solved] = []
    jobs: list[Job] = []

    async def first() -> None:
        for outcome in await jobs.pop(0).answered:
            assert isinstance(outcome, Solved), outcome
            found.append(outcome)

    for start in range(0, len(problems), ROWS):
        jobs.append(Job(problems[start : start + ROWS], How(draft=draft)))
        engine.submit(jobs[-1])
        if len(jobs) == AT_ONCE:
            await first()
    while jobs:
        await first()
    return found


async def compare(name: str, count: int) -> int:
    """Prints how many problems are settled by a draft; returns how many texts differ."""
    shelf = Shelf({name: SHIPPED / name}, 2048)
    model = shelf.load(name).model
    rng = np.random.default_rng(0)
    problems = expressions(sample(rng, count, model.tasks, sampling(model.data)))
    engine = Engine(shelf, max_tokens=1 << 24)
    engine.start()
    drafted, stepped = await texts(engine, problems, True), await texts(engine, problems, False)
    engine.stop()
    different = sum(
        one.solution.text != other.solution.text for one, other in zip(drafted, stepped, strict=True)
    )
    settled = sum(one.decoding == "draft" for one in drafted)
    print(f"{name}: {settled:,} of {count:,} settled by a draft; {different} texts differ", flush=True)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="of all models together")
    options = parser.parse_args()
    each = -(-options.requests // len(MODELS))
    different = [asyncio.run(compare(name, each)) for name in MODELS]
    raise SystemExit(f"{sum(different)} texts differ" if any(different) else 0)


if __name__ == "__main__":
    main()
