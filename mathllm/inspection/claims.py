"""What may be said of a model, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# from what was only seen to what holds for all problems: `read` a probe or a map shows it; `necessary` without it
# answers are wrong; `sufficient` with it alone answers stay right; `exhaustive` every problem up to a size was tried;
# `proved` every length
STRENGTHS = ("read", "necessary", "sufficient", "exhaustive", "proved")

# of the problems that a model has to be right on: why it is right can be said of no other
RIGHT = 0.9


@dataclass(frozen=True)
class Claim:
    """A sentence, the figures that it rests on, and how strong that makes it: one of STRENGTHS."""

    text: str
    evidence: str
    strength: str

    def __post_init__(self) -> None:
        assert self.strength in STRENGTHS


def strongest_first(claims: Iterable[Claim]) -> list[Claim]:
    """The claims in the order in which they are shown."""
    return sorted(claims, key=lambda claim: -STRENGTHS.index(claim.strength))
