"""The problems that a model is inspected on, written out, and all that is known of each of their tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mathllm.data.sources import sampling
from mathllm.errors import UsageError, check_choice
from mathllm.formats import Rendered
from mathllm.formats.roles import kind_of, roles
from mathllm.inference.texts import pad_ids
from mathllm.inspection.variables import Variables, variables_of
from mathllm.interp.edits import Edit
from mathllm.interp.texts import Run, run_texts
from mathllm.limits import check_range
from mathllm.math_model import MathModel
from mathllm.registry import OWN
from mathllm.tasks import answer, by_task, carry_lengths, cascades, sample, sizes
from mathllm.tasks.base import plural
from mathllm.tasks.expressions import expressions
from mathllm.tasks.numbers import Bools, Ints

LONGEST = 256  # tokens of a text that is looked into
MOST_CHAIN = 3  # of carries: longer ones are counted together
ALIKE = 8  # tokens that a mean is taken over, or another one is drawn from, at least
MOST_SCORES = 1 << 27  # of all heads and layers in one pass
MOST_EXAMPLES = 1_000_000
DISTANCE = 2  # places: what is further away is counted together
AXES = ("place", "row", "block", "step")


@dataclass(frozen=True)
class Texts:
    """N texts of up to T + 1 tokens, with the true working and answer; of each token but the last [N, T] is known what
    it is and what comes next. `left_out` texts were too long to look into."""

    model: MathModel
    gold: Rendered
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.gold)

    def first(self, tokens: int) -> Texts:
        """As many of them as have about so many tokens, at least a few, and scores that fit into memory."""
        length, transformer = self.gold.ids.shape[1], self.model.model
        scores = length**2 * transformer.depth * transformer.heads
        rows = max(1, min(max(16, tokens // length), MOST_SCORES // scores))
        return self.among(np.arange(min(rows, len(self))))

    def among(self, rows: Ints) -> Texts:
        """These of them."""
        return Texts(self.model, self.gold[rows], self.left_out)

    def run(self, edits: Iterable[Edit] = (), names: str | Iterable[str] = ()) -> Run:
        """The model's pass over them, see interp.texts."""
        with torch.inference_mode():
            return run_texts(self.model.model, self.model.format, self.gold, edits=edits, names=names)

    @cached_property
    def depth(self) -> int:
        """Blocks that a token goes through."""
        return self.model.model.depth

    @cached_property
    def counted(self) -> Bools:
        """Behind which tokens one of the completion comes [N, T]."""
        return self.gold.loss_mask[:, 1:]

    @cached_property
    def there(self) -> Bools:
        """Which tokens stand before their text's end [N, T]."""
        column = np.arange(self.gold.ids.shape[1] - 1)
        inside: Bools = column < self.gold.lengths[:, None] - 1
        return inside

    # what tokens are

    @cached_property
    def role_names(self) -> tuple[str, ...]:
        return self._roles[0]

    @cached_property
    def role(self) -> Ints:
        """Of every token [N, T + 1], the last included: an index into role_names, -1 behind the end."""
        return self._roles[1]

    @cached_property
    def _roles(self) -> tuple[tuple[str, ...], Ints]:
        found = roles(self.model.format, self.gold)
        return found.names, found.codes

    @cached_property
    def pair(self) -> Ints:
        """A number for tokens that are alike [N, T]: of one role, and before one role; of one kind, where fewer than
        ALIKE have that; -1 for what has still fewer like it, and behind the end."""
        codes = np.full(self.there.shape, -1)
        for role, count in ((self.role, len(self.role_names)), (self.kind, len(self.kind_names))):
            rest = self.there & (codes < 0)
            both = role[:, :-1] * (count + 1) + role[:, 1:]
            _, which, many = np.unique(both[rest], return_inverse=True, return_counts=True)
            which = which.ravel()
            enough = many >= ALIKE
            number = np.where(enough, np.cumsum(enough) + codes.max(initial=-1), -1)
            codes[rest] = number[which]
        return codes

    @cached_property
    def pairs(self) -> int:
        """How many such numbers there are."""
        return int(self.pair.max()) + 1

    @property
    def unlike(self) -> float:
        """The share of tokens that have too few like them to be replaced by others."""
        return float((self.there & (self.pair < 0)).sum() / self.there.sum())

    @cached_property
    def kind_names(self) -> tuple[str, ...]:
        return self._kinds[0]

    @cached_property
    def kind(self) -> Ints:
        """What each token is wherever it stands [N, T + 1]: an index into kind_names, -1 behind the end."""
        return self._kinds[1]

    @cached_property
    def _kinds(self) -> tuple[tuple[str, ...], Ints]:
        one_digit = all(task.one_digit for task, _ in by_task(self.gold.problems))
        names: dict[str, int] = {}
        codes = np.zeros(len(self.role_names) + 1, np.int64)
        for number, role in enumerate(self.role_names):
            kind, place = kind_of(role)
            if one_digit and place == 1 and len(kind) == 1 and kind.isalpha():
                kind = "number"  # of a chain: its letter says which one, and so does its place
            codes[number] = names.setdefault(kind, len(names))
        codes[-1] = -1
        return tuple(names), codes[self.role]

    @cached_property
    def role_places(self) -> Ints:
        """The place of each token in its row [N, T + 1], by its role."""
        places = np.array([kind_of(role)[1] for role in self.role_names] + [0])
        return places[self.role]

    @property
    def place(self) -> Ints:
        """The place of every token itself [N, T + 1], 0 where it has none: as the model is told, where it is."""
        if "place" not in self.coordinates:
            return self.role_places
        about, own = self.coordinates["place"]
        return np.concatenate([own, about[:, -1:]], axis=1)

    @cached_property
    def coordinates(self) -> dict[str, tuple[Ints, Ints]]:
        """By axis: where each token's next one stands, and where it stands itself [N, T]."""
        notation, problems = self.model.format, self.gold.problems
        known = notation.axes(self.model.tasks, int(problems.num_operands.max()))
        wanted = [axis for axis in AXES if axis in known and OWN + axis in known]
        told = notation.coordinates(problems, self.gold.ids, (*wanted, *(OWN + axis for axis in wanted)))
        return {axis: (told[axis][:, :-1], told[OWN + axis][:, :-1]) for axis in wanted}

    # what is at them

    @cached_property
    def variables(self) -> Variables:
        """The numbers of the school algorithm behind each token, where it is known."""
        return variables_of(
            self.model.format, self.gold, self.role_names, self.role, self.role_places, self.counted
        )

    @cached_property
    def classes(self) -> dict[str, Bools]:
        """Which texts are of what class: of what task, with how long a chain of carries or borrows, or how many
        numbers; with a carry that is passed on, and with a negative answer. A text is of several of the last."""
        chains, found = carry_lengths(self.gold.problems), {}
        passed, negative = cascades(self.gold.problems), answer(self.gold.problems).negative
        for task, rows in by_task(self.gold.problems):
            mine = np.zeros(len(self), np.bool_)
            mine[rows] = True
            if task.one_digit or not chains[mine].any():
                counts = sizes(self.gold.problems)
                for count in np.unique(counts[mine]).tolist():
                    found[f"{task.name} of {plural(count, task.unit)}"] = mine & (counts == count)
                continue
            for length in range(MOST_CHAIN + 1):
                here = mine & (chains == length if length < MOST_CHAIN else chains >= length)
                more = " or more" * (length == MOST_CHAIN)
                if here.any():
                    found[f"{task.name}, chain of {length}{more}"] = here
            for name, some in (("a carry passed on", passed), ("negative answer", negative)):
                if 0 < (mine & some).sum() < mine.sum():
                    found[f"{task.name}, {name}"] = mine & some
        return found

    @cached_property
    def moments(self) -> dict[str, Bools]:
        """Behind which tokens [N, T] the numbers of the algorithm are known, by what these tokens are (and by their
        task, where several have such); the most frequent ones first."""
        known, found = self.variables.known, {}
        tasks = by_task(self.gold.problems)
        for code, name in enumerate(self.kind_names):
            here = known & (self.kind[:, :-1] == code)
            several = sum(bool(here[rows].any()) for _, rows in tasks) > 1
            for task, rows in tasks:
                mine = np.zeros_like(here)
                mine[rows] = here[rows]
                if mine.any():
                    found[f"{name} ({task.name})" if several else name] = mine
        return dict(sorted(found.items(), key=lambda pair: -int(pair[1].sum())))

    @property
    def targets(self) -> Tensor:
        """The tokens that come next (N, T)."""
        return torch.from_numpy(self.gold.ids[:, 1:].astype(np.int64)).to(self.model.device)


