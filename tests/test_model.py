"""The transformer: how large the sizes are, what it may look at, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mathllm.checkpoint import load_checkpoint, save_model
from mathllm.config import SIZES, ModelConfig, build_config
from mathllm.errors import UsageError
from mathllm.formats import get_format
from mathllm.model.attention import padded_keys, turn
from mathllm.model.norms import EPSILON, make_norm, rms_norm
from mathllm.model.positions import Shape, Where, axes_of, make_positions
from mathllm.model.positions.order import Rope
from mathllm.model.transformer import FeedForward, Transformer
from mathllm.registry import POSITIONS
from mathllm.tasks.expressions import parse_expressions
from mathllm.training.optim import make_optimizers, make_schedule

TINY = ModelConfig("nano", layers=2, hidden=16, heads=4, feed_forward=24, max_length=20)

VARIANTS = [
    *({"position": name} for name in POSITIONS),
    {"kv_heads": 2},
    {"kv_heads": 1},
    {"norm": "layernorm"},
    {"activation": "relu2"},
    {"activation": "swiglu"},
    {"qk_norm": False},
    {"tie_embeddings": True},
    {"loops": 3},
    {"position": "coupled+rope"},
    {"position": "abacus+fire"},
    {"loops": 2, "position": "fire"},
    {
        "kv_heads": 2,
        "norm": "layernorm",
        "activation": "swiglu",
        "tie_embeddings": True,
        "position": "learned",
    },
]


def variant_id(changes: object) -> str | None:
    return (
        ",".join(f"{name}={value}" for name, value in changes.items()) if isinstance(changes, dict) else None
    )


def awake(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose blocks do something: a new one starts as the identity, with all tokens equally likely."""
    model = Transformer.from_config(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def told(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    """The coordinates of ids (B, T) that the model needs."""
    sums = parse_expressions(["1+2"] * len(ids))  # as far as this format looks, any will do
    known = get_format("reversed").coordinates(sums, ids.numpy(), model.axes)
    return {axis: torch.from_numpy(coordinates) for axis, coordinates in known.items()}


def logits(model: Transformer, ids: Tensor) -> Tensor:
    """What the model says of ids (B, T)."""
    return model(ids, told(model, ids))


def some_ids(length: int = 12, batch: int = 3) -> Tensor:
    return torch.randint(16, (batch, length), generator=torch.Generator().manual_seed(1))


def formula(config: ModelConfig) -> int:
    """The number of parameters, counted by hand."""
    hidden, inner = config.hidden, config.feed_forward
    norm = hidden if config.norm == "rmsnorm" else 2 * hidden
    head_width, kv_heads = hidden // config.heads, config.kv_heads or config.heads
    attention = hidden * hidden + 2 * hidden * kv_heads * head_width + hidden * hidden
    feed_forward = (3 if config.activation == "swiglu" else 2) * hidden * inner
    block = attention + feed_forward + 2 * norm
    tables = 16 * hidden * (1 if config.tie_embeddings else 2)
    positions = {
        "learned": config.max_length * hidden,
        "coupled": config.max_length * hidden,
        "abacus": config.max_length * hidden,
        "fire": config.layers * (2 * 32 + 33 * config.heads + 2),
        "coupled-bias": config.layers * config.heads * 5 + 2 * hidden,
        "randomized": 4 * config.max_length * hidden,
    }
    positions = sum(positions.get(name, 0) for name in config.position.split("+"))
    return tables + positions + config.layers * block + norm


# the sizes as they are: DESIGN.md says the same
@pytest.mark.parametrize(
    ("size", "parameters"),
    [("nano", 100_672), ("small", 2_107_648), ("medium", 12_605_952), ("large", 25_190_912)],
)
def test_the_sizes_have_this_many_parameters(size: str, parameters: int) -> None:
    config = dataclasses.replace(build_config({"model": {"size": size}}).model, max_length=64)
    assert Transformer.from_config(config).num_parameters == formula(config) == parameters
    assert list(SIZES) == ["nano", "small", "medium", "large"]


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_id)
def test_every_variant_has_the_parameters_that_it_should_have(changes: dict[str, object]) -> None:
    config = dataclasses.replace(TINY, **changes)
    assert Transformer.from_config(config).num_parameters == formula(config)


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_id)
def test_a_token_never_sees_a_later_one(changes: dict[str, object]) -> None:
    model, ids = awake(dataclasses.replace(TINY, **changes)), some_ids()
    before, where = logits(model, ids), told(model, ids)
    assert before.shape == (*ids.shape, 16)
    assert before.dtype == torch.float32
    for place in (1, 5, 11):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % 16
        changed = (model(other, where) != before).any(-1).any(0)  # (T)
        assert not changed[:place].any()
        assert changed[place]
        assert place == 11 or changed[place + 1 :].any(), "nothing after it has noticed"


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_id)
def test_embeddings_can_be_given_instead_of_ids(changes: dict[str, object]) -> None:
    model, ids = awake(dataclasses.replace(TINY, **changes)), some_ids()
    outcomes = []
    # ids take another way through the first block where nothing but the token decides what it makes of it
    for given in (model.embedding(ids), ids):
        model.zero_grad()
        out = model(given, told(model, ids))
        out.square().sum().backward()
        outcomes.append((out, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_id)
def test_every_parameter_learns(changes: dict[str, object]) -> None:
    model = awake(dataclasses.replace(TINY, **changes))
    logits(model, some_ids()).logsumexp(-1).sum().backward()
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("position", [name for name in POSITIONS if not axes_of(name, {})])
def test_order_matters_in_every_scheme_that_knows_it(position: str) -> None:
    model, ids = awake(dataclasses.replace(TINY, layers=1, position=position)), some_ids(batch=1)
    swapped = ids.clone()
    swapped[:, [2, 3]] = ids[:, [3, 2]]
    assert ids[0, 2] != ids[0, 3]
    same = torch.allclose(logits(model, ids)[:, -1], logits(model, swapped)[:, -1], atol=1e-5)
    # one layer without positions sees a bag of tokens
    assert same == (position == "nope")


def test_rope_turns_pairs_of_neighbours_by_angles_that_grow_with_the_position() -> None:
    rope = Rope(Shape(hidden=16, heads=2, layers=1, max_length=32))
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 2, 7, 31])
    turned = turn(x, rope.turns(Where(positions)))
    for place, position in enumerate(positions.tolist()):
        for pair in range(4):
            angle = position * 10000 ** (-2 * pair / 8)
            first, second = x[:, place, :, 2 * pair], x[:, place, :, 2 * pair + 1]
            expected = torch.stack(
                [
                    first * math.cos(angle) - second * math.sin(angle),
                    first * math.sin(angle) + second * math.cos(angle),
                ],
                dim=-1,
            )
            torch.testing.assert_close(turned[:, place, :, 2 * pair : 2 * pair + 2], expected)


