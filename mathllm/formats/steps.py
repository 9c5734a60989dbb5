"""Chains with a thought of one token a step: `3+4*7=<think>79</think>9<end>`, the state after each step.

The number of thoughts follows from the problem alone, so that decoding can hold a model to it: it writes digits between
`<think>` and `</think>`, and may mean by them what it likes (see training.objectives.gumbel).

Three more notations are controls: no thought at all, and thoughts that are given with the problem and say nothing.
"""

from __future__ import annotations

import numpy as np

from mathllm.formats.base import Format
from mathllm.tasks import Problems
from mathllm.tasks.chain import count_numbers, running_states
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers
from mathllm.tasks.slots import ABSENT, Slots
from mathllm.tasks.splits import hash_problems
from mathllm.tokenizer import END, END_THINK, Ids


def states(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    return _one_a_step(problems, running_states(problems)[:, 1:])


def zeros(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    return _one_a_step(problems, np.zeros_like(problems.operands[:, 0, 1:]))


def noise(problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
    """Digits of each problem's hash, so that a problem always has the same ones."""
    hashes = hash_problems(problems)[:, None]
    place = np.arange(1, problems.operands.shape[2], dtype=np.uint64)
    mixed = (hashes ^ (hashes >> np.uint64(29))) * (place * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1))
    return _one_a_step(problems, (mixed >> np.uint64(40)).astype(np.int64) % 10)


def _one_a_step(problems: Problems, values: Digits | Ints) -> Slots:
    steps = np.arange(values.shape[1]) < count_numbers(problems)[:, None] - 1
    return np.where(steps, values, ABSENT).astype(np.uint8).T


def count_steps(ids: Ids, prompt: Bools) -> Ints:
    """Steps [N] of the chains in texts [N, T], whose prompts are where `prompt` [N, T] says."""
    steps: Ints = ((ids < 10) & prompt).sum(1) - 1
    return steps


def read_chain(ids: Ids, prompt: Bools) -> Ints:
    """Places [N, T] of texts: the step that a token is about, or that the token after it will tell.

    The first number has place 1, step j's operator and number place j. `<think>` and each thought have that of the
    step which follows, and so has `</think>`, before the answer: it is one past the last step. So at its own place a
    step finds all that it needs, and the answer nothing but the last thought.
    """
    after = ~prompt
    written = np.cumsum(after, 1) - 1  # since `=`, which is about no place
    steps = count_steps(ids, prompt)[:, None]
    closed = np.cumsum((ids == END_THINK) & after, 1) > 0
    thinking = np.where(written > 0, np.minimum(written, steps + 1), 0)
    ended = np.cumsum((ids == END) & after, 1) > 0
    told = np.where(closed, (steps + 1) * (ids == END_THINK), thinking)
    return np.where(prompt, _prompt_places(ids, prompt), np.where(ended, 0, told))


def read_answer_alone(ids: Ids, prompt: Bools) -> Ints:
    """The same without a thought: `=`, before the answer, is one past the last step."""
    first = ~prompt & (np.cumsum(~prompt, 1) == 1)
    answer = count_steps(ids, prompt)[:, None] + 1
    return np.where(prompt, _prompt_places(ids, prompt), first * answer)


def _prompt_places(ids: Ids, prompt: Bools) -> Ints:
    """The steps [N, T] that operators and numbers belong to; the first number belongs to step 1."""
    digit = (ids < 10) & prompt
    numbers = np.cumsum(digit, 1)
    return np.maximum(np.where(digit, numbers - 1, numbers), 1)


STEPS = Format(
    "steps",
    "chains, with the state after each step",
    thoughts={"chain": states},
    read_places=read_chain,
    thought_length=count_steps,
)
NO_STEPS = Format("no-steps", "chains without a thought", only="chain", read_places=read_answer_alone)
FILLER = Format(
    "filler",
    "chains, with a 0 given for each step",
    thoughts={"chain": zeros},
    read_places=read_chain,
    thoughts_given=True,
)
RANDOM_STEPS = Format(
    "random-steps",
    "chains, with a random digit given for each step",
    thoughts={"chain": noise},
    read_places=read_chain,
    thoughts_given=True,
)
