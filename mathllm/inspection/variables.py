"""The numbers of the school algorithm at each token: which two digits it is about, what is carried in, what is written
and carried out. What probes look for, and interchange puts elsewhere.

Known are sums and differences of two numbers, chains, and the rows of partial products; of all else nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mathllm.formats import Format, Rendered
from mathllm.formats.roles import kind_of, row_of
from mathllm.tasks import Problems, by_task
from mathllm.tasks.chain import running_states
from mathllm.tasks.numbers import Bools, Digits, Ints, column_differences, column_products, column_sums, widen
from mathllm.tasks.subtraction import by_size

# what is put in, and what comes out of it
INPUTS = ("operator", "first digit", "second digit", "carry in")
OUTPUTS = ("digit", "carry out")
# the digits that a carry comes from
BELOW = ("first digit below", "second digit below")
NONE = -1


@dataclass(frozen=True)
class Variables:
    """Values [N, T] by name, NONE where a token is about none; behind tokens that are `known` [N, T] all are there
    that its task has."""

    values: dict[str, Ints]
    known: Bools

    def varied(self, here: Bools) -> list[str]:
        """Those that these tokens have, and that are not always the same."""
        found = []
        for name, value in self.values.items():
            some = value[here]
            if len(some) and (some != NONE).all() and (some != some[0]).any():
                found.append(name)
        return found


def variables_of(
    notation: Format, gold: Rendered, names: tuple[str, ...], role: Ints, places: Ints, counted: Bools
) -> Variables:
    """The variables of the tokens that come next, behind each token but the last [N, T]; empty where none are
    known."""
    shape = gold.ids.shape[0], gold.ids.shape[1] - 1
    values = {name: np.full(shape, NONE) for name in (*INPUTS, *OUTPUTS, *BELOW)}
    known = np.zeros(shape, np.bool_)
    for task, rows in by_task(gold.problems):
        if task.name not in COLUMNS or (not task.one_digit and (gold.problems.num_operands[rows] > 2).any()):
            continue
        wanted, columns = COLUMNS[task.name]
        kinds = np.array([_about(kind_of(name)[0], wanted) for name in names] + [False])
        rows = np.arange(len(gold))[rows]
        row = np.array([row_of(name) for name in names] + [0])[role[rows, 1:]]
        place = places[rows, 1:]
        about = counted[rows] & (place > 0) & kinds[role[rows, 1:]]
        found = columns(gold.problems[rows], np.where(about, place, 1), np.maximum(row, 1))
        for name, value in found.items():
            values[name][rows] = np.where(about, value, NONE)
            known[rows] = about
    return Variables({name: value for name, value in values.items() if (value != NONE).any()}, known)


def _about(kind: str, wanted: tuple[str, ...]) -> bool:
    # a row that takes the larger number from the smaller one is about other columns
    return kind in wanted if wanted else not kind.startswith("subtraction")


Columns = dict[str, Ints]
Some = Ints | Digits


def _sums(problems: Problems, place: Ints, row: Ints) -> Columns:
    totals, carries = column_sums(widen_all(problems, int(place.max())))
    return _columns(problems.operands[:, 0], problems.operands[:, 1], totals, carries, place)


def _differences(problems: Problems, place: Ints, row: Ints) -> Columns:
    larger, smaller, _ = by_size(problems)
    width = int(place.max())
    differences, borrows = column_differences(widen(larger, width), widen(smaller, width))
    return _columns(larger, smaller, differences, borrows, place)


def _chains(problems: Problems, place: Ints, row: Ints) -> Columns:
    states = running_states(problems)
    if states.shape[1] < 2:
        return {}
    step = np.minimum(place, states.shape[1] - 1)
    return {
        "operator": np.take_along_axis(problems.operators, step - 1, 1).astype(np.int64),
        "first digit": np.take_along_axis(states, step - 1, 1).astype(np.int64),
        "second digit": np.take_along_axis(problems.operands[..., 0], step, 1).astype(np.int64),
        "digit": np.take_along_axis(states, step, 1).astype(np.int64),
    }


def _products(problems: Problems, place: Ints, row: Ints) -> Columns:
    """Of a row: the first number times one digit of the second."""
    first, width = problems.operands[:, 0], max(int(place.max()), problems.operands.shape[2])
    found = {
        name: np.zeros(place.shape, np.int64)
        for name in ("first digit", "second digit", "carry in", *OUTPUTS)
    }
    for number in range(1, int(row.max()) + 1):
        factor = problems.operands[:, 1, min(number, problems.operands.shape[2]) - 1]
        totals, carries = column_products(widen(first, width), factor)
        columns = _columns(first, np.repeat(factor[:, None], width, 1), totals, carries, place)
        for name in found:
            found[name] = np.where(row == number, columns[name], found[name])
    return found


def _columns(first: Some, second: Some, totals: Ints, carries: Ints, place: Ints) -> Columns:
    """What stands at places [N, T] of numbers [N, D], where totals [N, E] and carries [N, E + 1] come of them."""

    def at(digits: Some, places: Ints) -> Ints:
        here = np.take_along_axis(digits, np.clip(places, 0, digits.shape[1] - 1), 1).astype(np.int64)
        found: Ints = np.where((places >= 0) & (places < digits.shape[1]), here, 0)
        return found

    return {
        "first digit": at(first, place - 1),
        "second digit": at(second, place - 1),
        "carry in": at(carries, place - 1),
        "digit": at(totals, place - 1) % 10,
        "carry out": at(carries, place),
        BELOW[0]: at(first, place - 2),
        BELOW[1]: at(second, place - 2),
    }


def widen_all(problems: Problems, width: int) -> Digits:
    """The operands of two-number problems, with room for that many digits."""
    digits: Digits = np.stack(
        [widen(problems.operands[:, k], width) for k in range(problems.operands.shape[1])], 1
    )
    return digits


# the kinds of tokens that are about a column (all with a place, where none are named), and what stands there
COLUMNS = {
    "addition": ((), _sums),
    "subtraction": ((), _differences),
    "chain": (("thought",), _chains),
    "multiplication": (("partial product",), _products),
}
