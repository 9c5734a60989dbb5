"""From the lines of requests to texts: what is asked is read, a version that answers it is chosen, and its text is
written out, with the true working and answer as a draft."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from mathllm.errors import ExpressionError, UsageError
from mathllm.formats import Rendered
from mathllm.inference.texts import most_tokens
from mathllm.serve.decoder import Decoder, Lane
from mathllm.serve.jobs import Block, Job, Observe, Raw, Row, aged, too_late
from mathllm.serve.outbox import Outbox
from mathllm.serve.versions import Shelf, Version
from mathllm.tasks.expressions import parse_expression, read_expressions, split_answer

ROWS = 64  # texts that are parsed and written out at once


class Intake:
    """Takes rows from jobs of two queues, `short` ones and `long` ones; texts become `blocks`, and what is a text in a
    model's own notation already goes to the decoder."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        short: deque[Job],
        long: deque[Job],
        outbox: Outbox,
        decoder: Decoder,
        observe: Observe,
    ) -> None:
        self.shelf, self.short, self.long = shelf, short, long
        self.outbox, self.decoder, self.observe = outbox, decoder, observe
        self.blocks: deque[Block] = deque()  # written out, and not read yet

    @property
    def busy(self) -> bool:
        return bool(self.short or self.long or self.blocks)

    def turn(self) -> None:
        """Takes in some rows."""
        # what is short goes before what is long only until it has been taken, so not too much is
        if sum(block.left for block in self.blocks) < ROWS:
            self.prepare(self.take())

    def take(self) -> list[Row]:
        """Some rows for which nothing has been done yet."""
        rows: list[Row] = []
        now = time.monotonic()
        # where rows wait to be decoded, more of long jobs would only wait with them
        long = self.long if self.decoder.queued < ROWS else deque[Job]()
        while len(rows) < ROWS and (self.short or long):
            queue = long if not self.short or (long and aged(long[0])) else self.short
            job = queue[0]
            if not job.taken:
                job.began = now
                self.observe("queue_wait_seconds", now - job.submitted)
            end = len(job.lines) if job.cancelled else min(len(job.lines), job.taken + ROWS - len(rows))
            part = [Row(job, index) for index in range(job.taken, end)]
            late, job.taken, job.touched = now > job.deadline and not job.taken, end, now
            if late:
                end = job.taken = len(job.lines)
                for index in range(len(job.lines)):
                    self.outbox.answer(Row(job, index), too_late())
            elif not job.cancelled:
                rows += part
            if end == len(job.lines):
                queue.popleft()
        return rows

    def prepare(self, rows: list[Row]) -> None:
        """Reads what rows ask, and writes their texts out."""
        texts: dict[Row, str] = {}
        for row in rows:
            line = row.job.lines[row.index]
            if isinstance(line, Raw):
                self.outbox.each(self.go_on, [row])
                continue
            try:
                texts[row], row.stated = split_answer(line)
            except ExpressionError as error:
                self.outbox.answer(row, error)
        named: dict[Version, list[Row]] = {}
        for row in texts:
            if row.job.version is not None:
                named.setdefault(row.job.version, []).append(row)

        def choose(free: list[Row]) -> None:
            for version, which in self.shelf.choose([texts[row] for row in free]):
                named.setdefault(version, []).extend(free[at] for at in which.tolist())

        self.outbox.each(choose, [row for row in texts if row.job.version is None])
        for version, those in named.items():

            def write_out(some: list[Row], version: Version = version) -> None:
                self.write_out(version, some, [texts[row] for row in some])

            self.outbox.each(write_out, those)

    def write_out(self, version: Version, rows: list[Row], texts: list[str]) -> None:
        model = version.model
        problems, good = read_expressions(texts, model.readable)
        for at in np.flatnonzero(~good).tolist():
            try:
                parse_expression(texts[at], model.readable)
            except ExpressionError as error:
                self.outbox.answer(rows[at], error)
        asked, refused = model.fit(problems[np.flatnonzero(good)])
        kept = []
        for place, at in enumerate(np.flatnonzero(good).tolist()):
            if place in refused:
                self.outbox.answer(rows[at], refused[place])
            else:
                kept.append(rows[at])
        # no row goes on longer than there is room, which is no more than --max-tokens
        limits = np.minimum(most_tokens(asked), model.scope.max_length - asked.prompt_lengths)
        for row, limit in zip(kept, limits.tolist(), strict=True):
            row.limit = min(limit, row.job.how.most or limit)
        if kept:
            self.blocks.append(Block(version, asked, kept))

    def go_on(self, rows: list[Row]) -> None:
        """A text to go on from is decoded from where it ends."""
        (row,) = rows
        line, version = row.job.lines[row.index], row.job.version
        assert isinstance(line, Raw)
        assert version is not None, "a model's own notation is for that model"
        length = len(line.ids)
        room = version.model.scope.max_length - length
        if room <= 0:
            raise UsageError(
                f"a text of {length:,} tokens leaves no room in {version.model.scope.max_length:,}"
            )
        lengths = np.array([length])
        row.asked = Rendered(line.problems, line.ids[None], lengths, lengths)
        row.limit = min(row.job.how.most or room, room)
        self.decoder.add(Lane(version), row)
