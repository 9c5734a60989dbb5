"""What is said of a model's inside is so: of a trained one what is known of it, of a random one nothing, and of parts
that were put in by hand what they do."""

import dataclasses
import functools
import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import ADDSUB, ANY_LENGTH, ARITHMETIC, DIVIDE, MULTIPLY, OWN_THOUGHTS
from test_model import TINY, awake

from mathllm.checkpoint import load_checkpoint, read_settings, save_model
from mathllm.config import DataConfig, ModelConfig
from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import Count
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.formats.roles import kind_of, row_of
from mathllm.inspection import (
    ablation,
    attention,
    circuit,
    exactness,
    health,
    interchange,
    lens,
    neurons,
    probes,
    thoughts,
)
from mathllm.inspection.claims import STRENGTHS, Claim, strongest_first
from mathllm.inspection.report import MEASUREMENTS, inspect
from mathllm.inspection.texts import Texts, draw, with_own_thoughts
from mathllm.inspection.variables import INPUTS
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.prove.hunt import smallest_leads
from mathllm.tasks.expressions import parse_expressions
from mathllm.tokenizer import END, TOKENS

ONE_LAYER = ModelConfig(
    "nano", 1, 16, 2, feed_forward=24, max_length=40, position="coupled-bias", activation="relu2"
)
QUICK = {name for name, one in MEASUREMENTS.items() if not one.long}


@lru_cache
def texts_of(path: Path, tokens: int = 3000) -> Texts:
    return draw(load_checkpoint(path), 600).first(tokens)


def untrained(task: str = "addition", notation: str = "reversed") -> MathModel:
    config = dataclasses.replace(TINY, max_length=200, position="coupled-bias")
    return MathModel(awake(config), DataConfig(task=task, format=notation, max_digits=3))


# what tokens are


@pytest.mark.parametrize("path", [ADDSUB, ANY_LENGTH, OWN_THOUGHTS, MULTIPLY, DIVIDE])
def test_kinds_are_roles_without_their_places(path: Path) -> None:
    texts = texts_of(path)
    for role in texts.role_names:
        kind, place = kind_of(role)
        assert not re.search(r"\d", re.sub(r"number \d|\(\d\)$", "", kind)), role
        assert place >= 0
        assert not place or str(place) in role
    assert {kind_of(role) for role in ("answer 3", "a3", "total in column 2 (2)", "thought 1")} == {
        *(("answer", 3), ("a", 3), ("total (2)", 2), ("thought", 1))
    }
    assert kind_of("partial product in row 2 at digit 4 +") == ("partial product +", 4)
    assert row_of("partial product in row 2 at digit 4 +") == 2


