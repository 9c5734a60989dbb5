"""Where a number of the algorithm is used: what a site holds behind one token is replaced by what it holds in another
problem, and the next token should be what the algorithm gives with that problem's number in place of its own
(interchange interventions, arXiv 2106.02997).

A donor is another problem's token of the same kind, with another value of the variable, such that another token should
come next. Two kinds of donors are tried. One that is alike in all else that decides the next token shows that the site
is enough to turn it; anything close to the answer is, so it says little alone. One that is drawn freely shows that the
site holds this variable and nothing else that matters: had it brought the donor's other digits along, another token
would come. The third figure is how often the token comes out wrong when the site holds the mean of its role instead:
whether the site is needed. A site of the whole column is the same at the operands' digits of that place, too, so with
a free donor these come along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.evaluation.breakdown import NOTHING, Count
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.probes import sites_of, why_not
from mathllm.inspection.texts import Texts
from mathllm.inspection.variables import INPUTS, OUTPUTS
from mathllm.interp.edits import Edit, means_by_role
from mathllm.percent import percent
from mathllm.tasks.numbers import Bools, Ints

SURE = 0.99  # of interchanges followed: a claim
PAIRS, LEAST_PAIRS = (
    60,
    40,
)  # that are tried behind tokens of one kind at least, and for which there is a figure
TEXTS = 5  # for which there is one more
MOMENTS = 4  # kinds of tokens that are looked at
OPERANDS = ("a", "b", "number")  # kinds of tokens that are digits of a problem's numbers


@dataclass(frozen=True)
class Place:
    """A site and, where it has heads, one of them; behind one token, or also at the operands' digits of its column."""

    site: str
    head: int | None = None
    column: bool = False

    @property
    def name(self) -> str:
        if self.column:
            return f"{self.site} of the whole column"
        return self.site if self.head is None else f"{self.site}, head {self.head}"


@dataclass(frozen=True)
class Interchange:
    """One variable at one place, behind tokens of one kind: of interchanges with donors alike in what else decides the
    next token, and with any, how many it followed; and how many tokens came out wrong with the mean there."""

    behind: str
    variable: str
    place: str
    alike: Count
    free: Count
    broken: Count


