"""Rows that come and go while others are decoded: what each writes is what it writes alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_engine import VARIANTS, make_model, random_prompts, walk_of

from mathllm.inference.engine import Running, decode
from mathllm.inference.sampling import GREEDY, SamplingParams
from mathllm.model.attention import MANY_ROWS
from mathllm.model.transformer import Transformer
from mathllm.registry import POSITIONS

WARM = SamplingParams(temperature=0.9)


class Rows:
    """What rows have written, by number."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.log_probs: dict[int, list[float]] = {}

    def add(self, step) -> None:
        for number, token, log_prob in zip(
            step.rows.tolist(), step.ids.tolist(), step.log_probs.tolist(), strict=True
        ):
            self.ids.setdefault(number, []).append(token)
            self.log_probs.setdefault(number, []).append(log_prob)


def company(model: Transformer, seed: int, most: int = 12) -> None:
    """Groups of rows join and leave at random; each row is compared with the same one decoded alone."""
    rng = np.random.default_rng(seed)
    running, together, alone, dropped = Running(model), Rows(), Rows(), set()
    for number in range(5):
        size = int(rng.choice([1, 2, 3, MANY_ROWS + 2]))
        prompts, lengths = random_prompts(1, 2, 9, seed=100 * seed + number, whole=True)
        prompts = np.repeat(prompts[:, : lengths[0]], size, 0)
        prompts[:, : lengths[0] - 1] = rng.integers(0, 10, (size, lengths[0] - 1))
        how = WARM if number % 2 else GREEDY
        ids = torch.from_numpy(prompts).long()

        def options(number=number, size=size, how=how):
            generator = torch.Generator().manual_seed(number) if how is WARM else None
            return {"params": how, "generator": generator, "walk": walk_of(model, np.arange(size))}

        numbers = running.admit(ids, most, **options())
        for step in decode(model, ids, most, **options()):
            step = type(step)(step.rows + numbers.start, step.ids, step.logits)
            alone.add(step)
        for _ in range(int(rng.integers(0, 5))):
            if running.alive:
                together.add(running.step())
        if rng.random() < 0.4 and size > 1:
            running.drop([numbers[0]])
            dropped.add(numbers[0])
    while running.alive:
        together.add(running.step())
    assert set(together.ids) | dropped >= set(alone.ids)
    for number in together.ids:
        many = len(together.ids[number])
        assert together.ids[number] == alone.ids[number][:many]
        assert many == len(alone.ids[number]) or number in dropped
        assert np.allclose(together.log_probs[number], alone.log_probs[number][:many], atol=2e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_row_writes_what_it_writes_alone(position: str) -> None:
    for seed in range(2):
        company(make_model(position=position), seed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_it_does_whatever_the_model_is_made_of(variant: str) -> None:
    company(make_model(position="rope", **VARIANTS[variant]), 3)
    company(make_model(position="coupled-bias+learned", **VARIANTS[variant]), 4)


def test_what_is_out_of_reach_is_left_out_of_each_row_by_itself() -> None:
    model = make_model(max_length=200, position="coupled-bias")
    with torch.no_grad():
        for part in model.positions.parts.values():
            part.decay.fill_(10.0)
    assert model.reach
    company(model, 5, most=150)


def test_a_prompt_without_room_is_not_taken_in() -> None:
    model = make_model(max_length=8)
    running = Running(model)
    assert len(running.admit(torch.zeros(2, 8, dtype=torch.long), 5)) == 0
    assert running.alive == 0
    assert running.admit(torch.zeros(2, 5, dtype=torch.long), 5) == range(2)
    while running.alive:
        assert len(running.step().rows) <= 2
    assert running.admit(torch.zeros(1, 5, dtype=torch.long), 5) == range(2, 3)
    assert running.alive == 1


def test_rows_that_left_are_out_of_the_cache() -> None:
    """A long row that ends gives its columns back."""
    model = make_model(max_length=400)
    running = Running(model, stop=-1)
    running.admit(torch.zeros(3, 200, dtype=torch.long), 2)
    running.admit(torch.zeros(1, 5, dtype=torch.long), 60)
    for _ in range(4):
        running.step()
    assert running.alive == 1
    assert running.cache is not None
    assert (running.cache.length, running.cache.start) == (8, None)
