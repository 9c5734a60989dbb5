"""Rows that join a batch and leave it in any order, as hypothesis finds them: each writes what it writes alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_engine import located, make_model, random_prompts, walk_of

from mathllm.inference.engine import Running, Step, decode
from mathllm.inference.sampling import GREEDY, SamplingParams
from mathllm.model.transformer import Transformer

LENGTH = 20  # of the longest text
# schemes that know a token by its index, by its distance, and by what it is about
POSITIONS = ("learned", "rope", "alibi", "coupled-bias", "coupled-bias+learned")
DRAWN = (SamplingParams(1.0), SamplingParams(2.0, top_k=5), SamplingParams(1.5, top_p=0.8))

model_of = lru_cache(lambda position: make_model(LENGTH, position=position))


@dataclass
class Row:
    """What a row writes alone: its ids, and the logits of one pass over the whole text, without a cache. What was heard
    of it so far."""

    ids: list[int]
    logits: torch.Tensor
    heard: list[int] = field(default_factory=list)
    dropped: bool = False

    @property
    def runs(self) -> bool:
        return not self.dropped and len(self.heard) < len(self.ids)


@torch.no_grad()
def alone(model: Transformer, prompt: torch.Tensor, room: int, how: SamplingParams, seed: int) -> Row:
    """A row (P) that is decoded by itself, greedily as a pass over its text says."""
    generator, walk = torch.Generator().manual_seed(seed), walk_of(model, np.arange(1))
    steps = decode(model, prompt[None], room, params=how, generator=generator, walk=walk)
    ids = [int(step.ids[0]) for step in steps]
    text = torch.cat([prompt, torch.tensor(ids)])[None, :-1]
    logits = model(text, located(model, text))[0, len(prompt) - 1 :]
    assert how != GREEDY or ids == logits.argmax(-1).tolist()
    return Row(ids, logits)


class Company(RuleBasedStateMachine):
    """Rows of one model, greedy ones and drawn ones, of any length and with any room."""

    @initialize(position=st.sampled_from(POSITIONS))
    def begin(self, position: str) -> None:
        self.model = model_of(position)
        self.running, self.rows = Running(self.model), dict[int, Row]()

    @rule(count=st.integers(1, 4), length=st.integers(2, LENGTH - 1), room=st.integers(1, 12))
    def join(self, count: int, length: int, room: int) -> None:
        self.admit(random_prompts(count, length, length, room, whole=True)[0], room, GREEDY)

    @rule(
        length=st.integers(2, LENGTH - 1),
        room=st.integers(1, 12),
        how=st.sampled_from(DRAWN),
        seed=st.integers(0, 99),
    )
    def join_with_a_seed(self, length: int, room: int, how: SamplingParams, seed: int) -> None:
        self.admit(random_prompts(1, length, length, seed, whole=True)[0], room, how, seed)

    def admit(self, prompts: np.ndarray, room: int, how: SamplingParams, seed: int = 0) -> None:
        ids, walk = torch.from_numpy(prompts).long(), walk_of(self.model, np.arange(len(prompts)))
        generator = torch.Generator().manual_seed(seed)
        numbers = self.running.admit(ids, room, params=how, generator=generator, walk=walk)
        assert len(numbers) == len(ids)
        assert not set(numbers) & set(self.rows), "a number is given once"
        for number, prompt in zip(numbers, ids, strict=True):
            self.rows[number] = alone(self.model, prompt, room, how, seed)

    @rule(times=st.integers(1, 6))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            if self.running.alive:
                self.hear(self.running.step())

    @rule(which=st.lists(st.integers(0, 99), min_size=1, max_size=3))
    def leave(self, which: list[int]) -> None:
        """Some rows are dropped, among them such as have left before."""
        numbers = [number % len(self.rows) for number in which if self.rows]
        self.running.drop(numbers)
        for number in numbers:
            self.rows[number].dropped = True

    def hear(self, step: Step) -> None:
        due = [number for number, row in self.rows.items() if row.runs]
        assert sorted(step.rows.tolist()) == due, "each row that runs is heard once, and nobody else"
        for number, token, logits, likely in zip(
            step.rows.tolist(), step.ids.tolist(), step.logits, step.log_probs, strict=True
        ):
            row = self.rows[number]
            expected = row.logits[len(row.heard)]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(likely, expected.log_softmax(-1)[token], atol=1e-5, rtol=1e-5)
            row.heard.append(token)
            assert row.heard == row.ids[: len(row.heard)]

    @invariant()
    def all_run_that_should(self) -> None:
        assert self.running.alive == sum(row.runs for row in self.rows.values())

    def teardown(self) -> None:
        """Who was not dropped has the whole text in the end."""
        while self.running.alive:
            self.hear(self.running.step())
        assert all(row.dropped or row.heard == row.ids for row in self.rows.values())


TestCompany = Company.TestCase
TestCompany.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a few steps need no shrinking, which would take minutes
)
