"""Percentages for people: none says more than is true."""

import pytest

from mathllm.percent import percent, percent_down, percent_sure


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100.00%"),
        (0.0, "0.00%"),
        (0.9998, "99.98%"),
        (0.999999, "99.9999%"),
        (0.00001, "0.001%"),
        (0.5, "50.00%"),
    ],
)
def test_a_share_is_all_only_if_it_is(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, ">99.99%"),
        (0.99995, ">99.99%"),
        (0.9999, "99.99%"),
        (0.5, "50.00%"),
        (0.0001, "0.01%"),
        (0.00001, "<0.01%"),
        (0.0, "<0.01%"),
    ],
)
def test_a_probability_is_never_certain(probability: float, text: str) -> None:
    assert percent_sure(probability) == text


def test_19_999_of_20_000_are_not_all() -> None:
    assert percent(19_999 / 20_000) == "99.995%"
    assert percent(999_999 / 1_000_000) == "99.9999%"
    assert percent(0.5, least=4) == "50.0000%"
    assert percent_down(0.9999) == "99.9"
    assert percent_down(1.0) == "100"