@pytest.mark.parametrize("path", [ADDSUB, ANY_LENGTH, OWN_THOUGHTS, MULTIPLY])
def test_the_variables_of_the_algorithm_decide_the_next_token(path: Path) -> None:
    texts = texts_of(path)
    values, known = texts.variables.values, texts.variables.known
    assert known.sum() > 300
    names = [name for name in INPUTS if name in values]
    kinds, tasks = texts.kind[:, :-1], np.broadcast_to(texts.gold.problems.task[:, None], known.shape)
    key = np.stack([kinds, tasks, *(values[name] for name in names)], -1)[known]
    following = texts.gold.ids[:, 1:][known]
    _, which = np.unique(key, axis=0, return_inverse=True)
    shown = np.zeros((which.max() + 1, 16), np.bool_)
    shown[which.ravel(), following] = True
    assert (shown.sum(1) == 1).all()
    if "carry out" in values and path != ADDSUB:  # whose differences are written below zero
        a, b, c = (values[name][known] for name in names)
        total = a * b + c if path == MULTIPLY else a + b + c
        assert (values["digit"][known] == total % 10).all()
        assert (values["carry out"][known] == total // 10).all()


def test_nothing_is_known_of_sums_of_three_numbers() -> None:
    model = untrained()
    more = MathModel(model.model, dataclasses.replace(model.data, max_operands=3))
    assert draw(more, 200).variables.values == {}


# a random model, and parts put in by hand


def test_a_random_model_yields_no_claim() -> None:
    report = inspect(untrained(), examples=150, exhaustive=9)
    assert report.claims == []
    assert exactness.measure(report.texts.first(100), limit=9).claims() == []
    assert set(report.found) == QUICK


def with_a_head(like: int | None) -> MathModel:
    """add-any-length with a fifth head in every layer: one that writes nothing, or one that does what head `like` of
    the first layer does, half of it each."""
    shipped, settings = load_checkpoint(ANY_LENGTH), read_settings(ANY_LENGTH)
    model = Transformer.from_config(dataclasses.replace(settings.model, hidden=80, heads=5)).eval()
    wide, narrow = model.state_dict(), shipped.model.state_dict()
    for name, value in narrow.items():
        if "attention.qkv" in name:
            made = torch.zeros(3, 5, 16, 80)
            made[:, :4, :, :64] = value.view(3, 4, 16, 64)
            if like is not None:
                made[:, 4, :, :64] = value.view(3, 4, 16, 64)[:, like]
            wide[name] = made.flatten(0, 2)
        elif "attention.out" in name:
            made = torch.zeros(80, 80)
            made[:64, :64] = value
            if like is not None and "blocks.0" in name:
                own = slice(16 * like, 16 * like + 16)
                made[:64, 64:] = value[:, own] / 2
                made[:64, own] /= 2
            wide[name] = made
        elif name.startswith("positions.relative"):
            head = value[..., like or 0 : (like or 0) + 1]
            wide[name] = torch.cat([value, head], dim=-1)
        elif name.endswith("norm.weight"):
            # the mean square is over more channels, of which the new ones are 0
            wide[name] = torch.cat([value * (64 / 80) ** 0.5, torch.ones(16)])
        else:
            made = torch.zeros_like(wide[name])
            made[: value.shape[0], : value.shape[1]] = value
            wide[name] = made
    model.load_state_dict(wide)
    return MathModel(model, shipped.data, ANY_LENGTH)


def copier() -> MathModel:
    """By hand: `3=3<end>`. Head 0 writes the digits that it sees, head 1 sees them, too, and writes nothing; behind a
    digit comes the end."""
    how = {"feed_forward": 8, "max_length": 40, "position": "nope", "activation": "relu2", "qk_norm": False}
    model = Transformer.from_config(ModelConfig("nano", 1, 32, 2, **how))
    weights, digits = model.state_dict(), torch.arange(10)
    for name, weight in weights.items():
        weight.fill_(float(name.endswith("norm.weight")))
    weights["embedding.weight"][:, :16] = torch.eye(16)
    for values in (64, 80):  # of either head
        weights["blocks.0.attention.qkv.weight"][values + digits, digits] = 1
    weights["blocks.0.attention.out.weight"][16 + digits, digits] = 1
    weights["head.weight"][digits, 16 + digits] = 1
    weights["head.weight"][END, :10] = 10
    model.load_state_dict(weights)
    return MathModel(model, DataConfig(task="chain", format="plain", max_digits=1))


def test_a_head_that_was_wired_by_hand_is_found_and_a_dormant_one_is_not() -> None:
    found = ablation.measure(draw(copier(), 50))
    right = {loss.part.name: [loss.total[way].exact_match for way in ablation.WAYS] for loss in found.losses}
    assert right == {"L0H0": [0, 0, 0], "L0H1": [1, 1, 1], "L0MLP": [1, 1, 1]}
    claims = [(claim.strength, claim.text) for claim in found.claims()]
    assert claims[0] == ("necessary", "L0H0 is needed for chain of 1 number")
    assert claims[1:] == [("sufficient", "answers do without L0H1 and L0MLP")]


def test_a_head_that_is_used_is_found_and_one_that_writes_nothing_is_spared() -> None:
    found = ablation.measure(draw(with_a_head(None), 200).first(3000))
    assert found.before.exact_match == 1
    losses = {loss.part.name: loss for loss in found.losses}
    assert all(losses["L0H4"].total[way].exact_match == 1 for way in ablation.WAYS)
    assert all(losses["L0H3"].total[way].exact_match < 0.5 for way in ablation.WAYS)
    assert {"L0H4", "L1H4"} <= set(found.spare)
    needed = " ".join(claim.text for claim in found.claims() if claim.strength == "necessary")
    assert "L0H3" in needed
    assert "L0H4" not in needed


def test_two_heads_that_do_the_same_matter_less_each_than_one() -> None:
    one = ablation.measure(draw(with_a_head(None), 200).first(3000))
    two = ablation.measure(draw(with_a_head(3), 200).first(3000))
    assert two.before.exact_match == 1
    alone, half = (
        {loss.part.name: loss.total["zero"].correct for loss in found.losses} for found in (one, two)
    )
    assert half["L0H3"] > alone["L0H3"] + 20
    assert half["L0H4"] == half["L0H3"]


def test_a_part_is_needed_for_the_problems_that_go_wrong_without_it() -> None:
    found = ablation.measure(texts_of(ANY_LENGTH))
    carries = next(loss for loss in found.losses if loss.part.name == "L0H3")
    share = {name: count.exact_match for name, count in carries.right["mean"].items()}
    assert share["addition, chain of 0"] > 0.5
    assert share["addition, chain of 3 or more"] < 0.2
    assert carries.first_wrong == "answer"


def test_resampling_takes_tokens_of_the_same_role() -> None:
    codes = np.array([[0, 1, 1, 2], [0, 1, -1, -1]])
    donors = ablation.others(codes, np.random.default_rng(0))
    assert (codes.ravel()[donors] == codes).all()
    # a cycle: each gives to one, and none to itself where there are others
    assert sorted(donors.ravel().tolist()) == list(range(8))
    assert ((donors != np.arange(8).reshape(2, 4)) | (codes == 2)).all()


# the measurements


def test_weights_of_a_query_add_up_and_all_edges_are_enough() -> None:
    texts = texts_of(ANY_LENGTH)
    found = attention.measure(texts)
    for head in found.heads:
        total: dict[str, float] = {}
        for query, mean in zip(found.edges.queries, head.mean.tolist(), strict=True):
            total[query] = total.get(query, 0) + mean
        assert all(abs(value - 1) < 1e-3 for value in total.values())
        assert (head.mean <= head.most + 1e-6).all()
    kept, right = attention._kept(texts, found.edges, list(found.heads), lambda head: head.most >= 0)
    assert (kept, right) == (len(found.heads) * len(found.edges.queries), found.before)
    assert attention._kept(texts, found.edges, list(found.heads), lambda head: head.most > 2)[1].correct == 0
    # the carry is fetched from the place below
    looks = [what for what, *_ in found.named(found.heads[3])]
    assert {"a, 1 below", "b, 1 below"} <= set(looks)


def test_the_carry_can_be_read_behind_attention_and_random_labels_cannot() -> None:
    found = probes.measure(texts_of(ANY_LENGTH, 16_000))
    share = {(one.variable, one.site): one for one in found.found if one.behind == "answer"}
    carry = share["carry in", "blocks.0.hook_attn_out"]
    assert carry.right.exact_match > 0.98
    assert carry.control.exact_match < 0.7
    assert share["carry in", "blocks.0.hook_resid_pre"].right.exact_match < 0.85
    # the control can be learned by heart where a few hundred neurons hold all of its inputs
    assert share["digit", "blocks.1.mlp.hook_post"].control.exact_match > 0.7
    assert share["digit", "blocks.0.hook_resid_post"].right.exact_match < 0.5


def test_an_interchange_is_followed_where_a_number_is_held_and_nowhere_before() -> None:
    found = interchange.measure(texts_of(ANY_LENGTH, 8000))
    by = {(one.variable, one.place): one for one in found.found if one.behind == "answer"}
    assert by["carry in", "blocks.0.hook_resid_mid"].free.exact_match > 0.75
    assert by["first digit", "blocks.0.hook_resid_mid"].free.exact_match < 0.25
    for variable in ("first digit", "second digit", "carry in", "digit"):
        last = by[variable, "blocks.1.hook_resid_post"]
        assert last.alike.exact_match == 1
        assert last.free.exact_match < 0.1
        assert last.broken.exact_match > 0.5
    assert by["first digit", "blocks.0.hook_resid_pre"].alike.exact_match < 0.1


def test_donors_differ_where_they_should() -> None:
    texts = texts_of(ANY_LENGTH)
    algorithm = interchange.Algorithm.of(texts, np.random.default_rng(0))
    values = texts.variables.values
    pairing = algorithm.pairs("carry in", alone=False)
    own, donor = (pairing.rows, pairing.columns), (pairing.donor_rows, pairing.donor_columns)
    assert len(pairing) > 20
    assert (values["carry in"][own] != values["carry in"][donor]).all()
    for name in ("first digit", "second digit"):
        assert (values[name][own] == values[name][donor]).all()
    total = values["first digit"][own] + values["second digit"][own] + values["carry in"][donor]
    assert (pairing.expected == total % 10).all()
    free = algorithm.pairs("carry in", alone=True)
    assert (free.expected != texts.gold.ids[free.donor_rows, free.donor_columns + 1]).all()


@pytest.mark.parametrize("path", [ANY_LENGTH, ADDSUB, OWN_THOUGHTS])
def test_what_parts_write_adds_up_to_the_lead(path: Path) -> None:
    found = lens.measure(texts_of(path))
    assert abs(found.rest) < 1e-3 * found.lead
    assert found.total(len(found.sites) - 1).exact_match == 1
    assert found.total(0).exact_match < 0.7


def test_a_neuron_is_named_by_its_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 10, (2, 3000))
    formulas = {"a": a, "a + b >= 10": (a + b >= 10).astype(int), "a and b": 10 * a + b}
    activation = np.stack(
        [np.where(a + b >= 10, 3.0, -1.0), a**2.0, (a - b) ** 2.0, rng.normal(size=3000)], 1
    )
    names, explained = neurons.best_formula(activation, formulas)
    assert names[:3] == ["a + b >= 10", "a", "a and b"]
    assert (explained[:3] > 0.99).all()
    assert explained[3] < 0.1  # for all its hundred values a table explains no noise


