"""What thoughts mean that nobody taught: the donor swap of `evaluation.thoughts`, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.evaluation.thoughts import ThoughtReport, examine
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.percent import percent

MOST = 2000


@dataclass(frozen=True)
class Thoughts:
    report: ThoughtReport | None
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped} if self.report is None else self.report.to_dict()

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self.report is None:
            return {}
        return {"thought_counts": np.stack([slot.counts for slot in self.report.slots])}

    def claims(self) -> list[Claim]:
        if self.report is None or self.report.answers.exact_match < RIGHT:
            return []
        found, report = [], self.report
        least = min(slot.agreement for slot in report.slots)
        followed = report.followed
        if least >= 0.99:
            text = "each thought is the true state after its step, digit for digit"
            evidence = f"at least {percent(least)} of {report.answers.num_examples:,} thoughts of every step"
            found.append(Claim(text, evidence, "read"))
        if followed.exact_match >= 0.99:
            text = "the answer follows a thought that is put there from another problem"
            evidence = f"{followed} swaps of one thought"
            found.append(Claim(text, evidence, "sufficient"))
        return found


def measure(texts: Texts) -> Thoughts:
    """On as many chains as there are texts, of as many steps as the longest of training; skipped where thoughts are not
    the model's own."""
    model = texts.model
    steps = max(1, model.data.max_digits - 1)
    try:
        return Thoughts(examine(model, model.tasks[0], steps, min(len(texts), MOST)))
    except UsageError as error:
        return Thoughts(None, error.message)
