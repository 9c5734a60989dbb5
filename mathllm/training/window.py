"""What the steps since the last report gave."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from torch import Tensor


class Window:
    """By name, and the tokens and time that the steps took; `seconds` is the time of the whole run."""

    def __init__(self, seconds_before: float) -> None:
        self.run_started = time.perf_counter() - seconds_before
        self.restart()

    def restart(self) -> None:
        self.totals: dict[str, Tensor | float] = {}
        self.steps = Counter[str]()  # that gave each: one that learns nothing has no loss
        self.tokens, self.started = 0, time.perf_counter()

    def add(self, report: Mapping[str, Tensor | float], tokens: int) -> None:
        self.tokens += tokens
        self.steps.update(report.keys())
        for name, value in report.items():
            # added up where it is: reading it would make a GPU wait at every step
            self.totals[name] = value + self.totals.get(name, 0.0)

    def means(self) -> dict[str, Tensor | float]:
        """By name, of the steps that gave it."""
        return {name: total / self.steps[name] for name, total in self.totals.items()}

    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, time.perf_counter() - self.started)

    def seconds(self) -> float:
        return time.perf_counter() - self.run_started
