"""What the engine does with jobs that wait, are watched, or meet a fault, without HTTP around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mathllm.finding import SHIPPED
from mathllm.serve import decoder
from mathllm.serve.engine import Engine
from mathllm.serve.hunting import answers
from mathllm.serve.jobs import Done, How, Job, Refused, Solved, Token
from mathllm.serve.versions import Shelf

STEPS = How(draft=False)


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    shelf = Shelf({"addsub": Path(SHIPPED / "addsub-3digit")}, 2048)
    shelf.load("addsub")
    return shelf


def run(shelf: Shelf, work: Callable[[Engine], Awaitable[None]]) -> None:
    async def within() -> None:
        engine = Engine(shelf)
        engine.start()
        try:
            await work(engine)
        finally:
            engine.stop()

    asyncio.run(within())


def test_who_waits_to_be_decoded_waits_no_longer_than_the_deadline(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "DECODED", 1)

    async def work(engine: Engine) -> None:
        before, late = Job(["12+34"] * 20, STEPS), Job(["1+2"], STEPS)
        for job in (before, late):
            engine.submit(job)
        while not late.taken:
            await asyncio.sleep(0.001)
        late.deadline = time.monotonic()
        (outcome,) = await late.answered
        assert isinstance(outcome, Refused)
        assert outcome.kind == "deadline"
        assert all(isinstance(one, Solved) and one.solution.correct for one in await before.answered)

    run(shelf, work)


def test_a_stream_comes_to_its_end_before_a_server_goes(shelf: Shelf) -> None:
    async def work(engine: Engine) -> None:
        heard: list[Any] = []
        job = Job(["658+189", "999-1"], STEPS, watch=heard.append)
        engine.submit(job)
        while not heard:
            await asyncio.sleep(0.001)
        await engine.drain(30)
        with pytest.raises(Refused, match="shutting down"):
            engine.submit(Job(["1+1"]))
        outcomes = job.answered.result()
        for row, outcome in enumerate(outcomes):
            assert isinstance(outcome, Solved)
            assert outcome.solution.correct
            tokens = [event for event in heard if isinstance(event, Token) and event.row == row]
            assert tuple(token.id for token in tokens) == outcome.ids
        assert sum(isinstance(event, Done) for event in heard) == 2

    run(shelf, work)


def test_nothing_is_left_of_a_search_whose_reader_has_gone(shelf: Shelf) -> None:
    async def work(engine: Engine) -> None:
        search = asyncio.create_task(answers(engine, Job(["12+34"] * 50, STEPS)))
        while not engine.requests:
            await asyncio.sleep(0.001)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        assert engine.requests == engine.tokens == 0
        (one,) = await answers(engine, Job(["1+2"]))
        assert isinstance(one, Solved)

    run(shelf, work)


def test_a_fault_in_company_is_nobody_elses(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong behind a step that rows share has each of them decoded alone."""
    sound, faults = decoder.near_ties, iter([True])

    def faulty(step: Any) -> list[bool]:
        if len(step.rows) > 1 and next(faults, False):
            raise RuntimeError("once")
        return sound(step)

    monkeypatch.setattr(decoder, "near_ties", faulty)

    async def work(engine: Engine) -> None:
        heard: list[Any] = []
        jobs = [Job(["658+189", "999-1"], STEPS, watch=heard.append), Job(["7+8"], STEPS)]
        for job in jobs:
            engine.submit(job)
        for job in jobs:
            assert all(isinstance(one, Solved) and one.solution.correct for one in await job.answered)
        assert next(faults, None) is None, "the fault did not happen"

    run(shelf, work)
