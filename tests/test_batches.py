"""Rows in batches of like length: every row once, within the limits, and cut where it costs least."""

from itertools import combinations, pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mathllm.data.batches import batches_by_length, shares_by_length

rows = st.lists(st.integers(1, 40), max_size=60).map(lambda lengths: np.array(lengths, np.int64))
few_rows = st.lists(st.integers(1, 40), min_size=1, max_size=9).map(sorted)


def padded(batches: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> int:
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


@given(rows, st.integers(1, 20), st.integers(1, 200), st.integers(0, 100))
def test_batches_hold_every_row_once_within_the_limits_and_the_short_ones_first(
    lengths: NDArray[np.int64], max_rows: int, max_tokens: int, batch_cost: int
) -> None:
    batches = list(batches_by_length(lengths, max_rows, max_tokens, batch_cost))
    every = np.concatenate([*batches, np.zeros(0, np.int64)])
    assert sorted(every) == list(range(len(lengths)))
    assert (np.diff(lengths[every]) >= 0).all()
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(batch) * lengths[batch].max() <= max_tokens or len(batch) == 1


@given(few_rows, st.integers(0, 100))
def test_where_the_limits_leave_room_no_other_cuts_cost_less(lengths: list[int], batch_cost: int) -> None:
    rows = np.array(lengths, np.int64)
    batches = list(batches_by_length(rows, 100, 10_000, batch_cost))
    every_way = (
        sum(
            (end - start) * lengths[end - 1] + batch_cost for start, end in pairwise([0, *cuts, len(lengths)])
        )
        for number in range(len(lengths))
        for cuts in combinations(range(1, len(lengths)), number)
    )
    assert padded(batches, rows) + batch_cost * len(batches) == min(every_way)


@given(rows, st.integers(1, 8))
@example(np.full(100, 7), 4)
def test_shares_have_like_numbers_of_tokens(lengths: NDArray[np.int64], count: int) -> None:
    shares = shares_by_length(lengths, count)
    assert len(shares) == count
    assert sorted(np.concatenate(shares)) == list(range(len(lengths)))
    for share in shares:
        assert abs(lengths[share].sum() - lengths.sum() / count) <= lengths.max(initial=0)
    ordered = [lengths[share] for share in shares if len(share)]
    assert all(short.max() <= long.min() for short, long in pairwise(ordered))