def test_scores_under_rope_depend_on_the_distance_only() -> None:
    rope = Rope(Shape(hidden=16, heads=1, layers=1, max_length=64))
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(1))
    scores = {
        start: (
            turn(query, rope.turns(Where(torch.tensor([start + 3]))))
            * turn(key, rope.turns(Where(torch.tensor([start]))))
        )
        .sum()
        .item()
        for start in (0, 7, 60)
    }
    assert scores[0] == pytest.approx(scores[7], abs=1e-4) == pytest.approx(scores[60], abs=1e-4)
    further = (
        (turn(query, rope.turns(Where(torch.tensor([4])))) * turn(key, rope.turns(Where(torch.tensor([0])))))
        .sum()
        .item()
    )
    assert further != pytest.approx(scores[0], abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 5, 16), (2, 4)])
def test_rms_norm_and_its_gradient_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()
    torch.testing.assert_close(rms_norm(x), plain)
    assert torch.autograd.gradcheck(rms_norm, x)
    weight = torch.randn(shape[-1], generator=generator, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x, weight), plain * weight)
    assert torch.autograd.gradcheck(rms_norm, (x, weight))
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x, weight), plain * weight)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_qk_norm_makes_the_size_of_queries_and_keys_irrelevant(qk_norm: bool) -> None:
    model = awake(dataclasses.replace(TINY, qk_norm=qk_norm))
    before = logits(model, some_ids())
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:32] *= 30  # 16 rows of queries, 16 of keys, 16 of values
    assert torch.allclose(logits(model, some_ids()), before, atol=1e-3) == qk_norm


