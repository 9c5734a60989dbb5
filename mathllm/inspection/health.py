"""Whether the numbers inside are as they should be: how large, how heavy-tailed, how sharp attention is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mathllm.evaluation.breakdown import Count
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.lens import streams_of
from mathllm.inspection.texts import Texts

OUTLIER = 6.0  # standard deviations
HEAVY = 100.0  # kurtosis of the residual stream that would be worth a look (3: a normal distribution)


@dataclass(frozen=True)
class Level:
    """The residual stream at a site: root mean square, kurtosis, and the share of numbers beyond six standard
    deviations."""

    site: str
    size: float
    kurtosis: float
    outliers: float


@dataclass(frozen=True)
class Health:
    """`entropy` [layer][head]: of attention, in bits, averaged over predictions; `resting` [layer]: the share of
    neurons that are 0 at more than 99% of them."""

    before: Count
    levels: tuple[Level, ...]
    entropy: tuple[tuple[float, ...], ...]
    resting: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "residual_stream": [vars(level) for level in self.levels],
            "attention_entropy_bits": self.entropy,
            "resting_neurons": self.resting,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"attention_entropy": np.array(self.entropy)}

    def claims(self) -> list[Claim]:
        if self.before.exact_match < RIGHT:
            return []
        heavy = [level for level in self.levels if level.kurtosis > HEAVY]
        return [
            Claim(
                f"a few channels of the residual stream dwarf the others at {level.site}",
                f"kurtosis {level.kurtosis:.0f}; {level.outliers:.2%} beyond six standard deviations",
                "read",
            )
            for level in heavy[:1]
        ]


def measure(texts: Texts) -> Health:
    """Statistics over the predictions of the texts."""
    streams = streams_of(texts.depth)
    blocks = [f"blocks.{layer}" for layer in range(texts.depth)]
    patterns = [f"{block}.attn.hook_pattern" for block in blocks]
    neurons = [f"{block}.mlp.hook_post" for block in blocks]
    run, here = texts.run((), [*streams, *patterns, *neurons]), texts.counted
    levels = [_level(site, run.cache[site][here]) for site in streams]
    entropy = []
    for name in patterns:
        pattern = run.cache[name].transpose(1, 2)[here]  # (M, H, S)
        bits = -(pattern * pattern.clamp_min(1e-12).log2()).sum(-1).mean(0)
        entropy.append(tuple(bits.tolist()))
    resting = [
        float(((run.cache[name][here].abs() > 1e-6).float().mean(0) < 0.01).float().mean())
        for name in neurons
    ]
    return Health(Count.of(run.right), tuple(levels), tuple(entropy), tuple(resting))


def _level(site: str, stream: Tensor) -> Level:
    centred = stream - stream.mean()
    deviation = centred.std()
    scaled = centred / deviation
    return Level(
        site,
        float(stream.square().mean().sqrt()),
        float(scaled.pow(4).mean()),
        float((scaled.abs() > OUTLIER).float().mean()),
    )
