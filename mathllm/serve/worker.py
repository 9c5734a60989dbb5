"""What the one thread that computes does in a turn. It takes what has come in while it worked on the last slice, with
no window of waiting: a lone request is answered at once, and many together share a pass.

Where decoding is greedy and the truth is the draft (inference.scoring.draft), a slice of texts is read in parallel, and
what the model surely writes is done; all else is decoded from there (serve.decoder). The text is the same either way,
and every answer says how it was come by.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch

from mathllm.inference.engine import ENDED
from mathllm.inference.texts import Written
from mathllm.serve.decoder import Decoder, Lane
from mathllm.serve.intake import Intake
from mathllm.serve.jobs import (
    SLICE,
    Block,
    Done,
    Job,
    Observe,
    Row,
    aged,
    is_ours,
    request_id,
    softmax,
    too_late,
)
from mathllm.serve.outbox import Event, Outbox
from mathllm.serve.versions import Shelf, Version

log = logging.getLogger("mathllm.serve")


class Worker:
    """Works on jobs of three queues: `short` ones, `long` ones, and other `works`."""

    def __init__(
        self, shelf: Shelf, *, short: deque[Job], long: deque[Job], works: deque[Job], observe: Observe
    ) -> None:
        self.works, self.observe, self.outbox = works, observe, Outbox()
        self.decoder = Decoder(self.outbox, observe)
        self.intake = Intake(
            shelf, short=short, long=long, outbox=self.outbox, decoder=self.decoder, observe=observe
        )

    @property
    def busy(self) -> bool:
        return bool(self.works) or self.intake.busy or self.decoder.busy

    def collect(self) -> list[Event]:
        """What has come of the last turn."""
        return self.outbox.collect()

    def turn(self) -> None:
        """Takes in some rows, reads a slice of texts, and decodes one token of each row that is decoded."""
        blocks = self.intake.blocks
        with self.timed("read"):
            self.intake.turn()
        if blocks:
            with self.timed("draft"):
                self.read_slice(blocks[0])
            if not blocks[0].left:
                blocks.popleft()
        if self.decoder.busy:
            with self.timed("decode"):
                tokens = self.decoder.turn()
            self.observe("batch_tokens", tokens, "decode")
        if self.works and (not blocks or aged(self.works[0])):
            with self.timed("work"):
                self.work(self.works.popleft())

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.observe("busy_seconds", time.monotonic() - started, kind)

    def read_slice(self, block: Block) -> None:
        """Tries the truth as a draft for the next rows of a block, as many as there is time for."""
        sums = np.cumsum(block.texts.lengths[block.at :])
        end = block.at + 1 + int((sums[:-1] < SLICE).sum())
        places = {block.rows[at]: at for at in range(block.at, end) if not block.rows[at].job.cancelled}
        block.at = end
        tokens = int(block.texts.lengths[[*places.values()]].sum()) if places else 0
        drafted = [row for row in places if drafts(row, block.version)]
        for row, at in places.items():
            if not drafts(row, block.version):
                row.asked = block.texts[np.array([at])]
                self.decoder.add(Lane(block.version), row)
        if drafted:
            self.outbox.each(lambda rows: self.draft(block, rows, [places[row] for row in rows]), drafted)
            self.observe("batch_rows", len(drafted))
            self.observe("batch_tokens", tokens, "draft")

    def draft(self, block: Block, rows: list[Row], places: list[int]) -> None:
        """Answers the rows that the model surely writes as they should be; the others are decoded from where it does
        not."""
        model, texts = block.version.model, block.texts[np.array(places)]
        found = model.draft(texts)
        length = texts.lengths - texts.prompt_lengths
        column = np.arange(found.logits.shape[1])
        at = np.minimum(texts.prompt_lengths[:, None] + column, texts.ids.shape[1] - 1)
        ids = np.take_along_axis(texts.ids, at, 1).astype(np.int64)  # of the completions
        scores = torch.from_numpy(found.logits).log_softmax(-1).numpy()
        likely = np.take_along_axis(scores, ids[..., None], 2)[..., 0] * (column < length[:, None])
        for number, row in enumerate(rows):
            row.drafted, row.accepted = True, min(int(found.accepted[number]), row.limit)
            row.ids = ids[number, : row.accepted].tolist()
            if row.job.detailed:
                row.shares = list(softmax(found.logits[number, : row.accepted]))
                self.outbox.tell(row)
        whole = np.array([row.accepted for row in rows]) == length
        for number in np.flatnonzero(~whole).tolist():
            row = rows[number]
            row.asked = texts[np.array([number])]
            row.log_probs = likely[number, : row.accepted].tolist()
            if row.accepted == row.limit:
                self.outbox.finish(block.version, [row])
            else:
                self.decoder.add(Lane(block.version), row)
        number_of = {row: number for number, row in enumerate(rows)}

        def conclude(some: list[Row]) -> None:
            numbers = np.array([number_of[row] for row in some])
            done, ended = texts[numbers], np.full(len(some), ENDED, np.uint8)
            sure = likely[numbers].astype(np.float32)
            self.outbox.conclude(
                block.version,
                some,
                Written(done.problems, done.ids, done.lengths, done.prompt_lengths, ended, sure),
            )

        self.outbox.each(conclude, [row for row, sure in zip(rows, whole.tolist(), strict=True) if sure])

    def work(self, job: Job) -> None:
        """A slice of other work; its end is its answer."""
        if job.cancelled or job.work is None:
            return
        job.touched = now = time.monotonic()
        if not job.began and now > job.deadline:
            self.outbox.events.append((job, Done(0, too_late())))
            return
        job.began = job.began or now
        try:
            event = next(job.work)
        except StopIteration:
            self.outbox.events.append((job, Done(0, None)))
        except Exception as error:
            if is_ours(error):
                request_id.set(job.asked_as)
                log.exception("some work failed")
            self.outbox.events.append((job, Done(0, error)))
        else:
            self.outbox.events.append((job, event))
            self.works.append(job)


def drafts(row: Row, version: Version) -> bool:
    """Is the truth a draft of what would be decoded?"""
    how = row.job.how
    return how.draft and how.params.temperature == 0 and not version.model.format.own_thoughts
