"""Where training problems come from: an endless stream, or a file. Both are pure functions of (seed, step).

So the whole state of a loader is the step number, resuming is exact, and every process of a distributed run
can make the same batch and take its own rows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from mathllm.config import DataConfig
from mathllm.errors import UsageError
from mathllm.formats import FORMATS, SLOTS, Format, get_format
from mathllm.limits import MAX_HELD, check_cells
from mathllm.tasks import Problems, Sampling, concatenate, get_tasks, sample
from mathllm.tasks.numbers import Ints
from mathllm.tasks.splits import SPLITS, TRAIN, Dealer, SplitRatios, split_of

# what describes a stream; a data directory's metadata says it of the problems there
STREAM_SETTINGS = (
    *("task", "max_digits", "second_digits", "max_operands", "expression_digits", "expression_numbers"),
    *("task_weights", "sampling", "signed"),
    *("train_ratio", "val_ratio"),
)

# kinds of random numbers, so that no two uses of one seed share a stream
_TRAINING, _HELD_OUT, _EPOCH, _COORDINATES = range(4)

# draws before we give up: some kinds have a handful of problems, and none of them to train on
_DRAWS, _MOST_ROWS = 40, 1 << 18


class Source(Protocol):
    """Training problems by step."""

    def problems(self, step: int, n: int) -> Problems:
        """The n problems of a step; the same ones whenever it is asked."""


class ProblemStream:
    """Endless problems of the train split: no two steps repeat each other by accident of seeding."""

    def __init__(self, data: DataConfig, seed: int) -> None:
        self.tasks, self.how, self.ratios = get_tasks(data.task), sampling(data), ratios(data)
        self.seed, self.curriculum_steps = seed, data.curriculum_steps
        self.curriculum_start = min(data.curriculum_start, data.max_digits)

    def problems(self, step: int, n: int) -> Problems:
        rng = np.random.default_rng([self.seed, _TRAINING, step])
        how = self.how
        if step < self.curriculum_steps:
            more = step * (how.max_digits - self.curriculum_start + 1) // self.curriculum_steps
            how = replace(how, max_digits=self.curriculum_start + more)
        parts: list[Problems] = []
        missing = n
        for _ in range(_DRAWS):
            rows = int(missing / self.ratios.train * 1.1) + 16
            drawn = sample(rng, min(rows, _MOST_ROWS, rows_at_once(how)), self.tasks, how)
            drawn = drawn[np.flatnonzero(split_of(drawn, self.ratios) == TRAIN)[:missing]]
            parts.append(drawn)
            missing -= len(drawn)
            if missing == 0:
                return concatenate(parts)
        raise _no_problem(TRAIN)


class ProblemFile:
    """A fixed set of problems, in a new order every epoch; batches run on across epochs, none is short."""

    def __init__(self, problems: Problems, seed: int) -> None:
        if len(problems) == 0:
            raise UsageError("the training file has no problems", "make data: mathllm gen-data")
        self.all, self.seed = problems, seed
        self._orders: dict[int, Ints] = {}

    def __len__(self) -> int:
        return len(self.all)

    def problems(self, step: int, n: int) -> Problems:
        position = np.arange(step * n, (step + 1) * n)
        epochs = position // len(self.all)
        rows = [self._order(int(e))[position[epochs == e] % len(self.all)] for e in np.unique(epochs)]
        return self.all[np.concatenate(rows)]

    def _order(self, epoch: int) -> Ints:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            rng = np.random.default_rng([self.seed, _EPOCH, epoch])
            self._orders[epoch] = rng.permutation(len(self.all))
        return self._orders[epoch]


def draws_of(seed: int, step: int) -> list[int]:
    """The seed of the random numbers that coordinates of a step are drawn with (see model.positions)."""
    return [seed, _COORDINATES, step]


def held_out(data: DataConfig, split: int, n: int, seed: int = 0) -> Problems:
    """Up to n different problems of the val or test split, for a model that is trained on a stream.

    Fewer where the split has no more of them. Raises UsageError where it has none, and for more than fit into memory.
    """
    tasks, how = get_tasks(data.task), sampling(data)
    check_cells("problems to hold out", n, how.most, how.widest)
    dealer = Dealer(ratios(data), [n if which == split else 0 for which in range(len(SPLITS))])
    found: list[Problems] = []
    for chunk in range(_DRAWS):
        rng = np.random.default_rng([seed, _HELD_OUT, split, chunk])
        fresh = [
            part for _, part in dealer.deal(sample(rng, min(4 * n + 1000, rows_at_once(how)), tasks, how))
        ]
        found += fresh
        if not fresh or not dealer.missing[split]:
            break
    if not found:
        raise _no_problem(split)
    return concatenate(found)


def _no_problem(split: int) -> UsageError:
    return UsageError(
        f"the {SPLITS[split]} split has no problem of this kind, or next to none",
        "use more digits, or larger shares: --set data.train_ratio=0.8 --set data.val_ratio=0.1",
    )


def sampling(data: DataConfig) -> Sampling:
    """How a DataConfig draws operands."""
    names = ("second_digits", "expression_digits", "expression_numbers", "task_weights")
    own = {name: getattr(data, name) for name in names}
    return Sampling(data.max_digits, data.max_operands, data.sampling, data.signed, **own)


def format_of(data: DataConfig, suits: Callable[[Format], bool] = lambda format: True) -> Format:
    """The format that a DataConfig names, else the first in the registry that reasons about its tasks, or at least
    writes them, and that `suits`. Raises UsageError for an unknown one."""
    if data.format:
        return get_format(data.format, data.zero_pad, data.thought_length)
    names = [SLOTS.name] if data.thought_length else FORMATS
    known = [get_format(name, data.zero_pad, data.thought_length) for name in names]
    writing = [one for one in known if all(map(one.knows_task, get_tasks(data.task)))]
    writing.sort(key=lambda one: not one.thinks)
    # where none suits, whoever checks the first one says why
    return next(filter(suits, writing), (writing or known)[0])


def rows_at_once(how: Sampling) -> int:
    """Problems that may be drawn at a time."""
    return max(1, MAX_HELD // (how.most * how.widest))


def ratios(data: DataConfig) -> SplitRatios:
    """How a DataConfig divides problems into splits."""
    return SplitRatios(data.train_ratio, data.val_ratio)


def longest_text(data: DataConfig) -> int:
    """Tokens of the longest text that a DataConfig can produce."""
    return format_of(data).longest(get_tasks(data.task), sampling(data))
