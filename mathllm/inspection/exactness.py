"""Is it right, and for how sure: on a sample, on all pairs where that was asked for, and by a proof that is there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exact_match import Progress
from mathllm.inspection.claims import Claim
from mathllm.inspection.texts import Texts
from mathllm.math_model import MathModel
from mathllm.prove.certificate import certificate
from mathllm.prove.exhaustive import Exhausted, exhaust
from mathllm.tasks.expressions import expressions

PROOF = "proof.json"


@dataclass(frozen=True)
class Exactness:
    """Exact match on the texts, given the true tokens before each; the problem with the smallest lead, in logits; all
    pairs, if they were tried; and the certificate beside the checkpoint, if it is about these weights."""

    sample: Count
    weakest: str
    lead: float
    pairs: Exhausted | None
    proof: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "sample": self.sample.to_dict(),
            "smallest_lead": {"problem": self.weakest, "logits": self.lead},
            "all_pairs": self.pairs.to_dict() if self.pairs else None,
            "proof": self.proof,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def claims(self) -> list[Claim]:
        found = []
        if self.proof is not None:
            every, lead = f"all {self.proof['configurations']:,} local configurations", self.proof["lead"]
            what = f"{every} tried, smallest lead {lead:.2f} logits ({PROOF})"
            found.append(Claim(f"right on {self.proof['about']} of any length that fits", what, "proved"))
        if self.pairs is not None:
            right = self.pairs.problems - self.pairs.wrong
            every = "all " * (not self.pairs.wrong)
            text = f"right on {every}{right:,} of {self.pairs.problems:,} {self.pairs.about}"
            found.append(
                Claim(text, f"all of them tried, smallest lead {self.pairs.lead:.2f} logits", "exhaustive")
            )
        return found


def measure(texts: Texts, limit: int | None = None, progress: Progress | None = None) -> Exactness:
    """On the texts, and on all pairs of operands from 0 to `limit`."""
    run = texts.run()
    leads = np.where(texts.counted, run.leads.cpu().numpy(), np.inf).min(1)
    weakest = int(leads.argmin())
    problem = expressions(texts.gold.problems[[weakest]])[0]
    pairs = None if limit is None else exhaust(texts.model, limit, progress=progress)
    return Exactness(Count.of(run.right), problem, float(leads[weakest]), pairs, proof_of(texts.model))


def proof_of(model: MathModel) -> dict[str, Any] | None:
    """The certificate beside a checkpoint, if it is of these weights and holds."""
    try:
        found: dict[str, Any] = json.loads((model.path / PROOF).read_text(encoding="utf-8"))
        about = certificate(model, "proof")
    except (OSError, ValueError, UsageError):
        return None
    same = all(found.get(key) == about[key] for key in ("weights_sha256", "config_sha256"))
    return found if same and found.get("holds") else None
