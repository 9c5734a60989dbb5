"""All problems there are, where they are few enough: every pair of operands up to a limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mathllm.errors import UsageError
from mathllm.formats import Format
from mathllm.tasks import TASKS, Problems, concatenate, make_problems
from mathllm.tasks.numbers import Digits, Ints

MOST = 10**10  # as many as a machine could judge in days: more is a slip of the hand


class AllPairs:
    """Every problem of two operands from 0 to `limit`, once: a sequence that makes the slices one asks for.

    Of a task that subtracts, and unless results are `signed`, only those whose first operand is not the
    smaller; of one that multiplies by one digit, only those. Raises UsageError where there would be more than MOST.
    """

    def __init__(self, codes: Sequence[int], limit: int, signed: bool = False) -> None:
        self.codes, self.limit, self.signed = tuple(codes), limit, signed
        self.ordered = tuple(TASKS[code].name == "subtraction" and not signed for code in codes)
        base = limit + 1
        digits = [TASKS[code].factor_digits for code in codes]
        self.bases = [min(base, 10**most) if most else base for most in digits]  # numbers of second operands
        sizes = [
            base * (base + 1) // 2 if ordered else base * second
            for ordered, second in zip(self.ordered, self.bases, strict=True)
        ]
        self.ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        if limit < 0 or self.ends[-1] > MOST:
            raise UsageError(
                f"cannot try all pairs of operands from 0 to {limit:,}", "for example --exhaustive 999"
            )

    def __len__(self) -> int:
        return self.ends[-1]

    def longest_text(self, notation: Format) -> int:
        """Tokens that hold any of these problems with its answer."""
        return notation.longest(self.codes, len(str(self.limit)), 2, self.signed)

    def __getitem__(self, rows: slice) -> Problems:
        start, stop, step = rows.indices(len(self))
        assert step == 1, "only slices without a step"
        parts, offset = [], 0
        for code, ordered, second, end in zip(self.codes, self.ordered, self.bases, self.ends, strict=True):
            index = np.arange(max(start, offset), min(stop, end), dtype=np.int64) - offset
            pairs = _triangle(index) if ordered else np.divmod(index, second)
            parts.append(make_problems(_digits(np.stack(pairs, 1), len(str(self.limit))), code))
            offset = end
        return concatenate(parts)


def _triangle(index: Ints) -> tuple[Ints, Ints]:
    """The pair a >= b >= 0 at each index [N] of 0-0, 1-0, 1-1, 2-0, ..."""
    # a (a + 1) / 2 pairs come before the first one of a; up to MOST pairs float64 leaves no doubt about a
    a = ((np.sqrt(8.0 * index + 1) - 1) / 2).astype(np.int64)
    return a, index - a * (a + 1) // 2


def _digits(values: Ints, width: int) -> Digits:
    """Digits [..., width] of values [...], least significant first."""
    digits: Digits = (values[..., None] // 10 ** np.arange(width) % 10).astype(np.uint8)
    return digits