def test_thoughts_and_proofs_are_part_of_it() -> None:
    found = thoughts.measure(texts_of(OWN_THOUGHTS))
    assert [claim.strength for claim in found.claims()] == ["read", "sufficient"]
    assert "not known" in thoughts.measure(texts_of(ANY_LENGTH)).skipped
    proved = exactness.measure(texts_of(ANY_LENGTH)).claims()
    assert [claim.strength for claim in proved] == ["proved"]
    assert exactness.measure(texts_of(MULTIPLY)).claims() == []


def test_a_proof_of_other_weights_counts_for_nothing(tmp_path: Path) -> None:
    shutil.copytree(ANY_LENGTH, tmp_path / "other")
    model = load_checkpoint(tmp_path / "other")
    assert exactness.proof_of(model) is not None
    with torch.no_grad():
        model.model.embedding.weight[0, 0] += 1
    save_model(tmp_path / "other", model.model, read_settings(ANY_LENGTH).model, model.data)
    assert exactness.proof_of(load_checkpoint(tmp_path / "other")) is None


def test_a_proof_of_a_window_that_was_not_written_counts_for_nothing(tmp_path: Path) -> None:
    shutil.copytree(ANY_LENGTH, tmp_path / "other")
    model, proof = load_checkpoint(tmp_path / "other"), tmp_path / "other" / "proof.json"
    true = json.loads(proof.read_text())
    for wrong in (
        {**true, "given_window": "-1,0"},
        {**true, "holds": False},
        {**true, "schema": "x/1"},
        [],
        1,
    ):
        proof.write_text(json.dumps(wrong))
        assert exactness.proof_of(model) is None
    del true["configurations"]
    proof.write_text(json.dumps(true))
    assert exactness.proof_of(model) is None


