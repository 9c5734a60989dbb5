"""Quotients and remainders: exact at any length, drawn near the multiples of the divisor, and never by zero."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import operands

from mathllm.tasks.numbers import divide


def digits_of(values: list[int], width: int) -> np.ndarray:
    return np.array([[int(c) for c in reversed(str(value).zfill(width))] for value in values], np.uint8)


def values_of(digits: np.ndarray) -> list[int]:
    return [int("".join(map(str, row[::-1]))) for row in digits.tolist()]


@given(st.lists(st.tuples(operands(20), operands(12), st.integers(-1, 1), st.booleans()), min_size=1))
def test_division_is_that_of_python(asked: list[tuple[int, int, int, bool]]) -> None:
    pairs = [
        (1, 1),
        *((abs(a // 10**8 * b + near) if multiple else a, b) for a, b, near, multiple in asked if b),
    ]
    left, right = (digits_of([pair[k] for pair in pairs], 25 - k) for k in (0, 1))
    quotient, remainder = divide(left, right)
    assert quotient.shape == left.shape
    assert remainder.shape == right.shape
    assert values_of(quotient) == [a // b for a, b in pairs]
    assert values_of(remainder) == [a % b for a, b in pairs]
