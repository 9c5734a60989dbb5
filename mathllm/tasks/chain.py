"""Chains: `3+4*7-2*3`, worked off from left to right modulo 10, with products by 1, 3, 7 and 9 alone.

Such a factor has no divisor in common with 10, so that every step can be undone: whoever leaves out the start, or a
sum on the way, knows nothing of the result. A chain of one number is that number. Its size is how many numbers it
has: one more than its steps."""

from __future__ import annotations

import numpy as np

from mathllm.errors import UsageError, check_choice
from mathllm.limits import MAX_DIGITS
from mathllm.tasks.base import Problems, Task, plural
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, significant
from mathllm.tasks.sampling import Sampling
from mathllm.tokenizer import ADD, MULTIPLY, SUBTRACT

FACTORS = np.array([1, 3, 7, 9], np.uint8)
BLOCK = 64  # rows drawn with the same numbers of steps and of products: their texts are of one length


class Chain(Task):
    name, code = "chain", 3
    operator = ADD
    example = "3+4*7-2"
    rule = "a chain has numbers of one digit, and products by 1, 3, 7 and 9 alone"
    meaning = "from left to right modulo 10"
    least_numbers, most_numbers, most_digits = 1, MAX_DIGITS, 1
    samplings = ("digits", "uniform")
    one_digit = True
    unit, stress = "number", "no idle steps"

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        """Chains of 1 to max_digits numbers, each as often (`uniform`: as often as there are such chains, which is
        almost always the most); rows come in blocks of one length."""
        check_choice("sampling", method, self.samplings)
        n = len(counts)
        numbers = rng.integers(
            how.max_digits if method == "uniform" else 1, how.max_digits + 1, -(-n // BLOCK)
        )
        products = rng.binomial(numbers - 1, 1 / 3)
        return self.draw(rng, np.repeat(numbers, BLOCK)[:n], np.repeat(products, BLOCK)[:n], how.max_digits)

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        """Chains of `max_digits` numbers; with `stress`, of steps that change something."""
        digits = size.max_digits
        numbers = np.full(n, digits)
        return self.draw(rng, numbers, rng.binomial(numbers - 1, 1 / 3), digits, idle=not stress)

    def extreme(self, size: Sampling) -> Problems:
        operators = np.full((1, size.max_digits - 1), MULTIPLY, np.uint8)
        return self.problems(np.full((1, size.max_digits, 1), 9, np.uint8), operators=operators)

    def draw(
        self, rng: np.random.Generator, numbers: Ints, products: Ints, width: int, idle: bool = True
    ) -> Problems:
        """Chains of `numbers` [n] numbers, at most `width`, with `products` [n] of their steps products.

        Without `idle` no step adds 0 or multiplies by 1.
        """
        shape = len(numbers), width
        step = (np.arange(width) > 0) & (np.arange(width) < numbers[:, None])
        rank = np.where(step, rng.random(shape), 2).argsort(1).argsort(1)
        times = step & (rank < products[:, None])
        operators = (np.where(times, MULTIPLY, rng.integers(ADD, MULTIPLY, shape)) * step).astype(np.uint8)
        factors = FACTORS[rng.integers(0 if idle else 1, 4, shape)]
        digits = np.where(times, factors, rng.integers(step & (not idle), 10, shape)).astype(np.uint8)
        return self.problems(digits[..., None], numbers, operators[:, 1:])

    def answer(self, problems: Problems) -> Numbers:
        return significant(running_states(problems)[:, -1:])

    def answer_widths(self, problems: Problems) -> Ints:
        return np.ones(len(problems), np.int64)

    def bounds(self, problems: Problems) -> tuple[Numbers, ...]:
        return tuple(significant(np.full((len(problems), 1), digit, np.uint8)) for digit in (0, 9))

    def sizes(self, problems: Problems) -> Ints:
        return problems.num_operands

    def check_pairs(self) -> None:
        raise UsageError("a chain has no two operands", "mathllm eval --digits 5,9 counts its numbers")

    def identity(self, problems: Problems) -> tuple[Digits, Bools]:
        """Its digits and its operators, each as one number."""
        operators = np.pad(problems.operators, ((0, 0), (1, 0)))
        numbers = np.stack([problems.operands[..., 0], operators], axis=1)
        return numbers, np.ones(numbers.shape[:2], np.bool_)

    def misfits(self, problems: Problems) -> Bools:
        wrong = np.zeros((len(problems), 2 * problems.operands.shape[1] - 1), np.bool_)
        wrong[:, ::2] = (problems.lengths > 1) | problems.negative
        wrong[:, 1::2] = problems.operators > MULTIPLY
        factor = problems.operators == MULTIPLY
        wrong[:, 2::2] |= factor & ~np.isin(problems.operands[:, 1:, 0], FACTORS)
        return wrong

    def extent(self, max_digits: int) -> str:
        return f"of up to {plural(max_digits, self.unit)}"

    def unseen(self, problems: Problems, size: Sampling) -> list[tuple[str, Bools]]:
        most = size.max_digits
        return [(f"a chain of more than {plural(most, 'number')}", problems.num_operands > most)]


def running_states(problems: Problems) -> Digits:
    """The result after each number [N, K], the first included; behind a chain's end the last one again."""
    states = problems.operands[..., 0].copy()
    for step in range(1, states.shape[1]):
        states[:, step] = _step(problems, step, states[:, step - 1])
    return states


def apply_steps(problems: Problems, states: Digits, done: int) -> Digits:
    """The results [N] of chains whose first `done` steps have led to the states [N]."""
    for step in range(done + 1, problems.operands.shape[1]):
        states = _step(problems, step, states)
    return states


def _step(problems: Problems, step: int, states: Digits) -> Digits:
    """States [N] after a step."""
    before = states.astype(np.int64)
    digit, operator = problems.operands[:, step, 0].astype(np.int64), problems.operators[:, step - 1]
    made = [before + digit, before - digit, before * digit]
    after = np.select([operator == ADD, operator == SUBTRACT, operator == MULTIPLY], made, before)
    result: Digits = (after % 10).astype(np.uint8)
    return result
