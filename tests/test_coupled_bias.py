"""A bias over several axes: what each adds, what decoding may leave out, and keys that are seen where they are."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from biases import bias_of
from runs import TINY, finished, tiny
from strategies import arrays, ask

from mathllm.checkpoint import load_checkpoint
from mathllm.config import ModelConfig, build_config
from mathllm.data.sources import draws_of
from mathllm.errors import UsageError
from mathllm.formats import get_format
from mathllm.model.cache import GrowingCache, KeyValueCache
from mathllm.model.positions import Shape, Where, make_positions
from mathllm.model.positions.coupled_bias import SEGMENTS, UNIT
from mathllm.model.transformer import Transformer
from mathllm.tokenizer import EQUALS

TWO_AXES = {"position": "coupled-bias", "bias_axes": "place,row", "qk_scale": 1.5, "max_length": 2048}


def two_axes(length: int = 800, **settings: Any) -> tuple[Transformer, torch.Tensor, dict[str, torch.Tensor]]:
    """A model with a bias over two axes, whose row above is far above all others; ids and coordinates (2, T)."""
    model = Transformer.from_config(build_config(TINY, {"model": {**TWO_AXES, **settings}}).model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.positions.relative["row"].near.data[:, 0] += 10  # 100 nats

    def drawn(most: int) -> torch.Tensor:
        return torch.randint(0, most, (2, length), generator=generator)

    coordinates = {"place": drawn(length), "row": drawn(4), "segment": drawn(2)}
    coordinates["place"][:, ::40] = 0  # about no place
    return model, drawn(16), coordinates


def test_a_bias_over_two_axes_is_the_sum_of_one_over_each() -> None:
    model, _, told = two_axes(12)
    assert model.axes == ("place", "row", "segment")
    where = Where(torch.arange(12), told)
    both = bias_of(model.positions, 0, where, where)
    alone = make_positions("coupled-bias", Shape(16, 2, 1, 64))
    parts = []
    for axis in ("place", "row"):
        alone.relative["place"].load_state_dict(model.positions.relative[axis].state_dict())
        seen = Where(where.index, {**told, "place": told[axis]})
        parts.append(bias_of(alone, 0, seen, seen))
    torch.testing.assert_close(both, parts[0] + parts[1])
    assert not torch.allclose(parts[0], parts[1])


def test_cached_logits_over_two_axes_are_uncached_ones_and_gradients_reach_both() -> None:
    model, ids, told = two_axes()
    with torch.inference_mode():
        whole, cache, parts, seen = model(ids, told), model.make_cache(*ids.shape), [], []
        for part in (slice(0, 100), slice(100, 500), *(slice(i, i + 1) for i in range(500, 800))):
            parts.append(model(ids[:, part], {axis: known[:, part] for axis, known in told.items()}, cache))
            seen.append(cache.columns)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-4, rtol=0)
    assert any(columns is not None for columns in seen), "nothing was left out"
    model.positions.relative["row"].near.data[:, 0] -= 10  # so that every parameter matters somewhere
    model(ids, told).logsumexp(-1).square().sum().backward()
    for axis in ("place", "row"):
        assert all(parameter.grad.any() for parameter in model.positions.relative[axis].parameters()), axis


def test_what_one_axis_takes_away_another_may_give_back() -> None:
    model, _, _ = two_axes()
    assert model.spread is not None
    reach = model.positions.reach(model.spread)
    assert set(reach) == {"place", "row"}
    near = model.positions.relative["place"].reach(model.spread)
    assert near is not None
    assert reach["place"] > near + 25, "a key may be 100 nats above on the other axis"
    # at the reach a key has no weight even where the other axis speaks for it most
    places = [1000, *(1000 + away for away in (-reach["place"], reach["place"]) for _ in range(4))]
    rows = [2, *(1, 2, 3, 0) * 2]
    query = Where(torch.arange(1), {"place": torch.tensor([[1000]]), "row": torch.tensor([[2]])})
    key = Where(torch.arange(9), {"place": torch.tensor([places]), "row": torch.tensor([rows])})
    bias = bias_of(model.positions, 0, query, key)[0, :, 0]
    assert not torch.exp(bias[:, 1:] - bias[:, :1] + (model.spread - 104)).any()
    # an axis on which far keys can be anywhere sets no bound to what it gives back
    model.positions.relative["row"].decay.data[0, 0] = -0.1
    assert model.positions.reach(model.spread) == {}


NO_AXES = ["", "place,place", "place,", "digit place", "a.b", "Row"]
NO_AXES += ["row:", "row:-1", "row:two", ":2", "row:2:3", "row :2", "row:2,row:3", "row:1000"]


@pytest.mark.parametrize("axes", NO_AXES)
def test_axes_that_are_no_names_are_refused(axes: str) -> None:
    with pytest.raises(UsageError, match="bias_axes names axes, each once"):
        ModelConfig(position="coupled-bias", position_settings={"bias_axes": axes})


def test_axes_that_the_format_does_not_tell_are_refused(tmp_path: Path) -> None:
    settings = ("model.position=coupled-bias", "model.bias_axes=place, room", "data.format=reversed")
    with pytest.raises(UsageError, match="'room'"):
        finished(tiny(tmp_path / "run", *settings))
    assert not (tmp_path / "run").exists()
    finished(tiny(tmp_path / "run", *settings[:1], "model.bias_axes=place, run", *settings[2:]))
    assert load_checkpoint(tmp_path / "run").model.axes == ("place", "run", "segment")


@pytest.mark.parametrize("setting", [{"bias_near": 65}, {"bias_axes": "place,row:65"}])
def test_tables_reach_no_further_than_there_is_use_for(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at most 64, not 65"):
        ModelConfig(position="coupled-bias", position_settings=setting)


def test_each_axis_has_a_table_of_its_own_reach() -> None:
    scheme = make_positions(
        "coupled-bias", Shape(8, 2, 1, 32), {"bias_axes": " place, row:2 ,block:0", "bias_near": 3}
    )
    assert scheme.settings.bias_axes == "place,row:2,block:0"
    assert {axis: part.near.shape[1] for axis, part in scheme.relative.items()} == {
        "place": 7,
        "row": 5,
        "block": 1,
    }
    assert scheme.axes == ("place", "row", "block", "segment")
    assert scheme.key_axes == ("place", "row", "block")


SETTINGS = {"bias_axes": "place,row:2,block", "own_keys": True}
OWN_KEYS = {"position": "coupled-bias", "layers": 2, "max_length": 2048, **SETTINGS}
OWN_AXES = ("place", "row", "block", "segment", "own_place", "own_row", "own_block", "own_segment")


def own_keys(**settings: Any) -> Transformer:
    """A model with a bias over three axes that sees keys where they are themselves; no two weights are alike."""
    model = Transformer.from_config(build_config(TINY, {"model": {**OWN_KEYS, **settings}}).model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def on_axes(
    model: Transformer, query: dict[str, list[int]], key: dict[str, list[int]], layer: int = 0
) -> torch.Tensor:
    """The bias (H, T, S) between queries and keys, 0 on axes that are not named."""

    def where(given: dict[str, list[int]], own: str) -> Where:
        count = len(next(iter(given.values())))
        axes = {
            own + axis: torch.tensor([given.get(axis, [0] * count)]) for axis in ("place", "row", "block")
        }
        return Where(torch.arange(count), axes)

    return bias_of(model.positions, layer, where(query, ""), where(key, "own_"))[0]


def test_keys_are_seen_where_they_are_themselves() -> None:
    model = own_keys()
    assert model.axes == OWN_AXES
    assert model.positions.key_axes == ("own_place", "own_row", "own_block")
    for layer in (0, 1):
        part = model.positions.relative["place"]
        near, placeless = part.near[layer] * UNIT, part.placeless[layer] * UNIT
        found = on_axes(model, {"place": [7]}, {"place": [6, 7, 8, 0, 10]}, layer)[:, 0]  # (H, S)
        torch.testing.assert_close(found[:, :3], near.T)
        torch.testing.assert_close(found[:, 3], placeless)
        torch.testing.assert_close(found[:, 4], near[2] - 2 * part.decay[layer] * UNIT)
    rows_found = on_axes(model, {"row": [7]}, {"row": [5, 6, 7, 8, 9]})[:, 0]
    torch.testing.assert_close(rows_found, model.positions.relative["row"].near[0].T * UNIT)


def test_a_query_about_nothing_tells_keys_of_some_place_from_those_of_none_and_no_more() -> None:
    model = own_keys()
    places = list(range(0, 40, 3))
    for layer in (0, 1):
        placed = model.positions.relative["place"].placed[layer] * UNIT
        found = on_axes(model, {"place": [0]}, {"place": places}, layer)[:, 0]  # (H, S)
        assert not found[:, 0].any()
        torch.testing.assert_close(found[:, 1:], placed[:, None].expand(-1, len(places) - 1))
        assert placed.abs().min() > 0.01
    # without own keys it is told by where the others are not
    seen = make_positions("coupled-bias", Shape(8, 2, 1, 32))
    here = Where(torch.arange(1), {"place": torch.tensor([[0]])})
    assert bias_of(seen, 0, here, Where(torch.arange(1), {"place": torch.tensor([[7]])})).any()


def test_an_axis_whose_table_has_no_neighbours_tells_the_same_from_all_others_and_no_more() -> None:
    model = own_keys(bias_axes="place,row:0,block")
    part = model.positions.relative["row"]
    assert part.near.shape[1] == 1
    for layer in (0, 1):
        found = on_axes(model, {"row": [7]}, {"row": [7, 6, 8, 900, 0]}, layer)[:, 0]
        torch.testing.assert_close(found[:, 0], part.near[layer, 0] * UNIT)
        others = (part.near[layer, 0] - part.decay[layer])[:, None].expand(-1, 3)
        torch.testing.assert_close(found[:, 1:4], others * UNIT)
        torch.testing.assert_close(found[:, 4], part.placeless[layer] * UNIT)
    assert "row" not in model.positions.reach(100)
    part.decay.data += 30  # 300 nats more
    assert model.positions.reach(100)["row"] == 1


def test_the_kinds_of_a_token_and_of_what_it_predicts_are_both_told() -> None:
    positions = own_keys().positions
    assert positions.segments.weight.shape[0] == positions.own_segments.weight.shape[0] == SEGMENTS
    x, kinds = torch.zeros(1, 2, 16), torch.tensor([[3, 27]])
    told = {"segment": kinds, "own_segment": kinds.flip(1)}
    expected = positions.segments.weight[[3, 27]] + positions.own_segments.weight[[27, 3]]
    torch.testing.assert_close(
        positions.embed(torch.zeros(1, 2, positions.segments.weight.shape[1]), Where(x[0, :, 0], told))[0],
        expected,
    )


def test_kinds_of_rows_have_vectors_where_rows_are_told_and_else_one() -> None:
    told = Where(torch.arange(3), {"segment": torch.tensor([[0, 1, 27]])})
    for settings, kinds in (({}, 2), ({"bias_axes": "place,row"}, SEGMENTS)):
        positions = make_positions("coupled-bias", Shape(8, 2, 1, 32), settings)
        weight = positions.segments.weight
        assert len(weight) == kinds
        assert torch.equal(positions.embed(torch.zeros(1, 3, 8), told)[0], weight[[0, 1, min(27, kinds - 1)]])


@pytest.mark.parametrize("text", ["987654*98076", f"{10**8 + 77}/{10**4 + 3}"])
def test_cached_logits_with_own_keys_are_uncached_ones(text: str) -> None:
    # a steep decay, so that much is out of reach in a text of a few hundred tokens
    model = own_keys(bias_decay=30.0, bias_axes="place,row:2,block,step", qk_scale=0.2, kv_heads=1)
    notation, problems = get_format("scratchpad"), arrays([ask(text), ask("1" + text), ask("98-7*6-5*43/2")])
    ids = notation.render(problems).ids
    told = {
        axis: torch.from_numpy(known)
        for axis, known in notation.coordinates(problems, ids, model.axes).items()
    }
    tokens, rows = torch.from_numpy(ids).long(), torch.arange(3)
    prompt, length = int((ids == EQUALS).argmax(1).max()) + 1, tokens.shape[1]
    stops = [0, prompt, length // 2, *range(length // 2 + 1, min(length // 2 + 60, length)), length]
    cache, growing, seen = model.make_cache(*tokens.shape), GrowingCache(), []
    assert set(cache.reach) == {"place", "row", "block", "step"}
    with torch.inference_mode():
        whole = model(tokens, told)
        for start, stop in pairwise(stops):
            if start == stops[3]:  # one row less, and the others change places
                rows = torch.tensor([1, 0])
                cache.keep(rows)
            part = {axis: known[:, start:stop] for axis, known in told.items()}
            of_rows = {axis: known[rows] for axis, known in part.items()}
            logits = model(tokens[rows, start:stop], of_rows, cache)
            torch.testing.assert_close(logits, whole[rows, start:stop], atol=1e-4, rtol=0)
            seen.append(1.0 if cache.columns is None else len(cache.columns) / stop)
            if start < stops[3]:
                grown = model(tokens[:, start:stop], part, growing)
                torch.testing.assert_close(grown, whole[:, start:stop], atol=1e-4, rtol=0)
    assert "*" in text or min(seen) < 0.5, "nothing was left out"


@pytest.mark.parametrize("own", ["", "own_"])
@pytest.mark.parametrize("new", [1, 3])
def test_what_is_left_out_is_out_of_reach_of_every_row(own: str, new: int) -> None:
    rng = np.random.default_rng(0)
    reach, rows, length, skipped = {"place": 4, "row": 2}, 3, 60, 0
    for _ in range(50):
        axes = [*reach, *(own + axis for axis in reach)]
        near = {axis: rng.integers(0, 60) for axis in reach}  # what all queries are about, nearly
        told = {axis: rng.integers(0, 60, (rows, length)) for axis in axes}
        for axis, at in near.items():
            asked = at + rng.integers(0, 3, (rows, new))
            told[axis][:, -new:] = asked * (rng.random((rows, new)) < (1 if axis == "place" else 0.9))
        tensors = {axis: torch.from_numpy(known) for axis, known in told.items()}
        keys = tuple(own + axis for axis in reach)
        cache = KeyValueCache((1, rows, 1, length, 2), torch.zeros(1), axes=keys, reach=reach)
        for part in (slice(0, length - new), slice(length - new, length)):
            where = Where(
                torch.arange(length)[part], {axis: known[:, part] for axis, known in tensors.items()}
            )
            seen = cache.append(where, keys)
            cache.length = part.stop

        def sees(row: int, column: int, told: dict[str, Any] = told) -> bool:
            """Is a key in reach of what the new queries of its row are about, between the lowest and the highest?"""
            for axis, away in reach.items():
                queries, key = told[axis][row, -new:], told[own + axis][row, column]
                inside = queries.min() - away <= key <= queries.max() + away
                if not (inside or key == 0 or (own and (queries == 0).any())):
                    return False
            return True

        expected = [column for column in range(length) if any(sees(row, column) for row in range(rows))]
        few = 2 * len(expected) <= length
        assert seen.index.tolist() == (expected if few else list(range(length)))
        for axis, known in seen.axes.items():
            assert known.tolist() == told[axis][:, seen.index.numpy()].tolist()
        skipped += few
    assert skipped > 10


@pytest.mark.parametrize("seed", range(8))
def test_no_key_that_has_any_weight_is_out_of_reach(seed: int) -> None:
    model = own_keys(qk_scale=0.5, bias_decay=15.0)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.positions.relative.named_parameters():
        size = 0.2 if name.endswith("decay") else 2.0  # steps of 20 nats, and decays of 5 or more
        parameter.data += size * torch.randn(parameter.shape, generator=generator).clamp(-2, 2)
    assert model.spread is not None
    reach = model.positions.reach(model.spread)
    assert set(reach) == {"place", "row", "block"}
    at = 100  # where a query is on an axis that it is about
    offsets = [
        [at + sign * (reach[axis] + more) for sign in (-1, 1) for more in (-1, 0, 3)] for axis in reach
    ]
    keys = np.array(list(product(*([0, *range(at - 3, at + 4), *beyond] for beyond in offsets))))
    # any text has a key that is about nothing, or what the query is about, on every axis
    certain = np.isin(keys, (0, at)).all(1)
    for query in product((0, at), repeat=3):
        out = ((abs(keys - query) >= list(reach.values())) & (keys > 0) & (np.array(query) > 0)).any(1)
        assert out.any() == any(query)
        asked, seen = (
            dict(zip(reach, rows, strict=True)) for rows in ([[q] for q in query], keys.T.tolist())
        )
        for layer in (0, 1):
            bias = on_axes(model, asked, seen, layer)[:, 0]
            best = bias[:, certain].amin(1, keepdim=True)
            assert not torch.exp(bias[:, out] - best + (model.spread - 104)).any()


def test_what_is_within_reach_is_no_more_than_it_has_to_be() -> None:
    settings = {"own_keys": True, "bias_near": 2, "bias_axes": "place,row:1"}
    scheme = make_positions("coupled-bias", Shape(8, 2, 1, 32), settings)
    place, row = scheme.relative["place"], scheme.relative["row"]
    assert scheme.reach(100) == {"place": 2 + 34, "row": 1 + 34}  # 3 nats a place
    place.placeless.data[:] = 3  # 30 nats; a key of the query's own place may be all that there is
    assert scheme.reach(100) == {"place": 2 + 34, "row": 1 + 34 + 10}
    place.near.data[:, 2] = 3
    assert scheme.reach(100) == {"place": 2 + 24, "row": 1 + 34}
    place.near.data[:, 0] = (
        6  # far keys are below the end of the table; and a gain on one axis counts on the other
    )
    assert scheme.reach(100) == {"place": 2 + 44, "row": 1 + 34 + 10}
    row.near.data[:] = -3
    assert scheme.reach(100) == {"place": 2 + 54, "row": 1 + 34 + 10}
    row.decay.data[:] *= 2
    assert scheme.reach(100) == {"place": 2 + 54, "row": 1 + 22}
    place.placed.data[:] = 5  # where a query is about nothing on one axis
    assert scheme.reach(100) == {"place": 2 + 54, "row": 1 + 25}
    row.decay.data[0, 1] = -0.1  # is there no bound on one axis, there is none
    assert scheme.reach(100) == {}


def test_where_segments_have_a_bias_nothing_is_out_of_reach() -> None:
    # no token is sure to be of no segment, or of the query's
    scheme = make_positions(
        "coupled-bias", Shape(8, 2, 1, 32), {"own_keys": True, "bias_axes": "place,segment"}
    )
    assert scheme.reach(100) == {}


def test_a_random_start_moves_tokens_and_what_they_predict_together() -> None:
    notation, problems = (
        get_format("scratchpad"),
        arrays([ask(text) for text in ("12*34", "98/7", "5-67", "1-2*3")]),
    )
    ids = notation.render(problems).ids
    positions = make_positions("coupled-bias", Shape(16, 2, 1, 64), {**SETTINGS, "random_start": 20})
    told = notation.coordinates(problems, ids, positions.axes)
    drawn = positions.draw(told, ids.shape, draws_of(0, 3))
    assert set(drawn) == {"place", "own_place"}
    for row in range(len(problems)):
        starts = {
            int(start)
            for axis, moved in drawn.items()
            for start in (moved - told[axis])[row][told[axis][row] > 0]
        }
        assert len(starts) == 1
    assert all(not moved[told[axis] == 0].any() for axis, moved in drawn.items())
    behind = np.cumsum(ids == EQUALS, 1)[:, :-1] > 0
    assert (drawn["own_place"][:, 1:] == drawn["place"][:, :-1])[behind].all()
