"""Right at every length: by trying every local configuration there is, each in a real problem.

Where every layer has a window, what a model says behind a token is a function of the token's local configuration
(`prove.local`). Of sums and of chains of steps there are few, and short problems hold all of them (`prove.cases`). If
each is answered rightly by far more than floats can be wrong by, so is any problem of any length: by induction over
the tokens that are written, since each is the true one, and its configuration has been tried. docs/proof.md has the
argument and what it takes for granted. It is an enumeration in floats with a cross-check in double precision, and no
formal proof."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mathllm.errors import UsageError
from mathllm.evaluation.exact_match import Progress
from mathllm.formats import ALLOWED, Walk
from mathllm.inference.engine import as_tensors
from mathllm.inference.scoring import gold_lead, gold_leads
from mathllm.interp.forward import forward
from mathllm.math_model import MathModel
from mathllm.prove.cases import ABOUT, cases_of
from mathllm.prove.local import Keys, configurations, window_of
from mathllm.tasks import Problems, Sampling, Task, concatenate, sample
from mathllm.tasks.expressions import expressions
from mathllm.tasks.numbers import Bools, Ints

ROWS = 1 << 14  # problems that are worked on together
DOUBLE = 20_000  # problems that are gone through again in double precision, the weakest first
LONG = (6, 12, 50, 200)  # digits of random problems whose configurations have to be among those tried
SHORTEST = 64  # tokens of a model that has room for the cases, and for longer problems
WEAKEST = 20  # problems that are named


@dataclass(frozen=True)
class Weak:
    """A problem, the token of its text that leads by least, and by how many logits; below 0 it is wrong."""

    problem: str
    text: str
    column: int
    lead: float


@dataclass(frozen=True)
class Proof:
    """What was tried and what came of it. `lead` is the smallest, in logits; `double_difference` the largest
    difference of a lead from that in double precision, `long_difference` from that of an equal configuration in a
    long problem, of which `long_checked` were looked at and `long_unseen` were new."""

    about: str
    format: str
    window: tuple[tuple[int, int], ...]
    problems: int
    predictions: int
    configurations: int
    wrong: int
    lead: float
    weakest: tuple[Weak, ...]
    double_difference: float
    double_checked: int
    longest: int
    long_checked: int
    long_unseen: int
    long_wrong: int
    long_difference: float
    seconds: float

    @property
    def error(self) -> float:
        """By how much a lead may be off, as far as was seen."""
        return max(self.double_difference, self.long_difference)

    @property
    def holds(self) -> bool:
        """Is every configuration right, by at least ten times what floats were seen to be wrong by?"""
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """Why this is no proof; empty where it is one."""
        if self.wrong:
            return f"{self.wrong:,} of {self.configurations:,} local configurations are wrong"
        if self.long_checked == 0:
            return "the model has no room for longer problems, of which some are to be looked at"
        if self.long_wrong:
            return f"{self.long_wrong:,} predictions of long problems are wrong"
        if self.long_unseen:
            return (
                f"{self.long_unseen:,} predictions of long problems have a configuration that was not tried"
            )
        if not self.lead > 10 * self.error:
            return f"the smallest lead, {self.lead:.2g}, is not clear of what floats are off by, {self.error:.2g}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error, "holds": self.holds}


@dataclass(frozen=True)
class Tried:
    """The predictions [M] in texts of problems: their configurations, the leads of the right tokens, and the problem
    and the column of the text where each is; as `smallest` has them, each configuration once, ascending."""

    problems: Problems
    keys: Keys
    leads: NDArray[np.float32]
    rows: Ints
    columns: Ints

    @property
    def smallest(self) -> Tried:
        """Each configuration once, where its lead is smallest."""
        order = np.lexsort((self.leads, self.keys))
        keys = self.keys[order]
        return self[order[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]]

    def __getitem__(self, some: Ints) -> Tried:
        return Tried(self.problems, self.keys[some], self.leads[some], self.rows[some], self.columns[some])

    def find(self, keys: Keys) -> tuple[Ints, Bools]:
        """Where configurations are among these, which are ascending, and whether they are."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return at, self.keys[at] == keys

    def weakest(self, model: MathModel, count: int) -> tuple[Weak, ...]:
        """The configurations with the smallest leads."""
        order = np.argsort(self.leads, kind="stable")[:count]
        problems = self.problems[self.rows[order]]
        gold = model.format.render(problems)
        texts = model.format.texts(problems, gold.ids, gold.lengths)
        told = zip(
            expressions(problems),
            texts,
            self.columns[order].tolist(),
            self.leads[order].tolist(),
            strict=True,
        )
        return tuple(Weak(*one) for one in told)