@dataclass(frozen=True)
class Interchanges:
    before: Count
    found: tuple[Interchange, ...]
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        if self.skipped:
            return {"skipped": self.skipped}
        return {
            "interchanges": [
                {
                    "behind": one.behind,
                    "variable": one.variable,
                    "site": one.place,
                    "followed_alike_in_what_else_decides": one.alike.to_dict(),
                    "followed_any_donor": one.free.to_dict(),
                    "wrong_with_role_mean": one.broken.to_dict(),
                }
                for one in self.found
            ]
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        rows = list(dict.fromkeys((one.behind, one.variable) for one in self.found))
        places = list(dict.fromkeys(one.place for one in self.found))
        shares = np.full((3, len(rows), len(places)), np.nan)
        for one in self.found:
            at = rows.index((one.behind, one.variable)), places.index(one.place)
            for kind, count in enumerate((one.alike, one.free, one.broken)):
                shares[kind][at] = count.exact_match if count.num_examples else np.nan
        return {
            "interchange_rows": np.array([f"{variable}, behind {behind}" for behind, variable in rows]),
            "interchange_sites": np.array(places),
            "interchange_alike": shares[0],
            "interchange_free": shares[1],
            "interchange_broken": shares[2],
        }

    def claims(self) -> list[Claim]:
        """For each variable the first place that holds it alone, and the first that is enough to turn it."""
        if self.before.exact_match < RIGHT:
            return []
        alone: dict[tuple[str, str], list[Interchange]] = {}
        turned: dict[tuple[str, str], list[Interchange]] = {}
        for behind, variable in dict.fromkeys((one.behind, one.variable) for one in self.found):
            mine = [one for one in self.found if (one.behind, one.variable) == (behind, variable)]
            holds = next((one for one in mine if _sure(one.free)), None)
            decides = next((one for one in mine if _sure(one.alike)), None)
            if holds is not None:
                alone.setdefault((behind, holds.place), []).append(holds)
            if decides is not None and decides is not holds:
                turned.setdefault((behind, decides.place), []).append(decides)
        return [*(_holds(ones) for ones in alone.values()), *(_decides(ones) for ones in turned.values())]


def _holds(ones: list[Interchange]) -> Claim:
    one, least = ones[0], min((one.free for one in ones), key=lambda count: count.exact_match)
    variables = " and the ".join(one.variable for one in ones)
    text = f"behind `{one.behind}` {one.place} holds the {variables}, and nothing else that decides what comes next"
    broken = percent(one.broken.exact_match) if one.broken.num_examples else "not measured"
    evidence = f"{_followed(least)} with any donor; wrong with the role mean there: {broken}"
    return Claim(text, evidence, "sufficient")


def _decides(ones: list[Interchange]) -> Claim:
    one, least = ones[0], min((one.alike for one in ones), key=lambda count: count.exact_match)
    variables = ", ".join(one.variable for one in ones)
    text = f"behind `{one.behind}` the next token follows what {one.place} holds of {variables}"
    return Claim(
        text,
        f"{_followed(least)} with donors alike in what else decides it" + ", or more" * (len(ones) > 1),
        "sufficient",
    )


def _sure(count: Count) -> bool:
    return count.num_examples >= LEAST_PAIRS and count.exact_match >= SURE


def _followed(count: Count) -> str:
    low, _ = count.interval
    return f"{count} interchanges followed (95%: at least {percent(low, 1)})"


def measure(texts: Texts, *, seed: int = 0) -> Interchanges:
    """Interchange of every variable at every place, behind every kind of token where there are enough pairs."""
    places = places_of(texts)
    clean = texts.run((), sorted({place.site for place in places}))
    before = Count.of(clean.right)
    if not texts.moments:
        return Interchanges(before, (), why_not(texts))
    algorithm = Algorithm.of(texts, np.random.default_rng(seed))
    pairings = {
        name: (algorithm.pairs(name, alone=False), algorithm.pairs(name, alone=True))
        for name in texts.variables.values
        if name in (*INPUTS, *OUTPUTS)
    }
    shown = _telling([alike for alike, _ in pairings.values()], len(texts.moments))
    if not shown:
        return Interchanges(before, (), why_not(texts))
    behind = {number: list(texts.moments)[number] for number in shown}
    pairings = {
        name: (alike.of(shown), free.of(shown if name in INPUTS else []))
        for name, (alike, free) in pairings.items()
    }
    sample = algorithm.sample().of(shown)
    pairs = torch.from_numpy(texts.pair).to(texts.model.device)
    found = []
    for place in places:
        held = clean.cache[place.site]
        broken = (
            None if place.column else _broken(texts, place, means_by_role(held, pairs, texts.pairs), sample)
        )
        for variable, (alike, free) in pairings.items():
            turned, alone = (_followed_by(texts, place, held, pairing) for pairing in (alike, free))
            for number, name in behind.items():
                mine = alike.moments == number
                if mine.sum() < LEAST_PAIRS:
                    continue
                without = NOTHING if broken is None else Count.of(broken[sample.moments == number])
                counts = Count.of(turned[mine]), Count.of(alone[free.moments == number]), without
                found.append(Interchange(name, variable, place.name, *counts))
    order = {key: n for n, key in enumerate(dict.fromkeys((one.behind, one.variable) for one in found))}
    return Interchanges(before, tuple(sorted(found, key=lambda one: order[one.behind, one.variable])))


def _telling(pairings: list[Pairing], count: int) -> list[int]:
    """The numbers of the moments that are looked at: those at which the most variables matter, at most MOMENTS."""
    matter = np.zeros(count, np.int64)
    for pairing in pairings:
        matter += np.bincount(pairing.moments, minlength=count) >= LEAST_PAIRS
    order = np.argsort(-matter, kind="stable")[:MOMENTS]
    return [int(number) for number in order if matter[number]]


def places_of(texts: Texts) -> list[Place]:
    """Each head, what attention and the feed-forward layers add, the residual stream; and this of the whole column."""
    found = []
    for site in sites_of(texts):
        if site.endswith("hook_attn_out"):
            z = site.replace("hook_attn_out", "attn.hook_z")
            found += [Place(z, head) for head in range(texts.model.model.heads)]
        if site.endswith("hook_post"):
            continue
        found.append(Place(site))
        if site.endswith("hook_resid_post"):
            found.append(Place(site, column=True))
    return found


@dataclass(frozen=True)
class Pairing:
    """Tokens (row and column) that are given the contents of others, by the number of their moment; and what should
    come next then."""

    moments: Ints
    rows: Ints
    columns: Ints
    donor_rows: Ints
    donor_columns: Ints
    expected: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, moments: list[int]) -> Pairing:
        """Those of these moments alone."""
        some = np.isin(self.moments, moments)
        return Pairing(**{name: value[some] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Algorithm:
    """What comes next by what the variables are, as texts show it: of the M known tokens their moment, which operands
    reach their place, the values of variables, row, column and next token. At most `most` tokens of a moment are
    tried."""

    rng: np.random.Generator
    moment: Ints
    reached: Ints
    values: Mapping[str, Ints]
    rows: Ints
    columns: Ints
    following: Ints
    most: int

    @classmethod
    def of(cls, texts: Texts, rng: np.random.Generator) -> Algorithm:
        moment = np.full(texts.counted.shape, -1)
        for number, here in enumerate(texts.moments.values()):
            moment[here] = number
        rows, columns = np.nonzero(moment >= 0)
        values = {name: value[rows, columns] for name, value in texts.variables.values.items()}
        following = texts.gold.ids[rows, columns + 1].astype(np.int64)
        reached = (_column(texts, rows, columns) >= 0) @ (1 << np.arange(len(operands_of(texts))))
        most = max(PAIRS, len(texts) // TEXTS)
        return cls(rng, moment[rows, columns], reached, values, rows, columns, following, most)

    def pairs(self, variable: str, *, alone: bool) -> Pairing:
        """At most so many tokens of every moment with donors that have another value, so that another token should
        come; alike in the other inputs (or outputs) unless `alone`."""
        group = [name for name in (INPUTS if variable in INPUTS else OUTPUTS) if name in self.values]
        others = [self.values[name] for name in group if name != variable]
        base = self.rng.permutation(len(self.rows))
        # a digit that is not there cannot be replaced
        alike = [self.moment, self.reached] if alone else [self.moment, self.reached, *others]
        donor = self._drawn(_codes(alike), base)
        swapped = [self.values[name][donor if name == variable else base] for name in group]
        expected = self._looked_up(group, self.moment[base], swapped)
        good = (self.values[variable][donor] != self.values[variable][base]) & (expected >= 0)
        good &= expected != self.following[base]
        if alone:  # were all of the donor to come along, another token would be next
            good &= expected != self.following[donor]
        base, donor, expected = base[good], donor[good], expected[good]
        some = _first_of_each(self.moment[base], self.most)
        base, donor, expected = base[some], donor[some], expected[some]
        return Pairing(
            self.moment[base],
            *(self.rows[base], self.columns[base], self.rows[donor], self.columns[donor]),
            expected,
        )

    def sample(self) -> Pairing:
        """At most so many tokens of every moment, each its own donor."""
        some = self.rng.permutation(len(self.rows))
        some = some[_first_of_each(self.moment[some], self.most)]
        tokens = self.rows[some], self.columns[some]
        return Pairing(self.moment[some], *tokens, *tokens, self.following[some])

    def _drawn(self, codes: Ints, base: Ints) -> Ints:
        """For each of the base's tokens one with the same code, drawn."""
        ordered = np.lexsort((self.rng.random(len(codes)), codes))
        starts = np.searchsorted(codes[ordered], codes[base])
        ends = np.searchsorted(codes[ordered], codes[base], side="right")
        drawn: Ints = ordered[self.rng.integers(starts, ends)]
        return drawn

    def _looked_up(self, group: list[str], moment: Ints, values: list[Ints]) -> Ints:
        """The token that follows such values wherever they stand; -1 where it is not always the same, or unknown."""
        key = _codes([self.moment, *(self.values[name] for name in group)])
        first = np.unique(key, return_index=True)[1]
        low, high = np.full(len(first), 99), np.full(len(first), -1)
        np.minimum.at(low, key, self.following)
        np.maximum.at(high, key, self.following)
        columns = np.stack([self.moment[first], *(self.values[name][first] for name in group)], 1).tolist()
        shown = {
            tuple(known): least if least == most else -1
            for known, least, most in zip(columns, low.tolist(), high.tolist(), strict=True)
        }
        asked = np.stack([moment, *values], 1).tolist()
        return np.array([shown.get(tuple(one), -1) for one in asked], np.int64)


def _codes(parts: list[Ints]) -> Ints:
    _, codes = np.unique(np.stack(parts, 1), axis=0, return_inverse=True)
    return codes.ravel()


def _first_of_each(codes: Ints, most: int) -> Ints:
    """The first so many of every code, in their order."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    rank = np.arange(len(codes)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < most])


def _followed_by(texts: Texts, place: Place, held: Tensor, pairing: Pairing) -> Bools:
    """Which interchanges the next token followed."""
    if len(pairing) == 0:
        return np.zeros(0, np.bool_)
    value = torch.zeros_like(held[:1]).repeat(len(pairing), *[1] * (held.ndim - 1))
    tokens = torch.zeros(value.shape[:2], dtype=torch.bool)
    at = torch.arange(len(pairing))
    to, of = pairing.columns[:, None], pairing.donor_columns[:, None]
    if place.column:
        to, of = (
            np.concatenate([one, _column(texts, rows, columns)], 1)
            for one, rows, columns in (
                (to, pairing.rows, pairing.columns),
                (of, pairing.donor_rows, pairing.donor_columns),
            )
        )
    for column, donor in zip(to.T, of.T, strict=True):
        there = (column >= 0) & (donor >= 0)
        rows = at[there]
        value[rows, column[there]] = held[pairing.donor_rows[there], donor[there]]
        tokens[rows, column[there]] = True
    return np.asarray(_said(texts, place, value, tokens, pairing) == pairing.expected)


def operands_of(texts: Texts) -> Ints:
    """The kinds of tokens that are digits of a problem's numbers."""
    return np.flatnonzero([name in OPERANDS for name in texts.kind_names])


def _column(texts: Texts, rows: Ints, columns: Ints) -> Ints:
    """Where the operands' digits stand that are of the place of the next token [M, K]; -1 where there is none."""
    about = texts.place[rows, columns + 1][:, None]
    found = []
    for kind in operands_of(texts):
        here = (texts.kind[rows] == kind) & (texts.place[rows] == about) & ~texts.gold.loss_mask[rows]
        found.append(np.where(here.any(1), here.argmax(1), -1))
    return np.stack(found, 1)


def _broken(texts: Texts, place: Place, means: Tensor, sample: Pairing) -> Bools:
    """Which tokens of the sample come out wrong with the mean there."""
    tokens = torch.zeros(len(sample), texts.counted.shape[1], dtype=torch.bool)
    tokens[torch.arange(len(sample)), torch.from_numpy(sample.columns)] = True
    return np.asarray(_said(texts, place, means[sample.rows], tokens, sample) != sample.expected)


def _said(texts: Texts, place: Place, value: Tensor, tokens: Tensor, pairing: Pairing) -> Ints:
    """The tokens that come next behind those that are edited."""
    heads = None if place.head is None else [place.head]
    some = Texts(texts.model, texts.gold[pairing.rows])
    logits = some.run([Edit(place.site, value, tokens=tokens, heads=heads)]).logits
    said: Ints
    said = logits[torch.arange(len(pairing)), pairing.columns].argmax(-1).cpu().numpy()
    return said