def draw(model: MathModel, examples: int, *, task: str = "", seed: int = 0, longest: int = LONGEST) -> Texts:
    """Texts of up to that many different problems, drawn as in training, of one task if it is named. What the model
    chooses itself to think stands in them as it writes it. Raises UsageError for a task that the model has not learned,
    and where all texts are too long to look into."""
    check_range("examples", examples, 1, MOST_EXAMPLES)
    tasks = {one.name: one for one in model.tasks}
    if task:
        check_choice("task", task, tuple(tasks))
    chosen = [tasks[task]] if task else model.tasks
    problems = sample(np.random.default_rng(seed), examples, chosen, sampling(model.data))
    _, first = np.unique(expressions(problems), return_index=True)
    gold, _ = model.fit(problems[np.sort(first)])
    gold = with_own_thoughts(model, gold)
    short = np.flatnonzero(gold.lengths <= longest)
    if len(short) == 0:
        raise UsageError(
            f"the texts of these problems have more than {longest:,} tokens",
            "inspect one problem: inspect 12+34",
        )
    kept = gold[short]
    width = int(kept.lengths.max())
    return Texts(
        model,
        Rendered(kept.problems, kept.ids[:, :width], kept.lengths, kept.prompt_lengths),
        len(gold) - len(short),
    )


def with_own_thoughts(model: MathModel, gold: Rendered) -> Rendered:
    """Where thoughts are the model's to choose, the texts with what it thinks in place of what stands there; answers
    stay the true ones."""
    if not model.format.counted:
        return gold
    written, parsed = model.complete(gold).ids, model.format.parse(gold.ids)
    column = np.arange(gold.ids.shape[1])
    inside = (column > parsed.thought_start[:, None]) & (column < parsed.thought_end[:, None] - 1)
    thought = pad_ids(written, len(column))[:, : len(column)]
    ids = np.where(inside & (thought < 10), thought, gold.ids)
    return Rendered(gold.problems, ids, gold.lengths, gold.prompt_lengths)
