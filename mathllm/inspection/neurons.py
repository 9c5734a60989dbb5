"""What a neuron is: its activation, averaged over tokens with the same digits and carry, against a list of formulas of
these. A neuron is named by the simplest formula that explains most of how it varies; the others are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.evaluation.breakdown import Count
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.probes import why_not
from mathllm.inspection.texts import Texts
from mathllm.inspection.variables import BELOW, INPUTS, NONE, Variables
from mathllm.tasks.numbers import Bools, Ints

NAMED = 0.9  # of the variance over tokens: a formula names a neuron
ALIVE = 1e-3  # mean absolute activation below which a neuron is said to rest
# formulas that are no more than the table of all values
TABLES = (
    *("a and b", "a, b and carry", "a, b and operator", "a and b below", "a and b below and the carry in"),
    "a + b below and the carry in",
)
SHOWN = 24  # neurons whose grid is kept
LEAST_TOKENS = 200


@dataclass(frozen=True)
class Neuron:
    """A neuron behind tokens of one kind: the formula that fits it best, the share of its variance that this explains,
    and its mean activation over the first and second digit [10, 10] (NaN where no token has them)."""

    name: str
    behind: str
    formula: str
    explained: float
    spread: float
    grid: NDArray[np.float32]


@dataclass(frozen=True)
class Neurons:
    """`resting` of all neurons have a mean activation below ALIVE at all of these tokens."""

    before: Count
    neurons: tuple[Neuron, ...]
    resting: int = 0
    skipped: str = ""

    @property
    def named(self) -> list[Neuron]:
        return [one for one in self.neurons if one.explained >= NAMED]

    def to_dict(self) -> dict[str, Any]:
        if self.skipped:
            return {"skipped": self.skipped}
        counts: dict[str, int] = {}
        for one in self.named:
            counts[one.formula] = counts.get(one.formula, 0) + 1
        return {
            "neurons": len(self.neurons),
            "resting": self.resting,
            "named": len(self.named),
            "threshold": NAMED,
            "formulas": dict(sorted(counts.items(), key=lambda pair: -pair[1])),
            "each": [
                {
                    "neuron": one.name,
                    "behind": one.behind,
                    "formula": one.formula,
                    "explained": one.explained,
                    "spread": one.spread,
                }
                for one in self.neurons
            ],
        }

    @property
    def shown(self) -> list[Neuron]:
        """Those that vary most, of the named ones first."""
        return sorted(self.neurons, key=lambda one: (one.explained < NAMED, -one.spread))[:SHOWN]

    def arrays(self) -> dict[str, NDArray[Any]]:
        if not self.neurons:
            return {}
        return {
            "neuron_names": np.array([f"{one.name}: {one.formula}" for one in self.shown]),
            "neuron_grids": np.stack([one.grid for one in self.shown]),
            "neuron_explained": np.array([one.explained for one in self.shown]),
        }

    def claims(self) -> list[Claim]:
        known, simple = self.named, [one for one in self.named if one.formula not in TABLES]
        if self.before.exact_match < RIGHT or not known:
            return []
        counts = list(self.to_dict()["formulas"].items())[:4]
        text = f"{len(known):,} of {len(self.neurons):,} neurons that vary are functions of digits and carry"
        text += (
            f", {len(simple):,} of them by a simple formula"
            if simple
            else ", none of them by a simple formula"
        )
        evidence = f"R² at least {NAMED}: " + ", ".join(f"{formula} ({count})" for formula, count in counts)
        return [Claim(text, evidence, "read")]


def measure(texts: Texts) -> Neurons:
    """All neurons of all layers, behind the kind of token that most is known of."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(texts.depth)]
    clean = texts.run((), names)
    before = Count.of(clean.right)
    moment = next(((name, here) for name, here in telling(texts) if here.sum() >= LEAST_TOKENS), None)
    if moment is None:
        return Neurons(before, (), skipped=why_not(texts))
    behind, here = moment
    formulas = {name: codes[here] for name, codes in formulas_of(texts.variables, here).items()}
    first, second = (texts.variables.values[name][here] for name in ("first digit", "second digit"))
    found, resting = [], 0
    for layer, name in enumerate(names):
        activation = clean.cache[name].cpu().numpy()[here]
        best, explained = best_formula(activation, formulas)
        alive = np.abs(activation).mean(0) > ALIVE
        resting += int((~alive).sum())
        for number in np.flatnonzero(alive).tolist():
            grid = _grid(activation[:, number], first, second)
            spread = float(activation[:, number].std())
            label = f"L{layer}N{number}"
            found.append(Neuron(label, behind, best[number], float(explained[number]), spread, grid))
    return Neurons(before, tuple(found), resting)


