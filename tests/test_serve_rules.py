"""Jobs that come, are cancelled, come too late, or fail in part, in any order, as hypothesis finds them: each row that
somebody waits for is answered once, and as if it had been alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mathllm.errors import CheckpointError
from mathllm.finding import SHIPPED
from mathllm.inference.sampling import SamplingParams
from mathllm.serve.engine import Engine
from mathllm.serve.jobs import Done, How, Job, Refused, Solved, Token
from mathllm.serve.versions import Shelf
from mathllm.tokenizer import MINUS

PLACE = SHIPPED / "addsub-3digit"
MOST, MOST_LINES = 6, 3  # jobs at once, and lines of each

# sums that it has learned and one that it has not, and what is no problem at all
LINES = ("658+189", "7-999", "0+0", "999+1", "12+34=47", "12345+6", "1/0", "5//2", "", "1+1=2=")
HOWS = (
    How(),
    How(draft=False),
    How(most=7),
    How(SamplingParams(30.0), seed=3),
    How(SamplingParams(20.0, top_k=4), seed=4, draft=False),
)


@cache
def shelf() -> Shelf:
    """A model, and the same one with weights that are damaged so that differences have no answer, and sums have."""
    found = Shelf({"addsub": PLACE, "damaged": PLACE}, 2048)
    found.load("addsub")
    damaged = found.load("damaged").model.model
    with torch.no_grad():
        damaged.embedding.weight[MINUS] = torch.nan
    return found


@cache
def own_answer(problem: str) -> tuple[str, str]:
    """Text and answer of the model, asked without a server."""
    solved = shelf().find("addsub").model.solve(problem)
    return solved.text, str(solved.answer)


@cache
def alone(line: str, how: How) -> tuple[str, ...]:
    """What the engine says of a line that nobody is beside, as any of a few rows, since each draws numbers of its own:
    its text, or the kind of error."""

    async def ask() -> list[Any]:
        engine = Engine(shelf())
        engine.start()
        job = Job((line,) * MOST_LINES, how, version=shelf().find("addsub"))
        engine.submit(job)
        found = await job.answered
        engine.stop()
        return found

    return tuple(said(one) for one in asyncio.run(ask()))


def said(outcome: Any) -> str:
    return outcome.solution.text if isinstance(outcome, Solved) else type(outcome).__name__


@dataclass
class Asked:
    """A job, what is to come of its rows, and what has been heard of it."""

    job: Job
    expected: tuple[str, ...]
    heard: list[Token | Done] = field(default_factory=list)
    cancelled: bool = False


class Company(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop, self.engine = asyncio.new_event_loop(), Engine(shelf(), max_requests=MOST)
        self.asked: list[Asked] = []
        self.run(self.start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        self.engine.start()

    @rule(
        lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=MOST_LINES).map(tuple),
        how=st.sampled_from(HOWS),
        streams=st.booleans(),
    )
    def ask(self, lines: tuple[str, ...], how: How, streams: bool) -> None:
        expected = tuple(alone(line, how)[row] for row, line in enumerate(lines))
        self.submit(lines, how, expected, streams)

    @rule(streams=st.booleans(), how=st.sampled_from([How(), How(draft=False), How(most=7, draft=False)]))
    def ask_what_is_damaged(self, streams: bool, how: How) -> None:
        """A row for which the model computes what is no number, between two good ones, with which it may end."""
        first, last = (alone(line, how)[0] for line in ("658+189", "999+1"))
        expected = first, CheckpointError.__name__, last
        self.submit(("658+189", "7-999", "999+1"), how, expected, streams, "damaged")

    @rule(count=st.integers(1, 3))
    def ask_too_late(self, count: int) -> None:
        self.submit(("1+1",) * count, How(), (Refused.__name__,) * count, late=True)

    def submit(
        self,
        lines: tuple[str, ...],
        how: How,
        expected: tuple[str, ...],
        streams: bool = False,
        model: str = "addsub",
        late: bool = False,
    ) -> None:
        async def submit() -> None:
            job = Job(lines, how, version=shelf().find(model))
            job.deadline = 0.0 if late else job.deadline
            asked = Asked(job, expected)
            job.watch = asked.heard.append if streams else None
            if self.engine.requests >= MOST:
                with pytest.raises(Refused, match="waiting"):
                    self.engine.submit(job)
            else:
                self.engine.submit(job)
                self.asked.append(asked)

        self.run(submit())

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        """A client hangs up, if its answer has not come yet."""
        if not self.asked:
            return
        asked = self.asked[which % len(self.asked)]
        asked.cancelled |= not asked.job.answered.done()
        self.engine.cancel(asked.job)

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.002, 0.02]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def what_waits_is_counted(self) -> None:
        waits = [asked.job for asked in self.asked if not asked.job.answered.done()]
        assert self.engine.requests == len(waits)
        assert self.engine.tokens == sum(job.left for job in waits)

    def teardown(self) -> None:
        try:
            waits = [asked.job.answered for asked in self.asked if not asked.cancelled]
            if waits:
                self.run(asyncio.wait(waits, timeout=60))
            self.run(asyncio.sleep(0.01))  # would anything come twice?
            for asked in self.asked:
                check(asked)
            self.what_waits_is_counted()
        finally:
            self.engine.stop()
            self.loop.close()


def check(asked: Asked) -> None:
    job = asked.job
    if asked.cancelled:
        assert job.answered.cancelled()
    else:
        outcomes = job.answered.result()
        assert tuple(map(said, outcomes)) == asked.expected
        for line, outcome in zip(job.lines, outcomes, strict=True):
            if isinstance(outcome, Solved) and job.how in (How(), How(draft=False)):
                own = own_answer(str(line).partition("=")[0])
                assert (outcome.solution.text, str(outcome.solution.answer)) == own
    if job.watch is None:
        return
    ends = [event.row for event in asked.heard if isinstance(event, Done)]
    assert len(set(ends)) == len(ends)
    assert asked.cancelled or len(ends) == len(job.lines)
    for row in ends:
        heard = [event for event in asked.heard if event.row == row]
        assert isinstance(heard[-1], Done), "nothing of a row comes behind its end"
        if isinstance(heard[-1].outcome, Solved):
            tokens = [event for event in heard if isinstance(event, Token)]
            assert [token.place for token in tokens] == list(range(len(tokens)))
            assert tuple(token.id for token in tokens) == heard[-1].outcome.ids


TestCompany = Company.TestCase
TestCompany.settings = settings(
    max_examples=10,
    stateful_step_count=10,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a few steps need no shrinking, which would take minutes
)
