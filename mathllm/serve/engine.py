"""The door between the thread of HTTP and the one thread that computes: jobs are admitted at once or refused at once,
and their outcomes come back in one piece a turn."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from mathllm.serve.jobs import SLICE, Done, Job, Observe, Refused
from mathllm.serve.outbox import Event
from mathllm.serve.settings import Settings
from mathllm.serve.versions import Shelf
from mathllm.serve.worker import Worker
from mathllm.tasks.base import plural

STALLED = 30.0  # seconds without a turn, while there is work, after which the engine counts as stuck

log = logging.getLogger("mathllm.serve")


class Pace:
    """How fast work is done: tokens that answered lines were taken to cost, in a second of computing, where a second
    ago counts for half."""

    def __init__(self) -> None:
        self.done, self.spent = 10_000.0, 1.0

    def add(self, tokens: int, seconds: float) -> None:
        keep = 0.5**seconds
        self.done, self.spent = self.done * keep + tokens, self.spent * keep + seconds

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return max(1.0, self.done / self.spent)


def cost_of(events: Sequence[Event]) -> int:
    """Tokens that the lines which have ended were taken to cost."""
    return sum(job.costs[event.row] for job, event in events if isinstance(event, Done) and job.lines)


class Engine:
    """Admits jobs at once or refuses them at once, in the loop's thread; computes in a thread of its own.

    `observe` is told what happens, by name, number and kind of work: it must not block."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        max_requests: int = Settings.max_queue,
        max_tokens: int = Settings.max_queue_tokens,
        threads: int = 1,
        observe: Observe = lambda name, value, kind="": None,
    ) -> None:
        self.shelf, self.max_requests, self.max_tokens, self.threads = (
            shelf,
            max_requests,
            max_tokens,
            threads,
        )
        self.observe = observe
        self.jobs: set[Job] = set()  # admitted, and not answered yet
        self.tokens = 0  # that these may take
        self.draining = self.stopped = False
        self.pace = Pace()
        self.progress = time.monotonic()
        self.short: deque[Job] = deque()
        self.long: deque[Job] = deque()
        self.works: deque[Job] = deque()
        self.changed = threading.Condition()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Takes a job in. Raises Refused, before any work is done for it, where there is no room."""
        self.check_open()
        if self.requests and self.tokens + job.cost > self.max_tokens:
            raise Refused("overloaded", f"{plural(self.requests, 'request')} waiting", self.wait)
        if not self.jobs:
            self.progress = time.monotonic()  # until now there was nothing to do
        self.jobs.add(job)
        self.tokens += job.cost
        job.submitted = job.touched = time.monotonic()
        queue = self.works if job.work is not None else self.short if job.cost <= SLICE else self.long
        with self.changed:
            queue.append(job)
            self.changed.notify()

    def check_open(self) -> None:
        """Raises Refused where nothing is taken in now, or nothing more."""
        if self.draining:
            raise Refused("draining", "this server is shutting down", 5)
        if not self.shelf.loaded:
            raise Refused("loading", "the models are being loaded", 2)
        if self.full:
            raise Refused("overloaded", f"{plural(self.requests, 'request')} waiting", self.wait)

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: what has not been computed will not be."""
        # (its future may have been cancelled already, with a task that waited for it)
        if job in self.jobs:
            job.cancelled = True
            job.answered.cancel()
            self._settle(job)

    @property
    def requests(self) -> int:
        """How many were admitted and are not answered yet."""
        return len(self.jobs)

    @property
    def full(self) -> bool:
        return self.requests >= self.max_requests or self.tokens >= self.max_tokens

    @property
    def wait(self) -> int:
        """Seconds until all that was taken in should be done."""
        return max(1, math.ceil(self.tokens / self.pace.rate))

    @property
    def stalled(self) -> float:
        """Seconds since the engine last did something although there is work, where that is too long; else 0."""
        since = time.monotonic() - self.progress
        alive = self.thread is not None and self.thread.is_alive()
        return since if self.requests and (since > STALLED or not alive) else 0.0

    async def drain(self, seconds: float) -> None:
        """Takes nothing in any more, and lets what was taken in be done, for so long; what is left then ends with an
        error."""
        self.draining = True
        end = time.monotonic() + seconds
        late = Refused("draining", "this server has shut down", 5)
        while self.jobs and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self._give_up([*self.jobs], late)

    def _give_up(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            rows = [row for row, outcome in enumerate(job.outcomes) if outcome is None] if job.lines else [0]
            self.deliver([(job, Done(row, error)) for row in rows])
            job.cancelled = True  # for the worker

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify()
        if self.thread is not None:
            self.thread.join(5)

    def deliver(self, events: Sequence[tuple[Job, Any]]) -> None:
        """Hands on what the worker has found."""
        for job, event in events:
            if job.cancelled:
                continue
            if isinstance(event, Done):
                if job.lines:
                    job.outcomes[event.row] = event.outcome
                    job.left -= job.costs[event.row]
                    self.tokens -= job.costs[event.row]
                elif event.outcome is not None:
                    job.outcomes.append(event.outcome)
                job.missing -= 1
            if job.watch is not None:
                job.watch(event)
            if job.missing == 0 and not job.answered.done():
                self._settle(job)
                job.ended = time.monotonic()
                job.answered.set_result([one for one in job.outcomes if one is not None])

    def _settle(self, job: Job) -> None:
        self.jobs.discard(job)
        self.tokens -= job.left

    def _run(self) -> None:
        """The life of the thread that computes."""
        torch.set_num_threads(self.threads)
        worker = self._worker()
        while True:
            with self.changed:
                while not (self.stopped or worker.busy):
                    self.changed.wait()
                if self.stopped:
                    return
            self.progress = started = time.monotonic()
            assert self.loop is not None, "it has been started"
            try:
                try:
                    worker.turn()
                except (
                    Exception
                ) as error:  # of the worker itself: what it has begun is lost, what waits goes on
                    log.exception("a turn failed")
                    self.loop.call_soon_threadsafe(self._lose, error, time.monotonic())
                    worker = self._worker()
                events = worker.collect()
                self.pace.add(cost_of(events), time.monotonic() - started)
                if events:
                    self.loop.call_soon_threadsafe(self.deliver, events)
            except RuntimeError:  # the loop is closed: nobody waits
                return

    def _worker(self) -> Worker:
        return Worker(self.shelf, short=self.short, long=self.long, works=self.works, observe=self.observe)

    def _lose(self, error: Exception, when: float) -> None:
        """What had been begun by then ends with an error."""
        self._give_up([job for job in self.jobs if 0 < job.began <= when], error)
