"""What each part writes towards the next token.

The logit lens asks of the residual stream at every site what would be said if the model ended there (nostalgebraist,
2020; the final norm is applied, no other map is fitted). Direct attribution splits the lead of the right token over the
next best one into what every head, every feed-forward layer and the embedding have written for it, with the final
norm's scale of the same run. Later parts may erase what earlier ones wrote (arXiv 2310.07325): where a part writes
against what is there already, the cosine with it says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mathllm.evaluation.breakdown import Count
from mathllm.flags import listed
from mathllm.inspection.claims import RIGHT, Claim
from mathllm.inspection.texts import Texts
from mathllm.interp.texts import Run
from mathllm.model.transformer import Transformer
from mathllm.percent import percent

ERASES = -0.5  # cosine of what is written with what is there, below which it takes away


@dataclass(frozen=True)
class Written:
    """What a part adds to the lead of the right token, in logits, on average over predictions; and the cosine of what
    it writes with the residual stream before it."""

    part: str
    lead: float
    cosine: float


@dataclass(frozen=True)
class Lens:
    """At each site of the residual stream, for each kind of next token, how many would be right already. `rest` is what
    of the lead no part has (a norm's shift)."""

    before: Count
    sites: tuple[str, ...]
    right: dict[str, tuple[Count, ...]]
    written: tuple[Written, ...]
    lead: float
    rest: float

    def total(self, site: int) -> Count:
        """Right at a site over all kinds of tokens."""
        return sum((counts[site] for counts in self.right.values()), Count(0, 0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "sites": list(self.sites),
            "right_by_next_token": {
                kind: [count.exact_match for count in counts] for kind, counts in self.right.items()
            },
            "predictions_by_next_token": {
                kind: counts[0].num_examples for kind, counts in self.right.items()
            },
            "mean_lead": self.lead,
            "written": [{"part": one.part, "lead": one.lead, "cosine": one.cosine} for one in self.written],
            "written_by_no_part": self.rest,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "lens_kinds": np.array(list(self.right)),
            "lens_sites": np.array(self.sites),
            "lens_right": np.array([[c.exact_match for c in counts] for counts in self.right.values()]),
            "written_parts": np.array([one.part for one in self.written]),
            "written_lead": np.array([one.lead for one in self.written]),
        }

    def claims(self) -> list[Claim]:
        if self.before.exact_match < RIGHT:
            return []
        totals = [self.total(number) for number in range(len(self.sites))]
        decided = next(
            n for n, count in enumerate(totals) if count.exact_match >= 0.99 * totals[-1].exact_match
        )
        most = max(self.written, key=lambda one: one.lead)
        found = [
            Claim(
                f"{most.part} writes more of the lead of the right token than any other part",
                f"{most.lead:.1f} of {self.lead:.1f} logits on average (direct attribution)",
                "read",
            )
        ]
        if 0 < decided < len(totals) - 1:  # at the end it can be read of any model that is right
            before = f"{percent(totals[decided - 1].exact_match)} at {self.sites[decided - 1]}"
            evidence = (
                f"{percent(totals[decided].exact_match)} of {totals[0].num_examples:,} tokens there, {before}"
            )
            text = f"the next token can be read off the residual stream at {self.sites[decided]} (logit lens)"
            found.append(Claim(text, evidence, "read"))
        erasing = [one.part for one in self.written if one.cosine < ERASES]
        if erasing:
            evidence = (
                "cosine with the stream before it below "
                + f"{ERASES}: attribution counts what is erased later, too"
            )
            found.append(
                Claim(f"what {listed(erasing, 'and')} writes points against what is there", evidence, "read")
            )
        return found


@torch.inference_mode()
def measure(texts: Texts) -> Lens:
    """The lens and the attribution over all predictions of the texts, but for tokens that are the only ones allowed."""
    model = texts.model.model
    stream = streams_of(texts.depth)
    names = ["hook_embed", "hook_pos_embed", "ln_final.hook_scale", *stream]
    for layer in range(texts.depth):
        names += [f"blocks.{layer}.attn.hook_result", f"blocks.{layer}.hook_mlp_out"]
    run = texts.run((), names)
    counted = torch.from_numpy(texts.counted).to(run.logits.device) & run.leads.isfinite()
    target, forbidden = texts.targets[counted], run.logits[counted].isneginf()
    kinds = texts.kind[:, 1:][counted.cpu().numpy()]
    said = (logits_of(model, run.cache[site][counted]).masked_fill(forbidden, -torch.inf) for site in stream)
    hit = np.stack([logits.argmax(-1).eq(target).cpu().numpy() for logits in said])
    right = {
        texts.kind_names[kind]: tuple(Count.of(hit[site, kinds == kind]) for site in range(len(stream)))
        for kind in np.unique(kinds).tolist()
    }
    written, lead, rest = attribution(model, run, counted, target)
    return Lens(Count.of(run.right), tuple(stream), right, tuple(written), lead, rest)


def streams_of(depth: int) -> list[str]:
    """The residual stream before, between and behind the parts of all blocks."""
    return [
        "blocks.0.hook_resid_pre",
        *(f"blocks.{layer}.hook_resid_{part}" for layer in range(depth) for part in ("mid", "post")),
    ]


def logits_of(model: Transformer, stream: Tensor) -> Tensor:
    """What the model would say if the residual stream (..., C) were final: logits (..., V)."""
    logits: Tensor = model.final_norm(stream) @ unembedding(model).T
    return logits


def unembedding(model: Transformer) -> Tensor:
    """The directions of tokens (V, C)."""
    head = model.embedding if model.head is None else model.head
    return head.weight


def attribution(
    model: Transformer, run: Run, counted: Tensor, target: Tensor
) -> tuple[list[Written], float, float]:
    """What every part adds to the lead of the target over the next best token, on average over the tokens that count;
    the mean lead; and what of it no part has."""
    parts, toward = attribution_of(model, run, counted, target)
    lead = float(run.leads[counted].mean())
    written, stream = [], None
    for name, part in parts:
        cosine = 0.0 if stream is None else float(torch.cosine_similarity(part, stream, dim=-1).mean())
        written.append(Written(name, float((part * toward).sum(-1).mean()), cosine))
        stream = part if stream is None else stream + part
    return written, lead, lead - sum(one.lead for one in written)


def attribution_of(
    model: Transformer, run: Run, counted: Tensor, target: Tensor
) -> tuple[list[tuple[str, Tensor]], Tensor]:
    """What every part writes at the M tokens that count (M, C), and the direction of the target's lead over the next
    best token there (M, C): a part adds their product, summed over channels."""
    logits = run.logits[counted]
    best = logits.scatter(-1, target[:, None], -torch.inf).argmax(-1)
    directions = unembedding(model)
    toward = (directions[target] - directions[best]) * cast(Tensor, model.final_norm.weight)
    if isinstance(model.final_norm, nn.LayerNorm):
        toward = toward - toward.mean(-1, keepdim=True)
    return parts_of(run, counted, model), toward / run.cache["ln_final.hook_scale"][counted]


def parts_of(run: Run, counted: Tensor, model: Transformer) -> list[tuple[str, Tensor]]:
    """What each part writes at the tokens that count (M, C), in the order of the pass."""
    embedding = run.cache["hook_embed"][counted] + run.cache["hook_pos_embed"][counted]
    found = []
    for layer in range(model.depth):
        if layer % len(model.blocks) == 0:  # every repetition sees it again
            found.append(("embedding" if layer == 0 else f"embedding, before L{layer}", embedding))
        heads = run.cache[f"blocks.{layer}.attn.hook_result"][counted]
        found += [(f"L{layer}H{head}", heads[:, head]) for head in range(heads.shape[1])]
        found.append((f"L{layer}MLP", run.cache[f"blocks.{layer}.hook_mlp_out"][counted]))
    return found
