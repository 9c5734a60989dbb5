"""Is it right, and how sure is that: on a sample, on all pairs where these were asked for, and by a proof that is
there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import MathLLMError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exact_match import Progress
from mathllm.files import read_json
from mathllm.finding import PROOF
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.math_model import MathModel
from mathllm.prove.certificate import certificate
from mathllm.prove.exhaustive import Exhausted, exhaust
from mathllm.tasks.expressions import expressions


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
        if self.pairs is not None and self.pairs.wrong < (1 - RIGHT) * self.pairs.problems:
            right = f"{self.pairs.problems - self.pairs.wrong:,} of {self.pairs.problems:,}"
            text = f"right on {right}: {self.pairs.about}"
            found.append(
                Claim(text, f"each was tried, smallest lead {self.pairs.lead:.2f} logits", "exhaustive")
            )
        return found


def measure(texts: Texts, limit: int | None = None, progress: Progress | None = None) -> Exactness:
    """On the texts, and on all pairs of operands from 0 to `limit`."""
    leads = np.where(texts.counted, texts.run().leads.cpu().numpy(), np.inf).min(1)
    leads = np.where(np.isnan(leads), -np.inf, leads)
    weakest = int(leads.argmin())
    problem = expressions(texts.gold.problems[[weakest]])[0]
    pairs = None if limit is None else exhaust(texts.model, limit, progress=progress)
    return Exactness(Count.of(leads > 0), problem, float(leads[weakest]), pairs, proof_of(texts.model))


def proof_of(model: MathModel) -> dict[str, Any] | None:
    """The certificate beside a checkpoint, if it is about these weights as they are, and holds."""
    try:
        about = certificate(model, "proof")
        found = read_json(model.path / PROOF)
    except (OSError, ValueError, MathLLMError):
        return None
    if not isinstance(found, dict) or "given_window" in found or found.get("holds") is not True:
        return None
    same = all(found.get(key) == about[key] for key in ("schema", "weights_sha256", "config_sha256"))
    kinds = {"about": str, "configurations": int, "lead": float}
    return found if same and all(isinstance(found.get(key), kind) for key, kind in kinds.items()) else None