def test_a_circuit_is_enough_and_each_node_of_it_is_needed() -> None:
    model = learned()
    texts = draw(model, 100)
    found = circuit.measure(texts, limit=9)
    heads, neurons = found.counts
    assert found.checked == Count(100, 100)
    assert 0 < heads < found.of[0]
    assert 0 < neurons < found.of[1]
    search = circuit.Search(texts, texts.run().right, print)
    assert search.holds(found.kept)
    nodes = np.flatnonzero(found.kept.flat)
    every = AllPairs(model.tasks, 9)[0:100]
    for node in nodes.tolist():
        leads = search.leads(model.render(every), search.without(found.kept, np.array([node])))
        assert leads.min() <= 0
    # all nodes are the model itself
    assert np.allclose(
        search.leads(model.render(every), search.everything), smallest_leads(model, every), atol=1e-3
    )
    assert found.claims()[0].strength == "exhaustive"


def test_a_small_sample_alone_makes_a_circuit_that_is_wrong_elsewhere() -> None:
    model = learned()
    texts, pairs = draw(model, 100), AllPairs(model.tasks, 9)

    def wrong(tried: AllPairs | None) -> int:
        search = circuit.Search(texts, texts.run().right, print)
        search.pool = search.pool[np.arange(4)]
        kept = search.one_by_one(search.everything, tried)
        assert search.resampled(search.everything) == Count(len(texts), len(texts))
        return len(search.wrong(pairs, kept, None)[0])

    assert wrong(None) > 0
    assert wrong(pairs) == 0  # those that it gets wrong have come into the pool, and nodes have come back


def test_no_circuit_is_sought_where_nothing_is_right_or_a_number() -> None:
    model = MathModel(
        Transformer.from_config(ONE_LAYER), DataConfig(task="addition", format="reversed", max_digits=1)
    )
    with torch.no_grad():
        model.model.embedding.weight.fill_(torch.nan)
    found = circuit.measure(draw(model, 100), limit=9)
    assert found.counts == found.of
    assert found.checked == Count(0, 0)
    assert found.claims() == []


