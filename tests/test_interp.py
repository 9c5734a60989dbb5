"""The explicit forward pass: the model's own logits, every site under its name, and edits that do what they say."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import ADDSUB, OWN_THOUGHTS
from test_model import TINY, awake, some_ids, told

from mathllm.checkpoint import load_checkpoint
from mathllm.errors import UsageError
from mathllm.interp.edits import Edit, KeepEdges, means_by_role, run
from mathllm.interp.forward import matching, sites_of
from mathllm.interp.sites import ALL, axes_of
from mathllm.model.transformer import ACTIVATIONS, Transformer
from mathllm.registry import POSITIONS

SCHEMES = [*POSITIONS, "coupled+rope", "abacus+fire", "coupled-bias+alibi"]
SHAPES = [
    {"activation": activation, "norm": norm, "kv_heads": kv_heads, "loops": loops}
    for activation, norm, kv_heads, loops in itertools.product(
        ACTIVATIONS, ("rmsnorm", "layernorm"), (0, 2), (1, 2)
    )
]


def model_of(**changes: object) -> Transformer:
    return awake(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize("position", SCHEMES)
def test_it_computes_what_the_model_computes(position: str) -> None:
    ids = some_ids()
    for shape in SHAPES:
        for more in ({}, {"qk_norm": False, "tie_embeddings": True}):
            model = model_of(position=position, **shape, **more)
            own = model(ids, told(model, ids))
            explicit, cache = run(model, ids, told(model, ids), names="*")
            assert (explicit - own).abs().max() <= 1e-5 * own.abs().max()
            assert list(cache) == sites_of(model)
    explicit, cache = run(model, ids, told(model, ids), names=())
    assert (explicit - own).abs().max() <= 1e-5 * own.abs().max()
    assert cache == {}


@pytest.mark.parametrize(
    "changes", [{}, {"position": "coupled-bias"}, {"activation": "swiglu", "kv_heads": 2}, {"loops": 2}]
)
def test_every_site_has_the_shape_that_its_axes_say(changes: dict[str, object]) -> None:
    model, ids = model_of(**changes), some_ids()
    sizes = {"B": 3, "T": 12, "S": 12, "H": 4, "K": model.kv_heads, "D": 4, "C": 16, "F": 24, "1": 1}
    _, cache = run(model, ids, told(model, ids), names="*")
    for name, found in cache.items():
        assert list(found.shape) == [sizes[axis] for axis in axes_of(name)]
    assert {name.split(".", 2)[2] if name.startswith("blocks") else name for name in cache} <= set(ALL)
    assert ("blocks.0.attn.hook_bias" in cache) == (model.axes != ())
    assert ("blocks.0.mlp.hook_pre_linear" in cache) == ("activation" in changes)
    assert f"blocks.{model.depth - 1}.hook_resid_post" in cache
    residual = (
        cache["blocks.0.hook_resid_pre"] + cache["blocks.0.hook_attn_out"] + cache["blocks.0.hook_mlp_out"]
    )
    assert torch.allclose(residual, cache["blocks.0.hook_resid_post"], atol=1e-5)
    assert torch.allclose(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(3, 4, 12))
    assert torch.allclose(
        cache["blocks.0.attn.hook_result"].sum(2), cache["blocks.0.hook_attn_out"], atol=1e-5
    )


def test_the_gradient_reaches_every_site() -> None:
    model, ids = model_of(), some_ids()
    logits, cache = run(model, ids, names=["hook_embed", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"])
    gradients = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), list(cache.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_names_and_patterns_are_those_of_the_model_or_an_error() -> None:
    model = model_of()
    assert matching(model, "blocks.*.attn.hook_pattern") == [
        f"blocks.{i}.attn.hook_pattern" for i in range(2)
    ]
    assert matching(model, ["ln_final.hook_scale", "hook_embed"]) == ["hook_embed", "ln_final.hook_scale"]
    for name in ("blocks.2.hook_resid_pre", "blocks.0.hook_residual_pre", "blocks.0.attn.hook_bias", ""):
        with pytest.raises(UsageError, match="has no site"):
            run(model, some_ids(), names=name)
        with pytest.raises(UsageError, match="has no site"):
            run(model, some_ids(), edits=[Edit(name, 0.0)])
    with pytest.raises(UsageError, match="to edit"):
        run(model, some_ids(), edits=[Edit("blocks.*.attn.hook_z", 0.0)])


SOME = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)


@settings(max_examples=25)
@given(
    st.sampled_from(["q", "k", "v", "z", "pattern", "result"]),
    SOME,
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_an_edit_changes_what_it_says_and_nothing_else(
    part: str, heads: list[int], chosen: list[bool]
) -> None:
    model, ids, site = model_of(), some_ids(), f"blocks.0.attn.hook_{part}"
    tokens = torch.tensor(chosen)[None]
    edit = Edit(site, 7.0, tokens=tokens, heads=heads)
    if not any(chosen):
        with pytest.raises(UsageError, match="changes nothing"):
            run(model, ids, edits=[edit])
        return
    logits, cache = run(model, ids, names=site)
    before, after = cache[site], run(model, ids, edits=[edit], names=site)[1][site]
    heads_first = (before, after) if part == "pattern" else (before.transpose(1, 2), after.transpose(1, 2))
    for head in range(4):
        for token in range(12):
            was, now = (found[:, head, token] for found in heads_first)
            assert torch.equal(now, torch.full_like(was, 7.0) if head in heads and chosen[token] else was)
    # nothing stays behind
    assert torch.equal(run(model, ids, names=site)[0], logits)


def test_what_an_edit_takes_away_is_missing_downstream() -> None:
    model, ids = model_of(), some_ids()
    own, cache = run(model, ids, names="*")
    zeroed, _ = run(
        model, ids, edits=[Edit("blocks.1.attn.hook_z", 0.0), Edit("blocks.1.mlp.hook_post", 0.0)]
    )
    normed, weight = cache["blocks.0.hook_resid_post"], model.final_norm.weight
    by_hand = model.head(normed / (normed.square().mean(-1, keepdim=True)).sqrt() * weight)
    assert torch.allclose(zeroed, by_hand, atol=1e-4)
    # another text's contents at every token of a site give another text's logits
    turned = cache["blocks.0.hook_resid_post"].flip(0)
    swapped, _ = run(model, ids, edits=[Edit("blocks.0.hook_resid_post", turned)])
    assert torch.allclose(swapped, own.flip(0), atol=1e-5)


def test_neurons_and_heads_that_there_are_not() -> None:
    model, ids = model_of(), some_ids()
    for edit in (
        Edit("blocks.0.attn.hook_z", 0.0, heads=[4]),
        Edit("blocks.0.attn.hook_z", 0.0, neurons=[0]),
        Edit("blocks.0.mlp.hook_post", 0.0, neurons=[24]),
        Edit("blocks.0.mlp.hook_post", 0.0, heads=[0]),
        Edit("hook_embed", 0.0, heads=[0]),
    ):
        with pytest.raises(UsageError, match=r"has no (heads|neurons)"):
            run(model, ids, edits=[edit])


def test_edges_that_are_kept_are_all_that_is_read() -> None:
    model, ids = model_of(position="nope"), some_ids()
    own = torch.eye(12, dtype=torch.bool)[None, None]
    edits = [KeepEdges(f"blocks.{layer}.attn.hook_pattern", 0.0, where=own) for layer in range(2)]
    logits, cache = run(model, ids, edits=edits, names="blocks.*.attn.hook_pattern")
    assert all(torch.equal(pattern, own.expand(3, 4, 12, 12).float()) for pattern in cache.values())
    # who reads its own token alone says the same whatever stands before it
    alone, _ = run(model, ids[:, 3:4], names=())
    assert torch.allclose(logits[:, 3], alone[:, 0], atol=1e-5)
    # other heads and tokens read on
    some = KeepEdges(
        "blocks.0.attn.hook_pattern", 0.0, where=own, heads=[1], tokens=torch.arange(12)[None] > 3
    )
    _, cache = run(model, ids, names="blocks.0.attn.hook_pattern")
    _, kept = run(model, ids, edits=[some], names="blocks.0.attn.hook_pattern")
    whole, part = cache["blocks.0.attn.hook_pattern"], kept["blocks.0.attn.hook_pattern"]
    assert torch.equal(part[:, [0, 2, 3]], whole[:, [0, 2, 3]])
    assert torch.equal(part[:, 1, :4], whole[:, 1, :4])
    assert torch.equal(part[:, 1, 4:], own[0, 0, 4:].expand(3, 8, 12).float())
    nothing = KeepEdges("blocks.0.attn.hook_pattern", 0.0, where=own & (torch.arange(12) > 5))
    _, cache = run(model, ids, edits=[nothing], names="blocks.0.attn.hook_z")
    assert not cache["blocks.0.attn.hook_z"][:, :6].any()


@pytest.mark.parametrize(
    "edit",
    [
        Edit("hook_embed", torch.zeros(3, 12, 5)),
        Edit("hook_embed", 0.0, tokens=torch.ones(3, 5, dtype=torch.bool)),
        Edit("hook_embed", 0.0, where=torch.ones(7, 7, dtype=torch.bool)),
    ],
    ids=["value", "tokens", "where"],
)
def test_what_does_not_fit_a_site_is_an_error(edit: Edit) -> None:
    with pytest.raises(UsageError, match="does not fit what is there, 3x12x16"):
        run(model_of(), some_ids(), edits=[edit])


def test_means_by_role_are_those_of_tokens_of_one_role() -> None:
    found = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    roles = torch.tensor([[0, 1, 1], [1, -1, 2]])
    means = means_by_role(found, roles, 3)
    assert torch.allclose(means[0, 0], found[0, 0])
    assert torch.allclose(means[0, 1], (found[0, 1] + found[0, 2] + found[1, 0]) / 3)
    assert torch.equal(means[0, 1], means[1, 0])
    assert torch.equal(means[1, 2], found[1, 2])


def test_a_checkpoint_shows_its_sites_and_roles() -> None:
    model = load_checkpoint(ADDSUB)
    run = model.run_with_cache(["658+189", "1+2"], "blocks.*.attn.hook_pattern")
    assert list(run.cache) == [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.model.depth)]
    assert run.right.all()
    assert run.leads[torch.from_numpy(run.counted)].min() > 0
    column = int(run.roles.where("answer 1")[0, 0])
    assert run.logits[0, column - 1].argmax() == 7
    # and the same from one text, by its name
    alone = model.run_with_cache("658+189", ["hook_embed"])
    assert list(alone.cache) == ["hook_embed"]
    assert torch.allclose(alone.logits, run.logits[:1], atol=1e-4)


def test_a_checkpoint_is_wrong_without_what_it_needs() -> None:
    model = load_checkpoint(ADDSUB)
    texts = ["658+189", "999+1", "120+30"]
    nothing_read = [Edit(f"blocks.{layer}.attn.hook_z", 0.0) for layer in range(model.model.depth)]
    assert not model.run_with(nothing_read, texts).right.any()
    assert model.run_with((), texts).right.all()
    with pytest.raises(UsageError, match="has no site"):
        model.run_with([Edit("blocks.9.attn.hook_z", 0.0)], texts)
    with pytest.raises(UsageError, match="the scores of 100,000 texts"):
        model.run_with((), ["658+189"] * 100_000)
    # thoughts that the format holds to digits
    chains = load_checkpoint(OWN_THOUGHTS).run_with((), ["3+4*7-2", "8"])
    assert chains.right.all()
