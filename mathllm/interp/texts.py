"""The explicit forward pass over texts as they should be, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.errors import UsageError
from mathllm.formats import ALLOWED, Format, Rendered, Walk
from mathllm.formats.roles import Roles, roles
from mathllm.inference.engine import as_tensors
from mathllm.inference.scoring import gold_lead
from mathllm.interp.edits import Edit, run
from mathllm.model.transformer import Transformer
from mathllm.tasks.numbers import Bools

MOST_BYTES = 1 << 31  # of the scores of all heads and layers


@dataclass(frozen=True)
class Run:
    """Texts [N, T + 1] with the true completions, logits (N, T, V) behind each token but the last, and the `cache`:
    what is at the sites that were asked for, by name (see mathllm/interp/sites.py). Where the format allows one kind
    of token alone the others have -inf."""

    format: Format
    gold: Rendered
    logits: Tensor
    cache: dict[str, Tensor]

    @cached_property
    def roles(self) -> Roles:
        """What each token is."""
        return roles(self.format, self.gold)

    @cached_property
    def leads(self) -> Tensor:
        """By how much the logit of the token that comes next is ahead of all others (N, T)."""
        return gold_lead(
            self.logits, torch.from_numpy(self.gold.ids[:, 1:].astype(np.int64)).to(self.logits.device)
        )

    @property
    def counted(self) -> Bools:
        """Behind which tokens [N, T] one of the completion comes."""
        return self.gold.loss_mask[:, 1:]

    @property
    def right(self) -> Bools:
        """Which texts [N] greedy decoding would write, to the last token."""
        leads: NDArray[np.float32] = self.leads.cpu().numpy()
        return np.asarray(((leads > 0) | ~self.counted).all(1))


def run_texts(
    model: Transformer,
    notation: Format,
    gold: Rendered,
    *,
    edits: Iterable[Edit] = (),
    names: str | Iterable[str] = (),
) -> Run:
    """Runs the model over texts. Raises as `edits.run` does."""
    rows, length = gold.ids.shape
    scores = 4 * model.depth * model.heads * rows * length**2
    if scores > MOST_BYTES:
        raise UsageError(
            f"the scores of {rows:,} texts of {length:,} tokens take {scores / 2**30:.1f} GiB",
            "ask for fewer, or shorter ones",
        )
    device = model.embedding.weight.device
    walk = Walk(notation, gold.problems, model.axes)
    told = walk.read(gold.ids[:, :-1]) if walk.axes or walk.restricts else {}
    ids = torch.from_numpy(gold.ids[:, :-1].astype(np.int64)).to(device)
    logits, cache = run(model, ids, as_tensors(told, device), edits=edits, names=names)
    if walk.restricts:
        logits = logits.masked_fill(~torch.from_numpy(ALLOWED[walk.choices]).to(device), -torch.inf)
    return Run(notation, gold, logits, cache)
