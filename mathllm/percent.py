"""Shares as percentages for people, none of which says more than is true."""

from __future__ import annotations


def percent(share: float, least: int = 2) -> str:
    """`99.98%`: of things that were counted, with as many decimals (at `least` that many) as it takes to see that a
    share is not quite all or nothing."""
    for decimals in range(least, 12):
        text = f"{share:.{decimals}%}"
        if share in (0, 1) or float(text[:-1]) not in (0, 100):
            break
    return text


def percent_sure(probability: float) -> str:
    """`>99.99%`: a model's probability in two decimals, never rounded to certainty or impossibility."""
    if probability > 0.9999:
        return ">99.99%"
    return "<0.01%" if probability < 0.0001 else f"{probability:.2%}"


def percent_down(share: float) -> str:
    """`98.5`: rounded down for a narrow column, with at most one decimal and no sign; 100 means all."""
    return f"{int(1000 * share + 1e-6) / 10:g}"
