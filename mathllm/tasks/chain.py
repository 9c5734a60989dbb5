"""Chains: `3+4*7-2*3`, worked off from left to right modulo 10, with products by 1, 3, 7 and 9 alone.

Such a factor has no divisor in common with 10, so that every step can be undone: whoever leaves out the start, or a
sum on the way, knows nothing of the result. A chain of one number is that number.

A problem's first operand are the numbers in the order of the text, one digit each, the second one the operators
before them (0 before the first). So a chain's digits are its numbers: one more than its steps.
"""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import Digits, Ints, Numbers, significant
from mathllm.tasks.sampling import Sampling

ADD, SUBTRACT, MULTIPLY = 1, 2, 3
FACTORS = np.array([1, 3, 7, 9], np.uint8)
BLOCK = 64  # rows drawn with the same numbers of steps and of products: their texts are of one length


class Chain:
    name = "chain"
    symbol = ""  # several
    operator: tuple[int, ...] = ()
    commutative = False
    max_operands = 2
    signed = False
    samplings: tuple[str, ...] = ("digits", "uniform")
    factor_digits = 0

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Digits:
        """Chains of 1 to max_digits numbers, each as often (`uniform`: as often as there are such chains, which is
        almost always the most); rows come in blocks of one length."""
        n = len(counts)
        numbers = rng.integers(
            how.max_digits if method == "uniform" else 1, how.max_digits + 1, -(-n // BLOCK)
        )
        products = rng.binomial(numbers - 1, 1 / 3)
        return draw_chains(rng, np.repeat(numbers, BLOCK)[:n], np.repeat(products, BLOCK)[:n], how.max_digits)

    def of_length(self, rng: np.random.Generator, n: int, operands: int, digits: int, stress: bool) -> Digits:
        """Chains of so many numbers; with `stress`, of steps that change something."""
        numbers = np.full(n, digits)
        return draw_chains(rng, numbers, rng.binomial(numbers - 1, 1 / 3), digits, idle=not stress)

    def answer(self, problems: Problems) -> Numbers:
        return significant(running_states(problems)[:, -1:])

    def answer_widths(self, problems: Problems) -> Ints:
        return np.ones(len(problems), np.int64)

    def chain_lengths(self, problems: Problems) -> Ints:
        """Nothing is carried."""
        return np.zeros(len(problems), np.int64)

    def extreme(self, max_digits: int, max_operands: int, signed: bool) -> Digits:
        operands = np.full((1, 2, max_digits), 9, np.uint8)
        operands[:, 1] = MULTIPLY * (np.arange(max_digits) > 0)
        return operands


def draw_chains(
    rng: np.random.Generator, numbers: Ints, products: Ints, width: int, idle: bool = True
) -> Digits:
    """Operands [n, 2, width] of chains of so many `numbers` [n], of whose steps so many are `products` [n].

    Without `idle` no step adds 0 or multiplies by 1.
    """
    shape = len(numbers), width
    step = (np.arange(width) > 0) & (np.arange(width) < numbers[:, None])
    rank = np.where(step, rng.random(shape), 2).argsort(1).argsort(1)
    times = step & (rank < products[:, None])
    operators = np.where(times, MULTIPLY, rng.integers(ADD, MULTIPLY, shape)) * step
    factors = FACTORS[rng.integers(0 if idle else 1, 4, shape)]
    digits = np.where(times, factors, rng.integers(step & (not idle), 10, shape))
    digits = digits * (np.arange(width) < numbers[:, None])
    return np.stack([digits, operators], axis=1).astype(np.uint8)


def count_numbers(problems: Problems) -> Ints:
    """How many numbers each chain has [N]: one more than steps."""
    count: Ints = 1 + (problems.operands[:, 1] > 0).sum(1)
    return count


def running_states(problems: Problems) -> Digits:
    """The result after each number [N, D], the first included; behind a chain's end the last one again."""
    states = problems.operands[:, 0].copy()
    for column in range(1, states.shape[1]):
        states[:, column] = _step(problems, column, states[:, column - 1])
    return states


def apply_steps(problems: Problems, states: Digits, done: int) -> Digits:
    """The results [N] of chains whose first `done` steps have led to the states [N]."""
    for column in range(done + 1, problems.operands.shape[2]):
        states = _step(problems, column, states)
    return states


def _step(problems: Problems, column: int, states: Digits) -> Digits:
    """States [N] after the step of that column."""
    before = states.astype(np.int64)
    digit, operator = problems.operands[:, 0, column].astype(np.int64), problems.operands[:, 1, column]
    made = [before + digit, before - digit, before * digit]
    after = np.select([operator == ADD, operator == SUBTRACT, operator == MULTIPLY], made, before)
    result: Digits = (after % 10).astype(np.uint8)
    return result
