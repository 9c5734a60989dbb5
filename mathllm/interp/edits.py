"""Edits of what a model computes, as values: put them together, run the model with them, and nothing stays behind.

    edit = Edit("blocks.0.attn.hook_z", 0.0, heads=[1])
    logits, cache = run(model, tokens, coordinates, edits=[edit], names=["blocks.*.hook_resid_post"])

What is put in place of a site's contents is a number or a tensor: 0, a mean by role (`means_by_role`), another text's
(`cache[site][rows]`). An edit of a site that the model has not, or that changes no place, is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mathllm.errors import UsageError
from mathllm.interp.forward import forward, matching, sites_of
from mathllm.interp.sites import DEAR, axes_of
from mathllm.model.transformer import Transformer

_HINT = "it has to hold for some token, head or neuron; mathllm/interp/sites.py has the axes of all sites"


@dataclass(frozen=True)
class Edit:
    """`value` in place of what `site` holds, at some `tokens` (B or 1, T), of some `heads` or `neurons`, or `where`
    (broadcast to what is there) that is true; what is left out is all. Where a site has queries and keys, tokens are
    the queries. The value broadcasts to what is there."""

    site: str
    value: Tensor | float
    _: KW_ONLY
    tokens: Tensor | None = None
    heads: Sequence[int] | None = None
    neurons: Sequence[int] | None = None
    where: Tensor | None = None

    def __call__(self, found: Tensor) -> Tensor:
        """Raises UsageError where it changes nothing, does not fit what is there, or is of heads or neurons that there
        are not."""
        try:
            return self.applied(found)
        except (RuntimeError, IndexError, ValueError) as error:
            shape = "x".join(map(str, found.shape))
            raise UsageError(
                f"an edit of {self.site} does not fit what is there, {shape}: {error}", _HINT
            ) from None

    def applied(self, found: Tensor) -> Tensor:
        mask = self.chosen(found)
        if self.where is not None:
            mask = mask & self.where.to(found.device, torch.bool)
        self.check(mask)
        return torch.where(mask, torch.as_tensor(self.value, dtype=found.dtype, device=found.device), found)

    def check(self, mask: Tensor) -> None:
        """Raises UsageError for a mask that is true nowhere."""
        if not mask.any():
            raise UsageError(f"an edit of {self.site} changes nothing", _HINT)

    def chosen(self, found: Tensor) -> Tensor:
        """Where the tokens, heads and neurons are, broadcast to what is there."""
        axes = axes_of(self.site)
        mask = torch.ones([1] * len(axes), dtype=torch.bool, device=found.device)
        if self.tokens is not None:
            tokens = self.tokens.to(found.device, torch.bool)
            width = (tokens.shape[1] if axis == "T" else 1 for axis in axes[1:])
            mask = mask & tokens.view(len(tokens), *width)
        for kind, letters, chosen in (("heads", "HK", self.heads), ("neurons", "F", self.neurons)):
            if chosen is None:
                continue
            along = next((number for number, axis in enumerate(axes) if axis in letters), None)
            if along is None or not all(0 <= one < found.shape[along] for one in chosen):
                raise UsageError(f"{self.site} has no {kind} {', '.join(map(str, chosen))}", _HINT)
            some = torch.zeros(found.shape[along], dtype=torch.bool, device=found.device)
            some[list(chosen)] = True
            mask = mask & some.view(-1, *[1] * (len(axes) - along - 1))
        return mask


@dataclass(frozen=True)
class KeepEdges(Edit):
    """A pattern along the edges `where` that is true alone, of the tokens and heads chosen: each query's weights are
    made 1 in all again, or `value` where it has none of these edges."""

    def applied(self, found: Tensor) -> Tensor:
        chosen = self.chosen(found)
        self.check(chosen)
        where = torch.ones_like(chosen) if self.where is None else self.where.to(found.device, torch.bool)
        kept = found * where
        total = kept.sum(-1, keepdim=True)
        nothing = torch.as_tensor(self.value, dtype=found.dtype, device=found.device)
        shared = kept / total.clamp_min(torch.finfo(found.dtype).tiny)
        return torch.where(chosen, torch.where(total > 0, shared, nothing), found)


def run(
    model: Transformer,
    tokens: Tensor,
    coordinates: Mapping[str, Tensor] | None = None,
    *,
    edits: Iterable[Edit] = (),
    names: str | Iterable[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (B, T, V) under edits, and what is at the sites that the names, or patterns, stand for: after the edits
    there. Raises UsageError for a site that the model has not."""
    by_site: dict[str, list[Edit]] = {}
    for edit in edits:
        by_site.setdefault(edit.site, []).append(edit)
    wanted, sites = set(matching(model, names)), sites_of(model)
    for site in by_site:
        if site not in sites:
            raise UsageError(
                f"this model has no site {site!r} to edit", "an edit is of one site, by its whole name"
            )
    cache: dict[str, Tensor] = {}

    def tap(name: str, tensor: Tensor) -> Tensor:
        for edit in by_site.get(name, ()):
            tensor = edit(tensor)
        if name in wanted:
            cache[name] = tensor
        return tensor

    dear = any(name.endswith(DEAR) for name in (*wanted, *by_site))
    return forward(model, tokens, coordinates, tap=tap, dear=dear), cache


def means_by_role(found: Tensor, roles: Tensor, count: int) -> Tensor:
    """The mean of what a site holds (B, T, ...) over all tokens of one role, at each token (B, T, ...); `roles` (B, T)
    are numbers below `count`, or -1 for tokens that do not count."""
    flat, codes = found.flatten(0, 1), roles.flatten() + 1
    totals = flat.new_zeros(count + 1, *flat.shape[1:]).index_add_(0, codes, flat)
    numbers = torch.bincount(codes, minlength=count + 1).clamp_min(1)
    means = totals / numbers.view(-1, *[1] * (flat.ndim - 1))
    return means[codes].view_as(found)
