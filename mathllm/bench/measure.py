"""What a benchmark says: medians of repeated runs, with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Options:
    """What to measure on. `repeats` is how often each piece of work is timed, after one run that is not."""

    device: str = "auto"
    sizes: tuple[str, ...] = ("nano", "small", "medium", "large")
    recipes: tuple[str, ...] = ("demo",)
    repeats: int = 5


@dataclass(frozen=True)
class Measurement:
    """The median of repeated runs, the lowest and the highest of them, and what else is to be said."""

    what: str
    value: float
    unit: str
    low: float
    high: float
    repeats: int
    more: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class SectionResult:
    """The measurements of one section and the most memory that it took, in bytes: of the process, or of the GPU."""

    section: str
    measurements: list[Measurement]
    peak_bytes: int
    seconds: float


def seconds_of(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Wall-clock seconds of each run of some work, after one run that is not timed."""
    times = []
    for run in range(repeats + 1):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        if run:
            times.append(time.perf_counter() - started)
    return times


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(what: str, amount: float, unit: str, times: Sequence[float], **more: float | str) -> Measurement:
    """So much work in each of these times, as a rate a second."""
    rates = [amount / seconds for seconds in times]
    return Measurement(what, statistics.median(rates), unit, min(rates), max(rates), len(times), dict(more))