@functools.cache
def learned(but: int = 0) -> MathModel:
    """A model that knows all sums of two digits by heart, or all but the last ones, which it has learned wrongly."""
    model = MathModel(
        Transformer.from_config(ONE_LAYER), DataConfig(task="addition", format="reversed", max_digits=1)
    )
    torch.set_num_threads(1)
    gold = model.render(AllPairs(model.tasks, 9)[0:100])
    gold.ids[100 - but :, 4] = 3
    ids = torch.from_numpy(gold.ids.astype(np.int64))
    told = model.format.coordinates(gold.problems, gold.ids[:, :-1], model.model.axes)
    where = {axis: torch.from_numpy(known) for axis, known in told.items()}
    target = ids[:, 1:].masked_fill(~torch.from_numpy(gold.loss_mask[:, 1:]), -1)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-2)
    for _ in range(1500):
        loss = F.cross_entropy(
            model.model(ids[:, :-1], where).flatten(0, 1), target.flatten(), ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 1e-3:
            break
    assert loss < 0.06
    return model


def test_a_circuit_is_not_asked_to_mend_the_model() -> None:
    model = learned(but=4)
    found = circuit.measure(draw(model, 100), limit=9)
    assert found.checked.num_examples == 100
    assert 80 < found.checked.correct < 100  # what the model gets wrong, and no more
    assert int(found.kept.flat.sum()) < found.of[0] + found.of[1]
    with pytest.raises(UsageError, match="no text of the sample has a token like"):
        circuit.measure(draw(model, 100), limit=10)


def test_health_counts_what_is_far_out() -> None:
    found = health.measure(texts_of(ADDSUB))
    assert all(2 < level.kurtosis < 10 for level in found.levels)
    assert all(0 <= bits < 6 for layer in found.entropy for bits in layer)
    assert found.claims() == []


def test_texts_that_are_too_long_are_left_out_and_said_so() -> None:
    texts = draw(load_checkpoint(DIVIDE), 200, longest=150)
    assert texts.left_out > 0
    assert int(texts.gold.lengths.max()) <= 150
    with pytest.raises(UsageError, match="more than 5 tokens"):
        draw(load_checkpoint(DIVIDE), 200, longest=5)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(STRENGTHS), max_size=8))
def test_the_strongest_claims_come_first(strengths: list[str]) -> None:
    order = [
        STRENGTHS.index(claim.strength) for claim in strongest_first(Claim("", "", one) for one in strengths)
    ]
    assert order == sorted(order, reverse=True)


def test_few_examples_are_enough_for_a_report() -> None:
    report = inspect(load_checkpoint(ARITHMETIC), examples=16)
    assert set(report.found) == QUICK
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))


@pytest.mark.parametrize("length", [1, 2])
def test_chains_of_hardly_any_step(length: int) -> None:
    model = load_checkpoint(OWN_THOUGHTS)
    short = MathModel(
        model.model, dataclasses.replace(model.data, max_digits=length, curriculum_start=1), model.path
    )
    assert set(inspect(short, examples=100).found) == QUICK


def test_answers_stay_true_where_thoughts_are_the_models_own() -> None:
    model = untrained("addition", "slots")
    gold = model.render(parse_expressions(["275+32", "1+2"], model.tasks))
    ids = with_own_thoughts(model, gold).ids
    opening, closing = (ids == TOKENS.index("<think>")).argmax(1), (ids == TOKENS.index("</think>")).argmax(1)
    for row, (start, end) in enumerate(zip(opening.tolist(), closing.tolist(), strict=True)):
        assert (ids[row, end:] == gold.ids[row, end:]).all()
        assert (ids[row, : start + 1] == gold.ids[row, : start + 1]).all()
        assert (ids[row, start + 1 : end] < 10).all()


def test_a_token_that_has_no_equal_is_left_alone() -> None:
    texts = draw(load_checkpoint(ARITHMETIC), 60)
    codes = texts.pair
    counts = np.bincount(codes[codes >= 0])
    assert counts.min() >= 8
    donors = ablation.others(codes, np.random.default_rng(0))
    own = np.arange(codes.size).reshape(codes.shape)
    assert (donors != own)[codes >= 0].all()
    assert 0 < texts.unlike < 1


def test_with_loops_the_embedding_is_written_again() -> None:
    config = dataclasses.replace(TINY, max_length=200, loops=3)
    model = MathModel(awake(config), DataConfig(task="addition", format="reversed", max_digits=2))
    found = lens.measure(draw(model, 100))
    assert abs(found.rest) < 1e-3
    assert [one.part for one in found.written if "embedding" in one.part] == [
        *("embedding", "embedding, before L2", "embedding, before L4")
    ]