def test_activations() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    for activation in ("gelu", "relu2", "swiglu"):
        layer = FeedForward(3, 4, activation).double()
        up = x @ layer.up.weight.T
        if activation == "gelu":
            inner = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        elif activation == "relu2":
            inner = torch.clamp(up, min=0) ** 2
        else:
            gate = x @ layer.gate.weight.T
            inner = up * gate / (1 + torch.exp(-gate))
        torch.testing.assert_close(layer(x), inner @ layer.down.weight.T)


def test_a_new_model_thinks_all_tokens_equally_likely() -> None:
    logits = Transformer.from_config(dataclasses.replace(TINY, position="learned"))(some_ids())
    assert torch.equal(logits, torch.zeros_like(logits))


def test_the_seed_alone_decides_about_the_weights() -> None:
    one = Transformer.from_config(TINY, seed=3).state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    two = Transformer.from_config(TINY, seed=3).state_dict()
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator was disturbed"
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = Transformer.from_config(TINY, seed=4).state_dict()
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    assert not torch.equal(one["blocks.0.attention.qkv.weight"], other["blocks.0.attention.qkv.weight"])


def test_tied_embeddings_are_one_matrix_and_are_saved_once(tmp_path) -> None:
    config = dataclasses.replace(TINY, tie_embeddings=True)
    model = awake(config)
    save_model(tmp_path, model, config, build_config().data)
    loaded = load_checkpoint(tmp_path).model
    names = list(loaded.state_dict())
    assert "embedding.weight" in names
    assert not any("head" in name for name in names)
    assert torch.equal(logits(loaded, some_ids()), logits(model, some_ids()))


def test_grouped_heads_with_repeated_weights_equal_all_heads() -> None:
    grouped = awake(dataclasses.replace(TINY, kv_heads=2))
    full = awake(TINY)
    full.load_state_dict(
        {
            name: _ungrouped(tensor) if name.endswith("qkv.weight") else tensor
            for name, tensor in grouped.state_dict().items()
        }
    )
    torch.testing.assert_close(grouped(some_ids()), full(some_ids()))


def _ungrouped(weight: Tensor) -> Tensor:
    """Rows of queries, 2 key heads and 2 value heads -> each key and value head for 2 of the 4 query heads."""
    queries, keys, values = weight.split([16, 8, 8])
    return torch.cat(
        [queries, *(part.view(2, 4, 16).repeat_interleave(2, 0).flatten(0, 1) for part in (keys, values))]
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden": 18}, "multiple of heads"),
        ({"kv_heads": 3}, "multiple of kv_heads"),
        ({"heads": 16, "position": "rope"}, "even hidden width"),
        ({"position": "rotary"}, "unknown position 'rotary'"),
        ({"norm": "batchnorm"}, "unknown norm"),
        ({"activation": "relu"}, "unknown activation"),
        ({"layers": 0}, "at least 1"),
        ({"kv_heads": -1}, "at least 0"),
    ],
    ids=variant_id,
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        dataclasses.replace(TINY, **changes)


def test_unknown_names_are_errors_where_they_are_used_too() -> None:
    with pytest.raises(UsageError, match="unknown norm"):
        make_norm("batchnorm", 8)
    with pytest.raises(UsageError, match="unknown activation"):
        FeedForward(8, 8, "relu")
    with pytest.raises(UsageError, match="unknown position"):
        make_positions("rotary", Shape(hidden=8, heads=2, layers=1, max_length=8))
    with pytest.raises(UsageError, match="unknown optimizer 'sgd'"):
        make_optimizers(Transformer.from_config(TINY), "sgd", 0.1, 0.1, 0.0)
    with pytest.raises(UsageError, match="unknown schedule 'step'"):
        make_schedule("step", 0, 10)


@pytest.mark.parametrize("seen", [7, 9, 16, 24, 31, 33, 63, 70])
def test_hidden_keys_change_nothing(seen: int) -> None:
    generator = torch.Generator().manual_seed(seen)
    q, k, v = torch.randn(3, 3, 2, seen, 16, generator=generator)
    bias = torch.randn(1, 2, seen, seen, generator=generator)
    more = padded_keys(k, v, bias)
    assert more[0].shape[2] == (-(-seen // 16) * 16 if seen in (9, 24, 31, 63) else seen)
    without, with_them = (
        torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        for keys, values, mask in ((k, v, bias), more)
    )
    assert torch.allclose(without, with_them, atol=1e-6)