def try_all(model: MathModel, problems: Problems) -> Tried:
    """Every prediction in the texts of problems; a lead that is no number counts as the smallest."""
    gold = model.render(problems)
    told = model.format.coordinates(problems, gold.ids[:, :-1], model.model.axes)
    keys = configurations(model.model, gold.ids[:, :-1], told)
    leads = np.zeros(gold.ids.shape, np.float32)
    for rows, lead, _ in gold_leads(model.model, model.format, gold, ROWS):
        leads[rows, : lead.shape[1]] = np.where(np.isnan(lead), -np.inf, lead)
    rows, columns = np.nonzero(gold.loss_mask)
    return Tried(problems, keys[rows, columns - 1], leads[rows, columns], rows, columns)


def together(parts: Sequence[Tried]) -> Tried:
    """All of them as one."""
    offsets = np.cumsum([0, *(len(part.problems) for part in parts[:-1])])
    return Tried(
        concatenate([part.problems for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.leads for part in parts]),
        np.concatenate([part.rows + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.columns for part in parts]),
    )


def chunks(cases: Iterable[Problems]) -> Iterator[Problems]:
    """The same problems, about ROWS at once."""
    waiting: list[Problems] = []
    for problems in cases:
        waiting.append(problems)
        if sum(map(len, waiting)) >= ROWS:
            yield concatenate(waiting)
            waiting = []
    if waiting:
        yield concatenate(waiting)


@dataclass(frozen=True)
class Cases:
    """All local configurations of a model, each with its smallest lead, and how many problems and predictions held
    them."""

    tried: Tried
    window: tuple[tuple[int, int], ...]
    problems: int
    predictions: int

    @property
    def wrong(self) -> int:
        return int((~(self.tried.leads > 0)).sum())


def check_provable(model: MathModel) -> tuple[Iterator[Problems], tuple[tuple[int, int], ...]]:
    """Problems that hold every local configuration of a model, and its window. Raises as `try_cases` does."""
    scheme, hint = window_of(model.model), "see docs/proof.md; --hunt looks for mistakes of any model"
    if list(scheme.parts) != ["place"] or scheme.own:
        raise UsageError("the cases are known for attention by places alone, without own_keys", hint)
    bounds = tuple(scheme.parts["place"].windows)
    if any(high for _, high in bounds):
        raise UsageError("the cases are known for windows that see nothing above: -1,0 and not 1,0", hint)
    if model.data.max_operands > 2:
        raise UsageError("the cases are known for sums of two numbers, and this model has learned more", hint)
    cases = cases_of(model.tasks, model.format, 1 + model.model.loops * sum(-low for low, _ in bounds))
    if model.max_length < SHORTEST:
        raise UsageError(
            f"this model has no room for problems of {SHORTEST} tokens, which the cases take", hint
        )
    return cases, bounds


def try_cases(model: MathModel, *, progress: Progress | None = None) -> Cases:
    """Tries every local configuration. Raises UsageError where the model's attention has no window, or where it is not
    known which problems hold all of them."""
    problems_of, bounds = check_provable(model)
    cases = list(problems_of)
    parts, predictions, done, total = [], 0, 0, sum(map(len, cases))
    for problems in chunks(cases):
        found = try_all(model, problems)
        predictions, done = predictions + len(found.keys), done + len(problems)
        parts.append(found.smallest)
        if progress is not None:
            progress(done, total)
    return Cases(together(parts).smallest, bounds, total, predictions)


