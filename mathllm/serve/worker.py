"""What the one thread that computes does in a turn. It takes what has come in while it worked on the last slice, with
no window of waiting: a lone request is answered at once, and many together share a pass.

Where decoding is greedy and the truth is the draft (inference.scoring.draft), a slice of texts is read in parallel, and
what the model surely writes is done; all else is decoded from there by the project's one loop
(inference.engine.Running), which rows join and leave. The text is the same either way, and every answer says how it was
come by.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mathllm.errors import ExpressionError, MathLLMError, UsageError
from mathllm.formats import Rendered, Walk
from mathllm.inference.engine import ENDED, Running
from mathllm.inference.texts import Written, most_tokens
from mathllm.serve.jobs import (
    Block,
    Done,
    Job,
    Outcome,
    Raw,
    Refused,
    Row,
    Solved,
    Token,
    decoding_of,
    problems_of,
    request_id,
    softmax,
    written_of,
)
from mathllm.serve.versions import Shelf, Version
from mathllm.tasks.expressions import parse_expression, read_expressions, split_answer
from mathllm.tokenizer import END

SLICE = 2048  # tokens that are read in parallel at once: the most that anyone waits behind
ROWS = 64  # texts that are parsed and written out at once
DECODED, DECODED_BYTES = 256, 1 << 28  # rows that are decoded at once, by each version, and their cache
AGE = 1.0  # seconds after which long work goes before short work

Event = tuple[Job, Any]  # what there is to tell: Done, a Token, or what other work yields

log = logging.getLogger("mathllm.serve")


class Worker:
    """Works on jobs of three queues: `short` ones, `long` ones, and other `works`."""

    def __init__(
        self,
        shelf: Shelf,
        short: deque[Job],
        long: deque[Job],
        works: deque[Job],
        observe: Callable[[str, float], None],
    ) -> None:
        self.shelf, self.short, self.long, self.works, self.observe = shelf, short, long, works, observe
        self.rate = 10_000.0  # tokens a second, as measured
        self.blocks: deque[Block] = deque()  # written out, and not read yet
        self.waiting: dict[Version, deque[Row]] = {}  # to be decoded
        self.running: dict[Version, Running] = {}
        self.live: dict[Version, dict[int, Row]] = {}  # what is decoded, by its number there
        self.events: list[Event] = []

    @property
    def busy(self) -> bool:
        queued = self.short or self.long or self.works or self.blocks or self.waiting
        return bool(queued or self.running)

    def collect(self) -> list[Event]:
        """What has come of the last turn."""
        events, self.events = self.events, []
        return events

    def turn(self) -> None:
        """Takes in some rows, reads a slice of texts, and decodes one token of each row that is decoded."""
        # what is short goes before what is long only until it has been taken, so not too much is
        if sum(block.left for block in self.blocks) + sum(map(len, self.waiting.values())) < ROWS:
            self.prepare(self.take())
        if self.blocks:
            self.read_slice(self.blocks[0])
            if not self.blocks[0].left:
                self.blocks.popleft()
        for version in [*self.waiting]:
            self.admit(version)
        for version in [*self.running]:
            self.step(version)
        if self.works and (not self.blocks or aged(self.works[0])):
            self.work(self.works.popleft())

    def each(self, work: Callable[[list[Row]], None], rows: list[Row]) -> None:
        """Work on rows together; where that fails, on each alone, so that only what fails alone has failed."""
        before = len(self.events)
        if not rows:
            return
        try:
            work(rows)
        except Exception as error:
            if len(rows) == 1:
                if not isinstance(error, MathLLMError):
                    request_id.set(rows[0].job.asked_as)
                    log.exception("a row failed")
                self.answer(rows[0], error)
                return
            done = {(id(job), event.row) for job, event in self.events[before:] if isinstance(event, Done)}
            for row in rows:
                if (id(row.job), row.index) not in done:
                    self.each(work, [row])

    def answer(self, row: Row, outcome: Outcome) -> None:
        self.events.append((row.job, Done(row.index, outcome)))

    def measure(self, tokens: int, seconds: float) -> None:
        """How fast it goes: what took long counts for more."""
        share = 1 - 0.1 ** (seconds + 0.01)
        self.rate += share * (tokens / max(seconds, 1e-6) - self.rate)

    # from lines to texts

    def take(self) -> list[Row]:
        """Some rows for which nothing has been done yet."""
        rows: list[Row] = []
        now = time.monotonic()
        while len(rows) < ROWS and (self.short or self.long):
            queue = self.long if not self.short or (self.long and aged(self.long[0])) else self.short
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
                    error = Refused("deadline", "it was not begun before its deadline")
                    self.answer(Row(job, index), error)
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
                self.each(self.go_on, [row])
                continue
            try:
                texts[row], row.stated = split_answer(line)
            except ExpressionError as error:
                self.answer(row, error)
        named: dict[Version, list[Row]] = {}
        for row in texts:
            if row.job.version is not None:
                named.setdefault(row.job.version, []).append(row)

        def choose(free: list[Row]) -> None:
            for version, which in self.shelf.choose([texts[row] for row in free]):
                named.setdefault(version, []).extend(free[at] for at in which.tolist())

        self.each(choose, [row for row in texts if row.job.version is None])
        for version, those in named.items():

            def write_out(some: list[Row], version: Version = version) -> None:
                self.write_out(version, some, [texts[row] for row in some])

            self.each(write_out, those)

    def write_out(self, version: Version, rows: list[Row], texts: list[str]) -> None:
        model = version.model
        problems, good = read_expressions(texts, model.readable)
        for at in np.flatnonzero(~good).tolist():
            try:
                parse_expression(texts[at], model.readable)
            except ExpressionError as error:
                self.answer(rows[at], error)
        asked, refused = model.fit(problems[np.flatnonzero(good)])
        kept = []
        for place, at in enumerate(np.flatnonzero(good).tolist()):
            if place in refused:
                self.answer(rows[at], refused[place])
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
        self.waiting.setdefault(version, deque()).append(row)

    # in parallel

    def read_slice(self, block: Block) -> None:
        """Tries the truth as a draft for the next rows of a block, as many as there is time for."""
        sums = np.cumsum(block.texts.lengths[block.at :])
        end = block.at + 1 + int((sums[:-1] < SLICE).sum())
        places = {block.rows[at]: at for at in range(block.at, end) if not block.rows[at].job.cancelled}
        block.at = end
        started = time.monotonic()
        tokens = int(block.texts.lengths[[*places.values()]].sum()) if places else 0
        drafted = [row for row in places if drafts(row, block.version)]
        for row, at in places.items():
            if not drafts(row, block.version):
                row.asked = block.texts[np.array([at])]
                self.waiting.setdefault(block.version, deque()).append(row)
        if drafted:
            self.each(lambda rows: self.draft(block, rows, [places[row] for row in rows]), drafted)
            self.measure(tokens, time.monotonic() - started)
            self.observe("batch_rows", len(drafted))
            self.observe("batch_tokens", tokens)

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
            row.accepted = min(int(found.accepted[number]), row.limit)
            row.ids = ids[number, : row.accepted].tolist()
            if row.job.detailed:
                row.shares = list(softmax(found.logits[number, : row.accepted]))
                self.tell(row, 0)
        whole = np.array([row.accepted for row in rows]) == length
        for number in np.flatnonzero(~whole).tolist():
            row = rows[number]
            row.asked = texts[np.array([number])]
            row.log_probs = likely[number, : row.accepted].tolist()
            if row.accepted == row.limit:
                self.finish(block.version, [row])
            else:
                self.waiting.setdefault(block.version, deque()).append(row)
        number_of = {row: number for number, row in enumerate(rows)}

        def conclude(some: list[Row]) -> None:
            numbers = np.array([number_of[row] for row in some])
            done, ended = texts[numbers], np.full(len(some), ENDED, np.uint8)
            sure = likely[numbers].astype(np.float32)
            self.conclude(
                block.version,
                some,
                Written(done.problems, done.ids, done.lengths, done.prompt_lengths, ended, sure),
            )

        self.each(conclude, [row for row, sure in zip(rows, whole.tolist(), strict=True) if sure])

    # token by token

    def admit(self, version: Version) -> None:
        """Rows begin to be decoded, behind what is accepted of them, as many as there is room for."""
        waiting = self.waiting[version]
        running = self.running.get(version) or Running(version.model.model)
        live = self.live.setdefault(version, {})
        groups: dict[tuple[int, int], list[Row]] = {}
        count, model = running.alive, version.model
        most = min(DECODED, max(1, DECODED_BYTES // (model.model.cache_bytes * model.scope.max_length)))
        while waiting and count < most:
            row = waiting.popleft()
            if not row.job.cancelled:
                # those that are drawn have random numbers of their own
                group = id(row) if row.job.how.params.temperature else 0
                groups.setdefault((len(row.so_far), group), []).append(row)
                count += 1
        for rows in groups.values():
            self.each(lambda rows: live.update(zip(begin(version, running, rows), rows, strict=True)), rows)
        if running.alive:
            self.running[version] = running
        if not waiting:
            del self.waiting[version]

    def step(self, version: Version) -> None:
        """The next token of every row that a version decodes."""
        live, running, started = self.live[version], self.running[version], time.monotonic()
        try:
            step = running.step()
        except Exception as error:  # of weights that are damaged: nothing there can go on
            log.exception("%s cannot go on", version.label)
            for row in live.values():
                self.answer(row, error)
            del self.running[version], self.live[version]
            return
        numbers, ids, likely = (part.tolist() for part in (step.rows, step.ids, step.log_probs))
        shares = None
        if any(live[number].job.detailed for number in numbers):
            shares = softmax(step.logits.cpu().numpy())
        gone, done = [], []
        for at, number in enumerate(numbers):
            row = live[number]
            row.ids.append(ids[at])
            row.log_probs.append(likely[at])
            if shares is not None and row.job.detailed:
                row.shares.append(shares[at])
                self.tell(row, len(row.ids) - 1)
            ended = ids[at] == END or len(row.ids) >= row.limit
            if ended or row.job.cancelled:
                gone.append(number)
                done += [row] * (not row.job.cancelled)
        for number in gone:
            del live[number]
        if gone:
            running.drop(gone)
        self.observe("decoded_tokens", len(numbers))
        self.measure(len(numbers), time.monotonic() - started)
        if not running.alive:
            done += [
                row for row in live.values() if not row.job.cancelled
            ]  # who has come to the end of the room
            del self.running[version], self.live[version]
        if done:
            self.finish(version, done)

    def tell(self, row: Row, first: int) -> None:
        """Its tokens from `first` on, to whoever watches."""
        if row.job.watch is not None:
            for place in range(first, len(row.ids)):
                self.events.append((row.job, Token(row.index, place, row.ids[place], row.shares[place])))

    # what comes of it

    def finish(self, version: Version, rows: list[Row]) -> None:
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
                ids=tuple(row.ids),
                words=words if any(words) else (),
                shares=np.array(row.shares) if row.job.how.detail else None,
            )
            self.answer(row, found)

    def work(self, job: Job) -> None:
        """A slice of other work; its end is its answer."""
        if job.cancelled or job.work is None:
            return
        job.touched = time.monotonic()
        try:
            event = next(job.work)
        except StopIteration:
            self.events.append((job, Done(0, None)))
        except Exception as error:
            if not isinstance(error, MathLLMError):
                request_id.set(job.asked_as)
                log.exception("some work failed")
            self.events.append((job, Done(0, error)))
        else:
            self.events.append((job, event))
            self.works.append(job)


def aged(job: Job) -> bool:
    return time.monotonic() - job.touched > AGE


def drafts(row: Row, version: Version) -> bool:
    """Is the truth a draft of what would be decoded?"""
    how = row.job.how
    return how.draft and how.params.temperature == 0 and version.model.format.true_thoughts


def begin(version: Version, running: Running, rows: Sequence[Row]) -> range:
    """Has rows whose texts so far have one length decoded from there, and returns their numbers."""
    model, how = version.model, rows[0].job.how
    generator = None
    if how.params.temperature:
        seed = np.random.SeedSequence([how.seed, rows[0].index]).generate_state(1)[0]
        generator = torch.Generator(model.device).manual_seed(int(seed))
    prompts = torch.from_numpy(np.stack([row.so_far for row in rows]))
    return running.admit(
        prompts.to(model.device).long(),
        max(row.limit - len(row.ids) for row in rows),
        params=how.params,
        generator=generator,
        walk=Walk(model.format, problems_of(rows), model.model.axes),
    )
