"""Rows that are decoded token by token, by the project's one loop (inference.engine.Running), which they join and
leave.

What a row writes must not depend on its company. That changes the last bits of logits alone, so it could matter only
where the two likeliest tokens nearly tie: a row that comes to such a place is decoded again from its prompt, alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mathllm.formats import Walk
from mathllm.inference.engine import Running, Step
from mathllm.inference.scoring import TIE
from mathllm.serve.jobs import SLICE, Observe, Row, problems_of, softmax, too_late
from mathllm.serve.outbox import Outbox
from mathllm.serve.versions import Version
from mathllm.tokenizer import END

DECODED, DECODED_BYTES = 256, 1 << 28  # rows that are decoded at once in a lane, and their cache


class Lane(NamedTuple):
    """Rows of one version that are decoded together, or `alone`, one after the other."""

    version: Version
    alone: bool = False


class Decoder:
    """Each turn brings every row that is decoded one token further."""

    def __init__(self, outbox: Outbox, observe: Observe) -> None:
        self.outbox, self.observe = outbox, observe
        self.waiting: dict[Lane, deque[Row]] = {}
        self.running: dict[Lane, Running] = {}
        self.live: dict[Lane, dict[int, Row]] = {}  # what is decoded, by its number there

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def queued(self) -> int:
        """Rows that have not begun."""
        return sum(map(len, self.waiting.values()))

    def add(self, lane: Lane, row: Row) -> None:
        self.waiting.setdefault(lane, deque()).append(row)

    def turn(self) -> int:
        """Takes in what waits, and decodes a token of each row; returns how many."""
        for lane in [*self.waiting]:
            self.admit(lane)
        return sum(self.step(lane) for lane in [*self.running])

    def admit(self, lane: Lane) -> None:
        """Rows begin to be decoded, behind what is accepted of them, as many as there is room for."""
        waiting, model = self.waiting[lane], lane.version.model
        running = self.running.get(lane) or Running(model.model)
        live = self.live.get(lane, {})
        groups: dict[tuple[int, int], list[Row]] = {}
        most = min(DECODED, max(1, DECODED_BYTES // (model.model.cache_bytes * model.scope.max_length)))
        most, count, tokens = 1 if lane.alone else most, running.alive, 0
        while waiting and count < most and tokens < SLICE:
            row = waiting.popleft()
            if time.monotonic() > row.job.deadline and not row.begun:
                self.outbox.answer(row, too_late())
            elif not row.job.cancelled:
                # those that are drawn have random numbers of their own
                group = id(row) if row.job.how.params.temperature else 0
                length = len(row.so_far)
                groups.setdefault((length, group), []).append(row)
                count, tokens = count + 1, tokens + length
        for rows in groups.values():
            self.outbox.each(
                lambda rows: live.update(zip(begin(lane.version, running, rows), rows, strict=True)), rows
            )
        if running.alive:
            self.running[lane], self.live[lane] = running, live
        if not waiting:
            del self.waiting[lane]

    def step(self, lane: Lane) -> int:
        """The next token of every row of a lane; returns how many rows there were."""
        running, live = self.running[lane], self.live[lane]
        try:
            step = running.step()
            ended = self.take(live, step, alone=lane.alone)
            if ended:
                running.drop(ended)
        except Exception as error:  # of weights that are damaged: whose fault it is shows when each is alone
            for row in live.values():
                if lane.alone:
                    self.outbox.fail(row, error)
                else:
                    row.begin_again()
                    self.add(Lane(lane.version, alone=True), row)
            del self.running[lane], self.live[lane]
            return 0
        rows = [live.pop(number) for number in ended]
        if not running.alive:
            rows += live.values()  # who has come to the end of the room
            del self.running[lane], self.live[lane]
        for row in rows:
            if row.tied and not lane.alone:
                self.add(Lane(lane.version, alone=True), row)
        self.outbox.finish(
            lane.version, [row for row in rows if not row.job.cancelled and (lane.alone or not row.tied)]
        )
        return len(step.rows)

    def take(self, live: dict[int, Row], step: Step, *, alone: bool) -> list[int]:
        """Gives rows their next tokens; returns the numbers of those that go no further here."""
        numbers, ids, likely = (part.tolist() for part in (step.rows, step.ids, step.log_probs))
        shares, now, ended = None, time.monotonic(), []
        if any(live[number].job.detailed for number in numbers):
            shares = softmax(step.logits.cpu().numpy())
        ties = [False] * len(numbers) if alone else near_ties(step)
        for at, number in enumerate(numbers):
            row = live[number]
            if ties[at] and not row.job.how.params.temperature:
                row.begin_again()
                ended.append(number)
                continue
            row.ids.append(ids[at])
            row.log_probs.append(likely[at])
            if np.isnan(likely[at]):  # nothing to tell: what reads the text finds that these are no numbers
                ended.append(number)
                continue
            if shares is not None and row.job.detailed:
                row.shares.append(shares[at])
                if row.heard and len(row.ids) > row.told:
                    self.observe("inter_token_seconds", now - row.heard)
                self.outbox.tell(row)
                row.heard = now
            if ids[at] == END or len(row.ids) >= row.limit or row.job.cancelled:
                ended.append(number)
        return ended


def near_ties(step: Step) -> list[bool]:
    """Of which rows the likeliest token leads by so little that other sums could change it."""
    first, second = step.logits.topk(2).values.unbind(-1)
    ties: list[bool] = (first - second <= TIE).tolist()
    return ties


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
