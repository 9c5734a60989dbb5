"""One problem, token by token: what the model would say at every depth, where its heads look, and what each part
writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mathllm.inspection.lens import attribution_of, logits_of, streams_of
from mathllm.inspection.texts import Texts, with_own_thoughts
from mathllm.interp.texts import Run
from mathllm.math_model import MathModel
from mathllm.tokenizer import TOKENS

SHOWN = 3  # keys of a head


@dataclass(frozen=True)
class Token:
    """A token of the completion: what it is, with what lead it is said (below 0 another one is; None where no other is
    allowed), what the lens says at every site of the residual stream, what each head looks at most, and what each part
    writes for its lead."""

    token: str
    role: str
    lead: float | None
    lens: tuple[str, ...]
    looks_at: dict[str, tuple[tuple[str, float], ...]]
    written: dict[str, float]


@dataclass(frozen=True)
class Inspected:
    """A problem with its true text, whether the model would write that, and each token of the completion."""

    problem: str
    text: str
    right: bool
    sites: tuple[str, ...]
    tokens: tuple[Token, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "tokens": [vars(token) for token in self.tokens]}


@torch.inference_mode()
def inspect_one(model: MathModel, problem: str) -> Inspected:
    """What happens inside while the model reads a problem with its true working and answer; thoughts of its own stand
    there as it writes them. Raises as MathModel.ask does."""
    texts = Texts(model, with_own_thoughts(model, model.ask(problem)))
    streams = streams_of(texts.depth)
    names = ["hook_embed", "hook_pos_embed", "ln_final.hook_scale", *streams]
    for layer in range(texts.depth):
        names += [
            f"blocks.{layer}.{part}" for part in ("attn.hook_pattern", "attn.hook_result", "hook_mlp_out")
        ]
    run = texts.run((), names)
    counted = torch.from_numpy(texts.counted).to(run.logits.device)
    parts, toward = attribution_of(model.model, run, counted, texts.targets[counted])
    lens, columns = _lens(model, run, streams), texts.counted[0].nonzero()[0].tolist()
    tokens = []
    for place, column in enumerate(columns):
        lead = float(run.leads[0, column])
        alone = lead == float("inf")
        tokens.append(
            Token(
                TOKENS[int(texts.gold.ids[0, column + 1])],
                texts.role_names[texts.role[0, column + 1]],
                None if alone else lead,
                tuple(line[column] for line in lens),
                _looks(texts, run, column),
                {} if alone else {name: float((part[place] * toward[place]).sum()) for name, part in parts},
            )
        )
    (text,) = model.format.texts(texts.gold.problems, texts.gold.ids, texts.gold.lengths)
    return Inspected(problem, text, bool(run.right[0]), tuple(streams), tuple(tokens))


def _lens(model: MathModel, run: Run, streams: list[str]) -> list[list[str]]:
    """What would be said behind each token if the model ended at a site."""
    forbidden = run.logits[0].isneginf()
    found = []
    for site in streams:
        logits = logits_of(model.model, run.cache[site][0]).masked_fill(forbidden, -torch.inf)
        found.append([TOKENS[token] for token in logits.argmax(-1).tolist()])
    return found


def _looks(texts: Texts, run: Run, column: int) -> dict[str, tuple[tuple[str, float], ...]]:
    """By head, the tokens with the largest weights, by their roles."""
    found = {}
    for layer in range(texts.depth):
        for head, weights in enumerate(run.cache[f"blocks.{layer}.attn.hook_pattern"][0, :, column]):
            top = weights.topk(min(SHOWN, column + 1))
            keys = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            found[f"L{layer}H{head}"] = tuple(
                (texts.role_names[texts.role[0, key]], weight) for key, weight in keys
            )
    return found