def prove(
    model: MathModel, cases: Cases | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Proof:
    """A proof, or what stands in its way; `cases` are those of the model, where they have been tried. Raises as
    `try_cases` does."""
    start = time.perf_counter()
    cases = cases or try_cases(model, progress=progress)
    tried = cases.tried
    return Proof(
        about=ABOUT[model.tasks[0].name],
        format=model.format.name,
        window=cases.window,
        problems=cases.problems,
        predictions=cases.predictions,
        configurations=len(tried.keys),
        wrong=cases.wrong,
        lead=float(tried.leads.min()),
        weakest=tried.weakest(model, WEAKEST),
        **compare_double(model, tried),
        **compare_long(model, tried, seed),
        seconds=time.perf_counter() - start,
    )


def compare_long(model: MathModel, tried: Tried, seed: int) -> dict[str, Any]:
    """How many predictions of long random problems have a configuration that was not tried, of how many, and by how
    much at most the lead of one differs from that where it was."""
    rng, keys, leads, apart, longest = np.random.default_rng(seed), [], [], 0.0, 0
    for digits, method in itertools.product(LONG, ("random", "stress", "digits", "digits,balanced")):
        count, how = max(8, 4 * LONG[-1] // digits), _drawn(digits, method, model.tasks)
        problems = concatenate([_long(task, rng, count, how, method) for task in model.tasks])
        if model.fit(problems)[1]:
            continue  # the model has no room for such long ones
        found, longest = try_all(model, problems), digits
        at, known = tried.find(found.keys)
        keys.append(known)
        leads.append(found.leads)
        apart = max(apart, _apart(found.leads[known], tried.leads[at[known]]))
    seen = np.concatenate([np.zeros(0, np.bool_), *keys])
    lead = np.concatenate([np.zeros(0, np.float32), *leads])
    return {
        "longest": longest,
        "long_checked": len(seen),
        "long_unseen": int((~seen).sum()),
        "long_wrong": int((~(lead > 0)).sum()),
        "long_difference": apart,
    }


def _drawn(digits: int, method: str, tasks: Sequence[Task]) -> Sampling:
    known = [name for name in method.split(",") if all(name in task.samplings for task in tasks)]
    return Sampling(digits, method=",".join(known) or "digits")


def _long(task: Task, rng: np.random.Generator, count: int, how: Sampling, method: str) -> Problems:
    """Long problems: of exactly so many digits, or (by the methods of sampling) of two lengths up to that."""
    if method in ("random", "stress"):
        return task.of_length(rng, count, how, stress=method == "stress")
    return sample(rng, count, (task,), how)


def compare_double(model: MathModel, tried: Tried) -> dict[str, Any]:
    """The largest difference of a lead from that in double precision, worked out by the explicit forward pass, over the
    weakest configurations and as many others; and how many these are."""
    order = np.argsort(tried.leads, kind="stable")
    order = np.append(order[:DOUBLE], order[DOUBLE:][:: max(1, len(order) // DOUBLE)])
    wide, apart = copy.deepcopy(model.model).double(), 0.0
    for start in range(0, len(order), ROWS // 8):
        part = tried[order[start : start + ROWS // 8]]
        gold = model.render(part.problems[part.rows])
        walk = Walk(model.format, gold.problems, model.model.axes)
        told = as_tensors(walk.read(gold.ids[:, :-1]), model.device)
        ids = torch.from_numpy(gold.ids.astype(np.int64)).to(model.device)
        with torch.inference_mode():
            logits = forward(wide, ids[:, :-1], told, tap=lambda name, found: found)
        logits = logits.masked_fill(~torch.from_numpy(ALLOWED[walk.choices]).to(model.device), -torch.inf)
        leads = gold_lead(logits, ids[:, 1:]).cpu().numpy()[np.arange(len(ids)), part.columns - 1]
        apart = max(apart, _apart(leads, part.leads))
    return {"double_difference": apart, "double_checked": len(order)}


def _apart(some: NDArray[Any], others: NDArray[Any]) -> float:
    """The largest difference; none between those that lead over nothing, where one token alone may stand."""
    differ = ~(np.isposinf(some) & np.isposinf(others))
    with np.errstate(invalid="ignore"):
        apart = np.abs(some[differ] - others[differ])
    return math.inf if np.isnan(apart).any() else float(apart.max(initial=0))
