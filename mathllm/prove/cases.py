"""Problems that hold every local configuration there is, for tasks where these are few: docs/proof.md says why they
suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from mathllm.errors import UsageError
from mathllm.formats import Format
from mathllm.tasks import TASKS, Problems, Task
from mathllm.tasks.numbers import Digits
from mathllm.tokenizer import MULTIPLY

ABSENT = 10  # at a place that a number does not reach
MOST_WIDTH = 2  # of 3 places there are 25 million configurations
# what two numbers may have at two places, the lower one first, so that the digit written for the upper one is any, and
# so is the carry from there
BELOW = [
    *(((0, digit), (0, 0)) for digit in range(10)),
    *(((0, 9), (0, digit + 1)) for digit in range(9)),
    ((9, 9), (1, 9)),
]


# of what tasks all configurations are known
ABOUT = {"addition": "sums of two numbers", "chain": "chains"}


def windows(width: int) -> Digits:
    """All that a number may have at `width` neighbouring places, the lower ones first: [M, width], ABSENT above its
    highest digit, and no 0 there."""
    grid = np.indices((ABSENT + 1,) * width).reshape(width, -1).T
    absent = grid == ABSENT
    ordered = (absent[:, 1:] | ~absent[:, :-1]).all(1)
    highest = ~absent[:, :-1] & absent[:, 1:]
    found: Digits = grid[ordered & ~(highest & (grid[:, :-1] == 0)).any(1)].astype(np.uint8)
    return found


def sums(task: Task, width: int) -> Iterator[Problems]:
    """Sums that hold, somewhere, every combination of what two numbers have at `width` neighbouring places with the
    digit written below and the carry from there; and, at the units, of what they have there."""
    shown = windows(width)
    lowest = np.append(shown[shown[:, 0] < ABSENT], [[0, *[ABSENT] * (width - 1)]], axis=0).astype(np.uint8)
    yield from _pairs(task, _numbers((), lowest), _numbers((), lowest))
    for left, right in BELOW:
        yield from _pairs(task, _numbers(left, shown), _numbers(right, shown))


def _numbers(below: tuple[int, ...], shown: Digits) -> Digits:
    """Numbers [M, D] with some digits below what is shown of them, and with a 1 above a 0 that would lead."""
    above = np.where(shown[:, -1:] == 0, 1, 0)
    lower = np.broadcast_to(np.array(below, np.uint8), (len(shown), len(below)))
    return np.concatenate([lower, np.where(shown == ABSENT, 0, shown), above], axis=1).astype(np.uint8)


def _pairs(task: Task, left: Digits, right: Digits) -> Iterator[Problems]:
    """Every left number [M, D] with every right one."""
    for one in left:
        yield task.problems(np.stack([np.broadcast_to(one, right.shape), right], axis=1))


def chains(task: Task, steps: int) -> Iterator[Problems]:
    """All chains of at most `steps` steps."""
    for count in range(steps + 1):
        numbers = np.indices((10,) * (count + 1)).reshape(count + 1, -1).T.astype(np.uint8)
        for signs in product(range(1, MULTIPLY + 1), repeat=count):
            operators = np.tile(np.array(signs, np.uint8), (len(numbers), 1))
            if count == 0:  # problems have room for two numbers
                numbers, operators = np.pad(numbers, ((0, 0), (0, 1))), np.zeros((len(numbers), 1), np.uint8)
            counts = np.full(len(numbers), count + 1)
            problems = task.problems(numbers[..., None], counts, operators)
            yield problems[np.flatnonzero(~task.misfits(problems).any(1))]


def others(problems: Problems, rng: np.random.Generator) -> Problems:
    """Other problems that hold what these hold: of sums the same with a digit below all others that carries nothing. Of
    chains, which are tried whole, the same ones."""
    task = TASKS[int(problems.task[0])]
    if task.one_digit:
        return problems
    left = rng.integers(0, 10, len(problems))
    lowest = np.stack([left, rng.integers(0, 10 - left)], axis=1)[..., None].astype(np.uint8)
    return task.problems(np.concatenate([lowest, problems.operands], axis=2))


def cases_of(tasks: Sequence[Task], notation: Format, width: int) -> Iterator[Problems]:
    """Problems that hold every local configuration of `width` places. Raises UsageError where it is not known which
    would."""
    names = [task.name for task in tasks]
    if names == ["addition"] and notation.name == "reversed" and width <= MOST_WIDTH:
        return sums(tasks[0], width)
    if names == ["chain"] and notation.counted and width == 1:
        return chains(tasks[0], 2)
    raise UsageError(
        f"for {','.join(names)} in format {notation.name!r} with {width} places in sight it is not known which "
        "problems hold every local configuration",
        "they are for sums in format reversed with two places in sight, and for chains with one step: "
        "docs/proof.md. --hunt looks for mistakes of any model",
    )
