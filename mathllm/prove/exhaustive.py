"""Every pair of numbers up to a limit, with the leads: what can be said of models without a window."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mathllm.evaluation.exact_match import Progress
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.inference.scoring import TIE
from mathllm.math_model import MathModel
from mathllm.prove.hunt import Suspect, check_told, smallest_leads, suspects
from mathllm.tasks import concatenate

ROWS = 1 << 15
NAMED = 20


@dataclass(frozen=True)
class Exhausted:
    """How many problems there are, how many of them the model gets wrong, and those with the smallest leads."""

    about: str
    problems: int
    wrong: int
    lead: float
    weakest: tuple[Suspect, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def exhaust(model: MathModel, limit: int, *, progress: Progress | None = None) -> Exhausted:
    """Tries all pairs of operands from 0 to `limit`. Raises UsageError for a model whose leads say nothing."""
    check_told(model)
    start, pairs = (
        time.perf_counter(),
        AllPairs(model.tasks, limit, model.data.signed, model.data.second_digits),
    )
    kept, leads, wrong = pairs[0:0], np.zeros(0, np.float32), 0
    for begin in range(0, len(pairs), ROWS):
        problems = pairs[begin : begin + ROWS]
        found = smallest_leads(model, problems)
        unsure = problems[np.flatnonzero(~(found > TIE))]
        wrong += (
            sum(not answer.correct for answer in model.answer(model.render(unsure))) if len(unsure) else 0
        )
        order = np.argsort(np.append(leads, found), kind="stable")[:NAMED]
        kept, leads = concatenate([kept, problems])[order], np.append(leads, found)[order]
        if progress is not None:
            progress(min(begin + ROWS, len(pairs)), len(pairs))
    weakest = tuple(suspects(model, kept, leads, NAMED))
    return Exhausted(pairs.about, len(pairs), wrong, float(leads[0]), weakest, time.perf_counter() - start)
