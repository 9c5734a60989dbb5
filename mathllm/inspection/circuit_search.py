"""The search for a circuit: which nodes are kept, what stands for the others, and which problems have to stay right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import NOTHING, Count
from mathllm.evaluation.exact_match import Progress
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.formats import Rendered
from mathllm.inference.scoring import gold_lead
from mathllm.inference.texts import pad_ids
from mathllm.inspection.ablation import others
from mathllm.inspection.texts import Texts
from mathllm.interp.edits import Edit, means_by_role
from mathllm.interp.texts import run_texts
from mathllm.tasks import Problems, concatenate
from mathllm.tasks.numbers import Bools, Ints

BATCH = 256  # texts of a pass
CHECKED = 1 << 12  # problems that are checked before it is looked whether some are wrong
ENOUGH = 256  # wrong ones with which the circuit is mended
GONE = 16  # nodes that go until some pairs are tried
PARTS, TRIED = 512, 16  # parts of all pairs that are tried then, and pairs in a row in each


@dataclass(frozen=True)
class Nodes:
    """Which nodes are kept: heads [layer, head, role] and neurons [layer, neuron]."""

    heads: Bools
    neurons: Bools

    @property
    def flat(self) -> Bools:
        return np.concatenate([self.heads.ravel(), self.neurons.ravel()])

    def __str__(self) -> str:
        return f"{self.heads.sum():,} heads behind roles and {self.neurons.sum():,} neurons"

    def with_flat(self, flat: Bools) -> Nodes:
        split = self.heads.size
        return Nodes(flat[:split].reshape(self.heads.shape), flat[split:].reshape(self.neurons.shape))


@dataclass
class Search:
    """The pool of problems that a circuit has to be right on, and the means that stand for what is left out."""

    texts: Texts
    right: Bools
    say: Callable[[str], None]
    pool: Rendered = field(init=False)

    def __post_init__(self) -> None:
        texts, self.rng = self.texts, np.random.default_rng(0)
        self.pool = texts.gold[np.flatnonzero(self.right)]
        model = texts.model.model
        self.z = [f"blocks.{layer}.attn.hook_z" for layer in range(texts.depth)]
        self.post = [f"blocks.{layer}.mlp.hook_post" for layer in range(texts.depth)]
        clean = texts.run((), [*self.z, *self.post])
        count = len(texts.role_names)
        role = torch.from_numpy(texts.role[:, :-1]).to(texts.model.device)
        # by role [role, ...]: what stands for a head, or a neuron, that is left out
        self.means = {name: _by_role(held, role, count) for name, held in clean.cache.items()}
        occurs = np.zeros(count, np.bool_)
        occurs[np.unique(texts.role[:, :-1][texts.there])] = True
        heads = np.broadcast_to(occurs, (texts.depth, model.heads, count)).copy()
        neurons = np.ones((texts.depth, clean.cache[self.post[0]].shape[-1]), np.bool_)
        self.everything = Nodes(heads, neurons)
        self.names = {name: code for code, name in enumerate(texts.role_names)}

    # passes

    def edits(self, role: Tensor, kept: Nodes, values: Mapping[str, Tensor] | None = None) -> list[Edit]:
        """Role means, or these values (B, T, ...), in the place of what is not kept, in texts whose tokens have these
        roles (B, T)."""
        found, known = [], role >= 0
        at = role.clamp_min(0)
        for layer, name in enumerate(self.z):
            left_out = (
                ~torch.from_numpy(kept.heads[layer]).T.to(role.device)[at] & known[..., None]
            )  # (B, T, H)
            if left_out.any():
                found.append(
                    Edit(name, values[name] if values else self.means[name][at], where=left_out[..., None])
                )
        for layer, name in enumerate(self.post):
            left_out = ~torch.from_numpy(kept.neurons[layer])[None, None].to(role.device) & known[..., None]
            if left_out.any():
                found.append(Edit(name, values[name] if values else self.means[name][at], where=left_out))
        return found

    def leads(self, gold: Rendered, kept: Nodes) -> NDArray[np.float32]:
        """The smallest lead of each text with what is kept alone."""
        found = np.zeros(len(gold), np.float32)
        order = np.argsort(gold.lengths, kind="stable")
        for start in range(0, len(gold), BATCH):
            rows = order[start : start + BATCH]
            part = gold[rows]
            part = replace(part, ids=part.ids[:, : int(part.lengths.max())])
            texts = Texts(self.texts.model, part)
            run = texts.run(self.edits(self.roles_of(texts), kept))
            found[rows] = np.where(texts.counted, run.leads.cpu().numpy(), np.inf).min(1)
        return np.where(np.isnan(found), -np.inf, found)  # what is no number is not right

    def roles_of(self, texts: Texts) -> Tensor:
        """The roles of tokens (B, T), by the numbers that they have here."""
        unknown = [name for name in texts.role_names if name not in self.names]
        if unknown:
            what = f"no text of the sample has a token like {unknown[0]!r}, whose mean would be needed"
            raise UsageError(what, "give more --examples, or a smaller --exhaustive")
        codes = np.array([self.names[name] for name in texts.role_names] + [-1])
        known = np.where(texts.there, codes[texts.role[:, :-1]], -1)
        return torch.from_numpy(known).to(texts.model.device)

    def check_roles(self, pairs: AllPairs) -> None:
        """Raises UsageError where some of a spread of these problems have tokens whose role is not known here."""
        for start in np.linspace(0, max(0, len(pairs) - BATCH), 16).astype(int).tolist():
            self.roles_of(Texts(self.texts.model, self.texts.model.render(pairs[start : start + BATCH])))

    def resampled(self, kept: Nodes) -> Count:
        """How many of the sample are right with what other texts hold, behind tokens of the same role, in the rest."""
        if not self.right.any():
            return NOTHING
        texts = self.texts.among(np.flatnonzero(self.right))
        role = self.roles_of(texts)
        donors = torch.from_numpy(others(role.cpu().numpy(), np.random.default_rng(0))).to(role.device)
        clean = texts.run((), [*self.z, *self.post]).cache
        values = {name: held.flatten(0, 1)[donors.flatten()].view_as(held) for name, held in clean.items()}
        return Count.of(texts.run(self.edits(role, kept, values)).right)

    def holds(self, kept: Nodes) -> bool:
        """Is all of the pool right with what is kept? The problems that were weakest last come first."""
        for start in range(0, len(self.pool), BATCH):
            part = self.pool[np.arange(start, min(start + BATCH, len(self.pool)))]
            leads = self.leads(part, kept)
            if (leads <= 0).any():
                self.forward(start + np.flatnonzero(leads <= 0))
                return False
        return True

    def forward(self, rows: Ints) -> None:
        """Brings problems to the front of the pool: who was wrong once is soon wrong again."""
        rest = np.setdiff1d(np.arange(len(self.pool)), rows)
        self.pool = self.pool[np.concatenate([rows, rest])]

    # what can go

    def bisected(self, kept: Nodes) -> Nodes:
        """What is left when as much goes at once as can, by gradients; and again, by those in what is left."""
        while True:
            before = int(kept.flat.sum())
            kept = self.pruned(kept, self.scores(kept))
            after = int(kept.flat.sum())
            self.say(str(kept))
            if after > 0.97 * before:
                return kept

    def pruned(self, kept: Nodes, scores: NDArray[np.float64]) -> Nodes:
        """Without as many of the kept nodes with the lowest scores as can go at once."""
        nodes = np.flatnonzero(kept.flat)
        nodes = nodes[np.argsort(scores[nodes], kind="stable")]
        low, high = 0, len(nodes)  # so many can go, and cannot
        while high - low > max(1, low // 50):
            middle = (low + high + 1) // 2
            if self.holds(self.without(kept, nodes[:middle])):
                low = middle
            else:
                high = middle - 1 if middle == high else middle
        return self.without(kept, nodes[:low])

    def one_by_one(self, kept: Nodes, pairs: AllPairs | None = None) -> Nodes:
        """Without the nodes that can go one after the other, those of the lowest scores first, until each is needed. Of
        all pairs some are tried now and then, as a pool alone would be learned by heart: where these are wrong, they
        join it, and what has gone since the last time comes back (and more, if that was wrong already)."""
        while True:
            scores, nodes, step, at = self.scores(kept), np.flatnonzero(kept.flat), 8, 0
            before, nodes = kept, nodes[np.argsort(scores[nodes], kind="stable")]
            sure, began = kept, 0  # what has been tried so, and where it was
            while at < len(nodes):
                some = nodes[at : at + step]
                if self.holds(self.without(kept, some)):
                    kept, at, step = self.without(kept, some), at + len(some), min(64, step * 2)
                elif step == 1:
                    at, step = at + 1, 2
                else:
                    step = max(1, step // 2)
                gone = int(sure.flat.sum() - kept.flat.sum())
                if pairs is not None and gone and (gone >= GONE or at >= len(nodes)):
                    if self.refuted(kept, pairs):
                        sure = sure if self.holds(sure) else self.grown(sure)
                        kept, at, step = sure, began, max(1, gone // 4)
                    else:
                        sure, began = kept, at
            self.say(f"{kept}, after each was tried to be left out, on {len(self.pool):,} problems")
            if (kept.flat == before.flat).all():
                return kept

    def without(self, kept: Nodes, nodes: Ints) -> Nodes:
        flat = kept.flat.copy()
        flat[nodes] = False
        return kept.with_flat(flat)

    def scores(self, kept: Nodes) -> NDArray[np.float64]:
        """About how much of the lead each node's absence would cost, by gradients in what is left: for every text where
        it costs most."""
        total = np.zeros(kept.flat.shape)
        part = self.pool[np.arange(min(2 * BATCH, len(self.pool)))]
        for start in range(0, len(part), BATCH // 2):
            rows = part[np.arange(start, min(start + BATCH // 2, len(part)))]
            texts = Texts(self.texts.model, rows)
            total = np.maximum(total, self._scores(texts, kept).numpy())
        return total

    def _scores(self, texts: Texts, kept: Nodes) -> Tensor:
        role = self.roles_of(texts)
        with torch.enable_grad():
            run = run_texts(
                texts.model.model,
                texts.model.format,
                texts.gold,
                edits=self.edits(role, kept),
                names=[*self.z, *self.post],
            )
            leads = gold_lead(run.logits, texts.targets)
            loss = leads.clamp_max(20)[torch.from_numpy(texts.counted).to(leads.device)].sum()
            gradients = torch.autograd.grad(loss, list(run.cache.values()))
        at, known = role.clamp_min(0), role >= 0
        heads = torch.zeros(len(self.z), self.everything.heads.shape[1], self.everything.heads.shape[2])
        neurons = []
        count = len(self.names)
        for (name, held), gradient in zip(run.cache.items(), gradients, strict=True):
            cost = (held.detach() - self.means[name][at]) * gradient
            if name in self.z:
                worth = cost.sum(-1) * known[..., None]  # (B, T, H)
                flat = worth.new_zeros(count, worth.shape[-1]).scatter_reduce_(
                    0, at.flatten()[:, None].expand(-1, worth.shape[-1]), worth.flatten(0, 1).abs(), "amax"
                )
                heads[self.z.index(name)] = flat.T.cpu()
            else:
                neurons.append((cost * known[..., None]).sum(1).abs().amax(0).cpu())
        return torch.cat([heads.flatten(), *neurons]).double()

    # counterexamples

    def wrong(self, pairs: AllPairs, kept: Nodes, progress: Progress | None) -> tuple[Problems, int, int]:
        """Problems among all pairs that are wrong with what is kept, and right with everything: the first ENOUGH, in an
        order that mixes them; how many were tried, and how many of them the model itself gets wrong."""
        found, tried, missed = [], 0, 0
        for start in np.random.default_rng(0).permutation(np.arange(0, len(pairs), CHECKED)).tolist():
            problems = pairs[start : start + CHECKED]
            wrong = problems[np.flatnonzero(self.leads(self.texts.model.render(problems), kept) <= 0)]
            if len(wrong):
                own = self.leads(self.texts.model.render(wrong), self.everything) > 0
                missed += int((~own).sum())
                found.append(wrong[np.flatnonzero(own)])
            tried += len(problems)
            if progress is not None:
                progress(tried, len(pairs))
            if sum(map(len, found)) >= ENOUGH:
                break
        return concatenate(found), tried, missed

    def refuted(self, kept: Nodes, pairs: AllPairs) -> bool:
        """Whether some pairs, drawn anew, are wrong with what is kept and right with everything; they join the pool."""
        parts = -(-len(pairs) // TRIED)
        starts = TRIED * self.rng.choice(parts, min(PARTS, parts), replace=False)
        problems = concatenate([pairs[start : start + TRIED] for start in starts.tolist()])
        wrong = problems[np.flatnonzero(self.leads(self.texts.model.render(problems), kept) <= 0)]
        own = self.leads(self.texts.model.render(wrong), self.everything) > 0
        if not own.any():
            return False
        self.learn(wrong[np.flatnonzero(own)])
        return not self.holds(kept)  # wrong by the last bits of floats alone, it would be tried for ever

    def learn(self, wrong: Problems) -> None:
        """Takes problems into the pool, as the first that are tried."""
        fresh, old = self.texts.model.render(wrong), self.pool
        width = max(fresh.ids.shape[1], old.ids.shape[1])
        self.pool = Rendered(
            concatenate([fresh.problems, old.problems]),
            np.concatenate([pad_ids(fresh.ids, width), pad_ids(old.ids, width)]),
            np.concatenate([fresh.lengths, old.lengths]),
            np.concatenate([fresh.prompt_lengths, old.prompt_lengths]),
        )

    def grown(self, kept: Nodes) -> Nodes:
        """With nodes that come back, by their scores, until all of the pool is right."""
        absent = np.flatnonzero(self.everything.flat & ~kept.flat)
        scores = self.scores(self.everything)
        absent = absent[np.argsort(-scores[absent], kind="stable")]
        low, high = 0, len(absent)
        while high - low > 1:
            middle = (low + high) // 2
            flat = kept.flat.copy()
            flat[absent[:middle]] = True
            low, high = (low, middle) if self.holds(kept.with_flat(flat)) else (middle, high)
        flat = kept.flat.copy()
        flat[absent[:high]] = True
        return kept.with_flat(flat)


def _by_role(held: Tensor, role: Tensor, count: int) -> Tensor:
    """The mean of what a site holds (B, T, ...) by role (count, ...)."""
    means = means_by_role(held, role, count)
    found = held.new_zeros(count, *held.shape[2:])
    known = role >= 0
    found[role[known]] = means[known]
    return found
