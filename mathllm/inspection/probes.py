"""Where a number of the algorithm can be read: a linear map from what a site holds to the number (ridge regression to
one-hot values, the largest taken), tried on inputs that it was not fitted to.

A probe may find what the model does not use. What it finds is `read`, never `used`. Beside it stands a control, the
same fit to labels that are drawn at random for each combination of inputs, as frequent as the true ones, and tried on
other texts with the same inputs: what can be learned by heart there (Hewitt & Liang, "Designing and Interpreting Probes
with Control Tasks", arXiv 1909.03368, where the probe itself is given inputs again, too)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.evaluation.breakdown import Count
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.inspection.variables import BELOW, INPUTS, Variables
from mathllm.interp.texts import Run
from mathllm.percent import percent
from mathllm.tasks.numbers import Ints

RIDGE = 1e-2  # times the number of rows, on features of unit variance
MOST_TOKENS = 6000  # that a probe is fitted and tried on
LEAST_TOKENS = 200
HELD_OUT = 0.3
READABLE, SELECTIVE = 0.99, 0.1  # accuracy, and how far above its control, for a claim


@dataclass(frozen=True)
class Probe:
    """How many held-out tokens' values of a variable are read rightly at a site, and the same for its control; behind
    tokens of one kind."""

    behind: str
    variable: str
    site: str
    right: Count
    control: Count


@dataclass(frozen=True)
class Probes:
    """`skipped` says why there are none."""

    before: Count
    found: tuple[Probe, ...]
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "behind": one.behind,
                "variable": one.variable,
                "site": one.site,
                "right": one.right.to_dict(),
                "control": one.control.to_dict(),
            }
            for one in self.found
        ]
        return {"skipped": self.skipped} if self.skipped else {"probes": rows}

    def arrays(self) -> dict[str, NDArray[Any]]:
        rows = list(dict.fromkeys((one.behind, one.variable) for one in self.found))
        sites = list(dict.fromkeys(one.site for one in self.found))
        shares = np.full((2, len(rows), len(sites)), np.nan)
        for one in self.found:
            at = rows.index((one.behind, one.variable)), sites.index(one.site)
            shares[0][at], shares[1][at] = one.right.exact_match, one.control.exact_match
        return {
            "probe_rows": np.array([f"{variable}, behind {behind}" for behind, variable in rows]),
            "probe_sites": np.array(sites),
            "probe_accuracy": shares[0],
            "probe_control": shares[1],
        }

    def claims(self) -> list[Claim]:
        """The first site at which each variable is readable, and whether it can be read at the end, too."""
        if self.before.exact_match < RIGHT:
            return []
        first: dict[tuple[str, str], Probe] = {}
        for one in self.found:
            enough = one.right.exact_match >= READABLE
            if enough and one.right.exact_match - one.control.exact_match >= SELECTIVE:
                first.setdefault((one.behind, one.variable), one)
        together: dict[tuple[str, str], list[Probe]] = {}
        for one in first.values():
            together.setdefault((one.variable, one.site), []).append(one)
        return [self._claim(variable, site, ones) for (variable, site), ones in together.items()]

    def _claim(self, variable: str, site: str, ones: list[Probe]) -> Claim:
        least = min((one.right for one in ones), key=lambda count: count.exact_match)
        control = max(one.control.exact_match for one in ones)
        later = [
            two.right.exact_match
            for one in ones
            for two in self.found[self.found.index(one) :]
            if (two.behind, two.variable) == (one.behind, one.variable)
        ]
        where = ", ".join(f"`{one.behind}`" for one in ones)
        more, most = " or more" * (len(ones) > 1), percent(control)
        evidence = (
            f"behind {where}; a linear probe is right for {percent(least.exact_match)} of {least.num_examples:,} tokens"
            f"{more} with inputs that it was not fitted to (random labels: at most {most}), and for "
            f"{percent(min(later))} at the later site where it is lowest"
        )
        return Claim(f"the {variable} can be read at {site}", evidence, "read")


def measure(texts: Texts, *, seed: int = 0) -> Probes:
    """Probes for each variable that varies, at the residual stream, what attention and the feed-forward layer add to
    it, and the neurons."""
    variables, sites = texts.variables, sites_of(texts)
    clean = texts.run((), sites)
    before, rng = Count.of(clean.right), np.random.default_rng(seed)
    found: list[Probe] = []
    for behind, here in texts.moments.items():
        rows, columns = np.nonzero(here)
        if len(rows) < LEAST_TOKENS:
            continue
        some = rng.permutation(len(rows))[:MOST_TOKENS]
        found += _behind(behind, clean, variables, (rows[some], columns[some]), rng)
    if not found:
        return Probes(before, (), why_not(texts))
    return Probes(before, tuple(found))


def _behind(
    behind: str, clean: Run, variables: Variables, tokens: tuple[Ints, Ints], rng: np.random.Generator
) -> list[Probe]:
    """The probes for tokens, given as rows and columns, at all sites of a run."""
    here = np.zeros(variables.known.shape, np.bool_)
    here[tokens] = True
    labels = {name: variables.values[name][tokens] for name in variables.varied(here)}
    given = [name for name in INPUTS if name in labels]
    if not given:
        return []
    combination = _combinations([labels[name] for name in given])
    with_below = _combinations([labels[name] for name in (*given, *BELOW) if name in labels])
    unseen = rng.random(with_below.max() + 1)[with_below] < HELD_OUT
    others = rng.random(tokens[0].max() + 1)[tokens[0]] < HELD_OUT  # of other texts
    if min(unseen.sum(), others.sum()) < LEAST_TOKENS * HELD_OUT / 2 or unseen.all() or others.all():
        return []
    controls = {name: _control(label, combination, rng) for name, label in labels.items()}
    found = []
    for site, held in clean.cache.items():
        features = held[tokens].flatten(1).double().cpu()
        own, by_heart = (_Ridge(_standard(features, part), part) for part in (unseen, others))
        for name in labels:
            found.append(Probe(behind, name, site, own.right(labels[name]), by_heart.right(controls[name])))
    return found


def why_not(texts: Texts) -> str:
    """Why there is nothing to say of the numbers of the algorithm."""
    if texts.variables.known.any():
        return "there are too few tokens of any one kind: give more examples"
    return "the numbers of the algorithm are not known for these problems"


def sites_of(texts: Texts) -> list[str]:
    """The sites where something is looked for, in the order of the pass."""
    parts = ("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_resid_post")
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.{part}" for i in range(texts.depth) for part in parts)]


def _combinations(parts: list[Ints]) -> Ints:
    """A number for each combination of values."""
    _, codes = np.unique(np.stack(parts, 1), axis=0, return_inverse=True)
    return codes.ravel()


def _control(label: Ints, combination: Ints, rng: np.random.Generator) -> Ints:
    """Random labels, one for each combination of inputs, as frequent as the true ones of combinations."""
    first = np.unique(combination, return_index=True)[1]
    return rng.permutation(label[first])[combination]


def _standard(features: Tensor, held_out: NDArray[np.bool_]) -> Tensor:
    fitted = features[torch.from_numpy(~held_out)]
    return (features - fitted.mean(0)) / fitted.std(0).clamp_min(1e-6)


class _Ridge:
    """Fits maps from the same features to several labels."""

    def __init__(self, features: Tensor, held_out: NDArray[np.bool_]) -> None:
        outside = torch.from_numpy(held_out)
        self.held_out = outside
        with_one = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
        self.fitted, self.tried = with_one[~outside], with_one[outside]
        gram = self.fitted.T @ self.fitted
        gram += RIDGE * len(self.fitted) * torch.eye(len(gram), dtype=gram.dtype)
        self.factor = torch.linalg.cholesky(gram)

    def right(self, label: Ints) -> Count:
        """How many held-out tokens have their label read rightly."""
        values, codes = np.unique(label, return_inverse=True)
        wanted = torch.nn.functional.one_hot(torch.from_numpy(codes.ravel()), len(values)).to(
            self.fitted.dtype
        )
        weight = torch.cholesky_solve(self.fitted.T @ wanted[~self.held_out], self.factor)
        said = (self.tried @ weight).argmax(1)
        return Count.of((said == wanted[self.held_out].argmax(1)).numpy())
