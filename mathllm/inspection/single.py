"""One problem, token by token: what the model would say at every depth, where its heads look, and what each part
writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mathllm.formats import Rendered
from mathllm.inspection.lens import attribution_of, logits_of, streams_of
from mathllm.inspection.texts import Texts
from mathllm.math_model import MathModel
from mathllm.tokenizer import TOKENS

SHOWN = 3  # keys of a head


@dataclass(frozen=True)
class Token:
    """A token of the completion: what it is, with what lead it is said (below 0: another one is), what the lens says
    at every site of the residual stream, what each head looks at most, and what each part writes for its lead."""

    token: str
    role: str
    lead: float
    lens: tuple[str, ...]
    looks_at: dict[str, tuple[tuple[str, float], ...]]
    written: dict[str, float]


@dataclass(frozen=True)
class Inspected:
    """A problem with its true text, and each token of the completion."""

    problem: str
    text: str
    sites: tuple[str, ...]
    tokens: tuple[Token, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "problem": self.problem,
            "text": self.text,
            "sites": list(self.sites),
            "tokens": [vars(token) for token in self.tokens],
        }


@torch.inference_mode()
def inspect_one(model: MathModel, problem: str) -> Inspected:
    """What happens inside while the model reads a problem with its true working and answer; thoughts of its own stand
    there as it writes them. Raises as MathModel.ask does."""
    gold = model.ask(problem)
    if model.format.counted:
        written = model.complete(gold)
        gold = Rendered(gold.problems, written.ids, written.lengths, gold.prompt_lengths)
    texts = Texts(model, gold)
    streams = streams_of(texts.depth)
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(texts.depth)]
    results = [f"blocks.{layer}.attn.hook_result" for layer in range(texts.depth)]
    outs = [f"blocks.{layer}.hook_mlp_out" for layer in range(texts.depth)]
    names = ["hook_embed", "hook_pos_embed", "ln_final.hook_scale", *streams, *patterns, *results, *outs]
    run = texts.run((), names)
    counted = torch.from_numpy(texts.counted).to(run.logits.device)
    parts, toward = attribution_of(model.model, run, counted, texts.targets[counted])
    forbidden = run.logits[0].isneginf()
    said = [
        [
            TOKENS[token]
            for token in logits_of(model.model, run.cache[site][0])
            .masked_fill(forbidden, -torch.inf)
            .argmax(-1)
            .tolist()
        ]
        for site in streams
    ]
    tokens = []
    for place, column in enumerate(texts.counted[0].nonzero()[0].tolist()):
        looks = {}
        for layer, name in enumerate(patterns):
            for head, weights in enumerate(run.cache[name][0, :, column]):
                top = weights.topk(min(SHOWN, column + 1))
                looks[f"L{layer}H{head}"] = tuple(
                    (texts.role_names[texts.role[0, key]], float(weight))
                    for key, weight in zip(top.indices.tolist(), top.values, strict=True)
                )
        tokens.append(
            Token(
                TOKENS[int(gold.ids[0, column + 1])],
                texts.role_names[texts.role[0, column + 1]],
                float(run.leads[0, column]),
                tuple(line[column] for line in said),
                looks,
                {name: float((part[place] * toward[place]).sum()) for name, part in parts},
            )
        )
    (text,) = model.format.texts(gold.problems, gold.ids, gold.lengths)
    return Inspected(problem, text, tuple(streams), tuple(tokens))
