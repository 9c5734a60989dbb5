"""What is asked: one file per operation, and the registry that names them.

To add a task, write a class like the ones beside this file and put it into TASKS (at the end: a task's
position is its code in `Problems.task`). Formats that write a thought also need to know how: see
`mathllm.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError, unknown_choice
from mathllm.tasks.addition import Addition
from mathllm.tasks.base import Problems, Task, concatenate, make_problems
from mathllm.tasks.chain import Chain
from mathllm.tasks.multiplication import Multiplication
from mathllm.tasks.numbers import Ints, Numbers, widen
from mathllm.tasks.sampling import SAMPLINGS, Sampling
from mathllm.tasks.subtraction import Subtraction

TASKS: tuple[Task, ...] = (Addition(), Subtraction(), Multiplication(), Chain())
TASK_NAMES = tuple(task.name for task in TASKS)
CHAIN = TASK_NAMES.index("chain")

__all__ = [
    "CHAIN",
    "SAMPLINGS",
    "TASKS",
    "TASK_NAMES",
    "Numbers",
    "Problems",
    "Sampling",
    "Task",
    "answer",
    "answer_widths",
    "chain_lengths",
    "concatenate",
    "extent",
    "get_tasks",
    "make_problems",
    "sample",
]


def get_tasks(names: str | Sequence[str]) -> tuple[int, ...]:
    """Codes of tasks named like `addition,subtraction`. Raises UsageError for an unknown one."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    for name in names:
        if name not in TASK_NAMES:
            raise unknown_choice("task", name, TASK_NAMES)
    codes = tuple(TASK_NAMES.index(name) for name in names)
    if not codes or len(set(codes)) < len(codes):
        raise UsageError(f"name each task once, not {','.join(names)!r}")
    if CHAIN in codes and len(codes) > 1:
        raise UsageError("3+4 is a sum or a chain: the task chain goes with no other one")
    return codes


def extent(names: str, max_digits: int) -> str:
    """How large the problems of tasks are, for people: `of numbers of up to 3 digits`."""
    plural = "s" * (max_digits != 1)
    if get_tasks(names) == (CHAIN,):
        return f"of up to {max_digits:,} number{plural}"
    return f"of numbers of up to {max_digits:,} digit{plural}"


def sample(rng: np.random.Generator, n: int, codes: Sequence[int], how: Sampling) -> Problems:
    """n problems; tasks, methods of sampling and numbers of operands (2 and up) each with equal probability."""
    code, method = rng.integers(0, len(codes), n), rng.integers(0, len(how.methods), n)
    parts, order = [], []
    for i, j in np.ndindex(len(codes), len(how.methods)):
        rows = np.flatnonzero((code == i) & (method == j))
        task = TASKS[codes[i]]
        counts = rng.integers(2, min(how.max_operands, task.max_operands) + 1, len(rows))
        operands = task.sample(rng, counts, how.methods[j], how)
        parts.append(make_problems(operands, codes[i], counts))
        order.append(rows)
    return concatenate(parts)[np.argsort(np.concatenate(order))]


def answer(problems: Problems) -> Numbers:
    """The exact result of every problem, whatever its task."""
    codes = np.unique(problems.task)
    if len(codes) == 1:
        return TASKS[int(codes[0])].answer(problems)
    parts = {int(code): TASKS[code].answer(problems[problems.task == code]) for code in codes}
    width = max((part.digits.shape[1] for part in parts.values()), default=1)
    digits = np.zeros((len(problems), width), np.uint8)
    lengths = np.ones(len(problems), np.int64)
    negative = np.zeros(len(problems), np.bool_)
    for code, part in parts.items():
        rows = problems.task == code
        digits[rows], lengths[rows], negative[rows] = widen(part.digits, width), part.lengths, part.negative
    return Numbers(digits, lengths, negative)


def answer_widths(problems: Problems) -> Ints:
    """Digits [N] that zero-padding pads each answer to."""
    return _by_task(problems, lambda task, part: task.answer_widths(part))


def chain_lengths(problems: Problems) -> Ints:
    """The longest chain [N] of carries or borrows in each problem."""
    return _by_task(problems, lambda task, part: task.chain_lengths(part))


def _by_task(problems: Problems, measure: Callable[[Task, Problems], Ints]) -> Ints:
    result: NDArray[np.int64] = np.zeros(len(problems), np.int64)
    for code in np.unique(problems.task):
        rows = problems.task == code
        result[rows] = measure(TASKS[code], problems[rows])
    return result
