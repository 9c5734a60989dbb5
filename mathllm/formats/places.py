"""Places: which digit place (units 1, tens 2, ...) each token of a text is about; 0 where it is about none.

What decides whether a model learns the algorithm is whether it can see which digits line up. Everything here
reads whole arrays [N, T] from left to right with running counts, so that places do not change when a token is
appended.
"""

from __future__ import annotations

import numpy as np

from mathllm.tasks.numbers import Bools, Ints
from mathllm.tokenizer import END, Ids


def number_places(ids: Ids, where: Bools, least_significant_first: bool) -> Ints:
    """Places [N, T] of the digits of every number inside `where`, counted from the number's units."""
    digit = (ids < 10) & where
    if least_significant_first:
        return run_positions(digit)
    return run_positions(digit[:, ::-1])[:, ::-1]


def answer_places(ids: Ids, answering: Bools, announced: Ints, least_significant_first: bool) -> Ints:
    """Places [N, T] inside the answer, whose region [N, T] begins with the token before its first digit.

    A token has the place of the digit that follows it: counting up from the units, or down from as many
    digits as were `announced` [N].
    """
    written = np.cumsum((ids < 10) & answering, 1)
    places = written + 1 if least_significant_first else np.maximum(announced[:, None] - written, 0)
    ended = np.cumsum((ids == END) & answering, 1) > 0
    return np.where(answering & ~ended, places, 0)


def run_positions(flags: Bools) -> Ints:
    """1, 2, 3 ... inside every run of true values in the rows of [N, T], 0 outside."""
    column = np.arange(1, flags.shape[1] + 1)
    last_gap = np.maximum.accumulate(np.where(flags, 0, column), 1)
    positions: Ints = column - last_gap
    return positions


def count_since(flags: Bools, marks: Bools) -> Ints:
    """How many flags stand after the latest mark, this token's own included [N, T]."""
    count = np.cumsum(flags, 1)
    at_mark = np.maximum.accumulate(np.where(marks, count, 0), 1)
    since: Ints = count - at_mark
    return since


def last_where(flags: Bools, before: Ints) -> Ints:
    """Column [N] of the last true value before column `before` [N], -1 if there is none."""
    column = np.arange(flags.shape[1])
    last: Ints = np.where(flags & (column < before[:, None]), column, -1).max(1, initial=-1)
    return last
