"""What is asked: one file per operation.

To add a task, write a class like the ones beside this file and name it in `mathllm.registry`. Formats that write a
thought also need to know how: see `mathllm.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mathllm import registry
from mathllm.errors import UsageError, unknown_choice
from mathllm.tasks.base import Problems, Task, at_once, concatenate, plural, trimmed
from mathllm.tasks.numbers import Bools, Ints, Numbers, widen
from mathllm.tasks.sampling import SAMPLINGS, Sampling

TASKS: tuple[Task, ...] = tuple(kind() for kind in registry.everything(registry.TASKS))
TASK_NAMES = tuple(registry.TASKS)
assert [(task.code, task.name) for task in TASKS] == list(enumerate(TASK_NAMES))

__all__ = [
    "SAMPLINGS",
    "TASKS",
    "TASK_NAMES",
    "Numbers",
    "Problems",
    "Sampling",
    "Task",
    "answer",
    "answer_widths",
    "at_once",
    "by_task",
    "canonical",
    "carry_lengths",
    "cascades",
    "concatenate",
    "extent",
    "get_tasks",
    "operands_asked",
    "owned",
    "readable_beside",
    "sample",
    "sizes",
    "trimmed",
]


def get_tasks(names: str | Sequence[str]) -> tuple[Task, ...]:
    """The tasks named like `addition,subtraction`. Raises UsageError for an unknown one, and for tasks that do not go
    together."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    for name in names:
        if name not in TASK_NAMES:
            raise unknown_choice("task", name, TASK_NAMES)
    tasks = tuple(TASKS[TASK_NAMES.index(name)] for name in names)
    if not tasks or len(set(names)) < len(tasks):
        raise UsageError(f"name each task once, not {','.join(names)!r}")
    for task in tasks[1:]:
        if task.meaning != tasks[0].meaning:
            raise UsageError(
                f"{tasks[0].name} is worked out {tasks[0].meaning} and {task.name} {task.meaning}: "
                "one text would have two answers",
                "train two models",
            )
    return tasks


def readable_beside(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """These tasks and all others whose texts mean the same beside them: what a reader of expressions looks for."""
    asked = tuple(tasks)
    others = (task for task in TASKS if task not in asked and task.meaning == asked[0].meaning)
    return (*asked, *others)


def owned(problems: Problems, tasks: Sequence[Task]) -> Problems:
    """The same problems, each as one of the first of these tasks that takes it, as if it had been typed."""
    if not any(task.general for task in tasks):
        return problems
    numbers, code = problems.num_operands, problems.task.copy()
    ours = np.isin(code, [task.code for task in tasks])
    for task in reversed(tasks):
        fits = (numbers >= task.least_numbers) & (numbers <= task.most_numbers)
        code[ours & fits & ~task.misfits(problems).any(1)] = task.code
    return replace(problems, task=code)


def canonical(problems: Problems) -> Problems:
    """The same problems, none of a general task that another one takes: 12+34 is one problem, as a sum and as a whole
    expression."""
    general = [task for task, _ in by_task(problems) if task.general]
    for one in general:
        problems = owned(problems, (*readable_beside([one])[1:], one))
    return problems


def extent(names: str, size: Sampling) -> str:
    """How large the problems of tasks are, for people: `of numbers of up to 3 digits`."""
    tasks = get_tasks(names)
    seconds = dict.fromkeys(task.second for task in tasks if task.second and size.second < size.max_digits)
    narrower = [f", {second}s of up to {plural(size.second, 'digit')}" for second in seconds]
    whole = size.of_expressions
    if len(tasks) > 1 and any(task.general for task in tasks) and whole != size:
        digits = plural(whole.max_digits, "digit")
        narrower.append(
            f", whole expressions of up to {plural(whole.max_operands, 'number')} of up to {digits}"
        )
    return tasks[0].extent((whole if tasks[0].general else size).max_digits) + "".join(narrower)


def sample(rng: np.random.Generator, n: int, tasks: Sequence[Task], how: Sampling) -> Problems:
    """n problems; methods of sampling and numbers of operands (2 and up) each with equal probability, and tasks, unless
    they have weights."""
    shares = np.cumsum([how.weights.get(task.name, 1) for task in tasks])
    which = np.searchsorted(shares, rng.integers(0, shares[-1], n), side="right")
    method = rng.integers(0, len(how.methods), n)
    parts, order = [], []
    for i, j in np.ndindex(len(tasks), len(how.methods)):
        rows = np.flatnonzero((which == i) & (method == j))
        counts = rng.integers(2, tasks[i].most_operands(how) + 1, len(rows))
        parts.append(tasks[i].sample(rng, counts, how.methods[j], how))
        order.append(rows)
    return owned(concatenate(parts)[np.argsort(np.concatenate(order))], tasks)


def by_task(problems: Problems) -> list[tuple[Task, NDArray[np.int64] | slice]]:
    """The tasks of problems, each with its rows."""
    if len(problems) and (problems.task == problems.task[0]).all():
        return [(TASKS[problems.task[0]], slice(None))]
    return [(TASKS[code], np.flatnonzero(problems.task == code)) for code in np.unique(problems.task)]


def answer(problems: Problems) -> Numbers:
    """The exact result of every problem, whatever its task."""
    slices = at_once(problems)
    if len(slices) > 1:
        return _joined(len(problems), [(rows, answer(problems[rows])) for rows in slices])
    parts = [(rows, task.answer(problems[rows])) for task, rows in by_task(problems)]
    return parts[0][1] if len(parts) == 1 else _joined(len(problems), parts)


def _joined(n: int, parts: Sequence[tuple[NDArray[np.int64] | slice, Numbers]]) -> Numbers:
    """The numbers of n rows, of which each part has some."""
    width = max((part.digits.shape[1] for _, part in parts), default=1)
    digits = np.zeros((n, width), np.uint8)
    lengths, negative = np.ones(n, np.int64), np.zeros(n, np.bool_)
    for rows, part in parts:
        digits[rows], lengths[rows], negative[rows] = widen(part.digits, width), part.lengths, part.negative
    return Numbers(digits, lengths, negative)


def answer_widths(problems: Problems) -> Ints:
    """Digits [N] that zero-padding pads each answer to."""
    return _measured(problems, lambda task, part: task.answer_widths(part))


def carry_lengths(problems: Problems) -> Ints:
    """The longest run [N] of carries or borrows in each problem."""
    return _measured(problems, lambda task, part: task.carry_lengths(part))


def cascades(problems: Problems) -> Bools:
    """In which problems [N] a carry or borrow is passed on through a place that makes none itself."""
    return _measured(problems, lambda task, part: task.cascades(part).astype(np.int64)) > 0


def sizes(problems: Problems) -> Ints:
    """What `--max-digits` bounds in each problem [N]."""
    return _measured(problems, lambda task, part: task.sizes(part))


def operands_asked(problems: Problems) -> Ints:
    """What `--max-operands` bounds in each problem [N]."""
    return _measured(problems, lambda task, part: np.minimum(part.num_operands, task.max_operands))


def _measured(problems: Problems, measure: Callable[[Task, Problems], Ints]) -> Ints:
    result: NDArray[np.int64] = np.zeros(len(problems), np.int64)
    for task, rows in by_task(problems):
        result[rows] = measure(task, problems[rows])
    return result
