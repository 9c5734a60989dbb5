"""What a turn of the engine has come to, before it is handed on: answers, tokens as they come, errors of single
rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mathllm.inference.texts import Written
from mathllm.serve.jobs import (
    Done,
    Job,
    Outcome,
    Row,
    Solved,
    Token,
    decoding_of,
    is_ours,
    request_id,
    written_of,
)
from mathllm.serve.versions import Version

Event = tuple[Job, Any]  # what there is to tell: Done, a Token, or what other work yields

log = logging.getLogger("mathllm.serve")


class Outbox:
    """Events in the order in which they came about."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def collect(self) -> list[Event]:
        """All there are; from then on there are none."""
        events, self.events = self.events, []
        return events

    def answer(self, row: Row, outcome: Outcome) -> None:
        self.events.append((row.job, Done(row.index, outcome)))

    def fail(self, row: Row, error: Exception) -> None:
        """Answers a row with an error, which the log has if it is our fault."""
        if is_ours(error):
            request_id.set(row.job.asked_as)
            log.error("a row failed", exc_info=error)
        self.answer(row, error)

    def tell(self, row: Row) -> None:
        """The tokens that have come since the last call, to whoever watches."""
        if row.job.watch is not None:
            for place in range(row.told, len(row.ids)):
                self.events.append((row.job, Token(row.index, place, row.ids[place], row.shares[place])))
            row.told = max(row.told, len(row.ids))

    def each(self, work: Callable[[list[Row]], None], rows: list[Row]) -> None:
        """Work on rows together; where that fails, on each alone, so that only what fails alone has failed."""
        before = len(self.events)
        if not rows:
            return
        try:
            work(rows)
        except Exception as error:
            if len(rows) == 1:
                self.fail(rows[0], error)
                return
            done = {(id(job), event.row) for job, event in self.events[before:] if isinstance(event, Done)}
            for row in rows:
                if (id(row.job), row.index) not in done:
                    self.each(work, [row])

    def finish(self, version: Version, rows: list[Row]) -> None:
        """Answers rows whose completions have come to their end."""
        self.each(lambda some: self.conclude(version, some, written_of(some)), rows)

    def conclude(self, version: Version, rows: Sequence[Row], written: Written) -> None:
        """What the texts of rows amount to."""
        prompts, notation = written.prompt_lengths.tolist(), version.model.format
        for at, (row, solution) in enumerate(zip(rows, version.model.read(written), strict=True)):
            words: tuple[str, ...] = ()
            if row.job.detailed:
                words = tuple(map(notation.reader(written[np.array([at])]), solution.steps))
            found = Solved(
                solution,
                version,
                decoding=decoding_of(row),
                stated=row.stated,
                prompt=prompts[at],
                drafted=row.drafted,
                ids=tuple(row.ids),
                words=words if any(words) else (),
                shares=np.array(row.shares) if row.job.how.detail else None,
            )
            self.answer(row, found)