def telling(texts: Texts) -> list[tuple[str, Bools]]:
    """Kinds of tokens, those first behind which the most variables vary, and the most tokens are."""

    def worth(pair: tuple[str, Bools]) -> tuple[int, int]:
        following = texts.gold.ids[:, 1:][pair[1]]
        vary = len(texts.variables.varied(pair[1])) + (len(np.unique(following)) > 2)
        return -vary, -int(pair[1].sum())

    return sorted(texts.moments.items(), key=worth)


def formulas_of(variables: Variables, here: Bools) -> dict[str, Ints]:
    """Codes [N, T] by what they are a formula of, the simplest first."""
    values = {name: value for name, value in variables.values.items() if (value[here] != NONE).all()}
    found: dict[str, Ints] = {}
    a, b, c = (values.get(name, np.zeros(here.shape, np.int64)) for name in INPUTS[1:])
    if "carry out" in values:
        found["carry in"] = c
        found["carry out"] = values["carry out"]
        found["a + b = 9"] = (a + b == 9).astype(np.int64)
        found["a + b >= 10"] = (a + b >= 10).astype(np.int64)
    if "operator" in values:
        found["operator"] = values["operator"]
    for name, value in (("a", a), ("b", b)):
        found |= {f"{name} = {digit}": (value == digit).astype(np.int64) for digit in range(10)}
        found[name] = value
    digit = values["digit"]
    found |= {f"digit = {one}": (digit == one).astype(np.int64) for one in range(10)}
    found["digit"] = digit
    if "carry out" in values:
        found["a + b"] = a + b
        found["a - b"] = a - b + 9
        found["a + b + carry"] = a + b + c
    if BELOW[0] in values:
        low, other = (values[name] for name in BELOW)
        found["a below"], found["b below"] = low, other
        found["a + b below"] = low + other
        found["a and b below"] = 10 * low + other
        found["a + b below and the carry in"] = 2 * (low + other) + c
        found["a and b below and the carry in"] = 20 * low + 2 * other + c
    found["a and b"] = 10 * a + b
    found["a, b and carry" if "carry out" in values else "a, b and operator"] = (
        100 * (c if "carry out" in values else values["operator"]) + 10 * a + b
    )
    return found


def best_formula(activation: NDArray[Any], formulas: dict[str, Ints]) -> tuple[list[str], NDArray[Any]]:
    """For each neuron the first formula that explains NAMED of the variance of activations [M, F], or the one that
    explains most; and how much (adjusted for how many values a formula has)."""
    tokens, total = len(activation), activation.var(0) + 1e-12
    shares = []
    for codes in formulas.values():
        values, group = np.unique(codes, return_inverse=True)
        belongs = (np.arange(len(values))[:, None] == group.ravel()).astype(np.float32)
        count, sums = belongs.sum(1), belongs @ activation
        between = (count[:, None] * (sums / count[:, None] - activation.mean(0)) ** 2).sum(0) / tokens
        lost = (1 - between / total) * (tokens - 1) / max(1, tokens - len(count))
        shares.append(1 - lost)
    explained = np.stack(shares)
    names = list(formulas)
    enough = explained >= NAMED
    chosen = np.where(enough.any(0), enough.argmax(0), explained.argmax(0))
    return [names[one] for one in chosen], explained[chosen, np.arange(len(chosen))]


def _grid(activation: NDArray[Any], first: Ints, second: Ints) -> NDArray[np.float32]:
    total, count = np.zeros((10, 10)), np.zeros((10, 10))
    np.add.at(total, (first, second), activation)
    np.add.at(count, (first, second), 1)
    with np.errstate(invalid="ignore"):
        return (total / count).astype(np.float32)
