"""Schemes that are told digit places: through the whole program, and what each of them promises."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from biases import bias_of
from runs import TINY, finished, same_run, tiny

from mathllm.checkpoint import load_checkpoint
from mathllm.config import ModelConfig, build_config
from mathllm.data.sources import ProblemStream, draws_of
from mathllm.errors import UsageError
from mathllm.evaluation.exact_match import judge
from mathllm.formats import get_format
from mathllm.model.attention import turn
from mathllm.model.positions import Shape, Where, axes_of, make_positions
from mathllm.model.positions.coupled_bias import UNIT
from mathllm.model.transformer import Transformer
from mathllm.registry import POSITIONS, Choice
from mathllm.tasks import TASKS
from mathllm.tasks.expressions import parse_expressions
from mathllm.tasks.numbers import random_digits
from mathllm.tokenizer import encode

WITH_STARTS = [name for name in POSITIONS if axes_of(name, {})]
NEW = [
    *WITH_STARTS,
    "randomized",
    "alibi",
    "fire",
    "coupled+rope",
    "abacus+coupled",
    "randomized+coupled-bias",
]
FORMATS = [("reversed", False), ("column", False), ("reversed", True), ("pairwise", False), ("plain", True)]
# each with one of them in turn; the walk over all combinations has the rest
CASES = [(name, *FORMATS[number % 5]) for number, name in enumerate(NEW)]


@pytest.mark.parametrize(("position", "notation", "pad"), CASES)
def test_it_trains_resumes_evaluates_and_answers(
    tmp_path: Path, position: str, notation: str, pad: bool
) -> None:
    if "abacus" in position and notation != "reversed":
        pytest.skip("refused: see below")
    shared = (
        f"model.position={position}",
        "model.loops=2",
        f"data.format={notation}",
        f"data.zero_pad={pad}",
        "model.max_length=64",
        *(["model.random_start=5"] if set(position.split("+")) & set(WITH_STARTS) else []),
        "optim.schedule=constant",
        "train.eval_steps=4",
        "train.threads=2",
        "train.batch_size=16",
    )
    finished(tiny(tmp_path / "whole", *shared, "train.max_steps=8"))
    finished(tiny(tmp_path / "run", *shared, "train.max_steps=4"))
    finished(tiny(tmp_path / "run", *shared, "train.max_steps=8"), resume=True)
    same_run(tmp_path / "whole", tmp_path / "run", 8)
    loaded = load_checkpoint(tmp_path / "run")
    problems = parse_expressions(["1+2", "9+9", "12+345", "7+0"])
    written = judge(loaded, problems).written
    asked = loaded.render(problems)
    together, alone = loaded.answer(asked), [loaded.solve(text) for text in ("1+2", "12+345")]
    assert [together[0].text, together[2].text] == [solution.text for solution in alone]
    # evaluation cuts a text that does not end sooner
    texts = loaded.format.texts(problems, written.ids, written.lengths)
    assert all(solved.text.startswith(text) for solved, text in zip(together, texts, strict=True))
    streamed = [int(step.ids[0]) for step in loaded.stream(asked[:1])]
    text = np.array([[*asked.ids[0, : asked.prompt_lengths[0]], *streamed]], np.uint8)
    assert loaded.format.texts(problems[:1], text) == [together[0].text]


@pytest.mark.parametrize("position", WITH_STARTS)
def test_a_format_that_cannot_tell_places_is_refused(tmp_path: Path, position: str) -> None:
    with pytest.raises(UsageError, match=r"cannot tell the places|is not its place"):
        finished(tiny(tmp_path / "run", f"model.position={position}", "data.format=plain"))
    assert not (tmp_path / "run").exists()


def test_settings_that_a_position_does_not_look_at_are_refused() -> None:
    for setting in ("random_start", "bias_near", "bias_decay"):
        with pytest.raises(UsageError, match=f"model.{setting} does nothing with position 'rope'"):
            ModelConfig(position="rope", position_settings={setting: 7})
    ModelConfig(position="coupled-bias+rope", position_settings={"bias_near": 7, "random_start": 7})


@pytest.mark.parametrize(
    "position",
    ["coupled+coupled", "rope+wat", "rope+"],
)
def test_schemes_that_do_not_go_together_are_refused(position: str) -> None:
    with pytest.raises(UsageError):
        ModelConfig(position=position)


def test_two_schemes_at_once_do_what_each_of_them_does() -> None:
    together = make_positions("coupled+rope", Shape(16, 2, 1, 32))
    coupled, rope = together.parts
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 16, generator=generator)
    assert torch.equal(together.embed(x, where(1, 2, 1)), coupled.embed(x, where(1, 2, 1)))
    assert torch.equal(together.turns(where(1, 2, 1)), rope.turns(where(1, 2, 1)))
    assert bias_of(together, 0, where(1), where(1)) is None
    assert together.axes == ("place",)
    biased = make_positions("coupled-bias+alibi", Shape(16, 2, 1, 32))
    query, key = where(1, 5), where(1, 5, 7)
    late = Where(query.index + len(key.index), query.axes)
    expected = sum(bias_of(part, 0, query if part.hides else late, key) for part in biased.parts)
    torch.testing.assert_close(bias_of(biased, 0, query, key), expected)


def where(*places: int) -> Where:
    place, segment = torch.tensor([places]), torch.zeros(1, len(places)).long()
    return Where(torch.arange(len(places)), {"place": place, "segment": segment})


def test_what_comes_later_is_hidden_by_the_bias_itself() -> None:
    scheme = make_positions("coupled-bias", Shape(8, 2, 1, 32))
    stand = where(3, 4, 5)
    bias = scheme.bias(0, scheme.pairs(stand, stand))[0, 0]
    assert (bias.exp() > 0).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_coupled_bias_depends_on_the_difference_of_places_only() -> None:
    scheme = make_positions("coupled-bias", Shape(8, 2, 2, 32))
    torch.nn.init.normal_(scheme.relative["place"].near, generator=torch.Generator().manual_seed(0))
    low, high = (bias_of(scheme, 1, where(start, start + 4), where(start, start + 3)) for start in (1, 900))
    assert low.shape == (1, 2, 2, 2)
    assert torch.equal(low, high)
    assert not torch.equal(low, bias_of(scheme, 0, where(1, 5), where(1, 4))), "a layer has its own"
    # beyond the table it falls by 3 nats a place, on either side
    far = bias_of(scheme, 1, where(10), where(6, 7, 8, 12, 13, 14))[0, :, 0]
    torch.testing.assert_close(far.diff(dim=-1)[:, [0, 1, 3, 4]].abs(), torch.full((2, 4), 3.0))


def test_the_table_and_the_decay_of_coupled_bias_can_be_chosen() -> None:
    scheme = make_positions("coupled-bias", Shape(8, 2, 1, 32), {"bias_near": 3, "bias_decay": 1.5})
    torch.nn.init.normal_(scheme.relative["place"].near, generator=torch.Generator().manual_seed(0))
    bias = bias_of(scheme, 0, where(10), where(*range(1, 20)))[0, :, 0]  # (H, S)
    expected = torch.full((2, 5), 1.5)
    torch.testing.assert_close(bias[:, :6].diff(dim=-1), expected)  # up to the table's end at 7
    torch.testing.assert_close(bias[:, 12:18].diff(dim=-1), -expected)
    torch.testing.assert_close(bias[:, 6:13], scheme.relative["place"].near[0].T * UNIT)


@pytest.mark.parametrize("shape", [{}, {"bias_near": 3}, {"kv_heads": 1}, {"loops": 2}], ids=str)
def test_far_keys_that_decoding_leaves_out_have_no_weight_at_all(shape: dict[str, int]) -> None:
    settings = {"position": "coupled-bias", "qk_scale": 1.5, "max_length": 2048, **shape}
    model = Transformer.from_config(build_config(TINY, {"model": settings}).model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    rng = np.random.default_rng(0)
    digits = random_digits(rng, np.array([[300, 280], [300, 280], [300, 280]]), 300)
    rendered = get_format("reversed").render(TASKS[0].problems(digits))
    tokens = torch.from_numpy(rendered.ids).long()
    told = get_format("reversed").coordinates(rendered.problems, rendered.ids, model.axes)
    told = {axis: torch.from_numpy(known) for axis, known in told.items()}
    cache, parts, seen = model.make_cache(*tokens.shape), [], []
    with torch.inference_mode():
        for part in (slice(0, 250), slice(250, 600), *(slice(i, i + 1) for i in range(600, tokens.shape[1]))):
            if part.start == 700:  # a row has ended
                cache.keep(torch.tensor([0, 2]))
                tokens, told = tokens[[0, 2]], {axis: known[[0, 2]] for axis, known in told.items()}
                parts = [logits[[0, 2]] for logits in parts]
            parts.append(
                model(tokens[:, part], {axis: known[:, part] for axis, known in told.items()}, cache)
            )
            seen.append(cache.columns)
        whole = model(tokens, told)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-4, rtol=0)
    assert any(columns is not None and len(columns) < 300 for columns in seen)
    # at the reach itself the weight is 0: in the best case for the key, in every layer and head
    scheme, spread = model.positions, model.spread
    assert spread is not None
    reach = scheme.reach(spread)["place"]
    for layer in range(len(model.blocks)):
        bias = bias_of(scheme, layer, where(1000), where(1000, 1000 + reach, 1000 - reach))[0, :, 0]
        assert not torch.exp(bias[:, 1:] - bias[:, :1] + (spread - 104)).any()


def test_without_decay_or_qk_norm_every_key_counts() -> None:
    flat = make_positions("coupled-bias", Shape(8, 2, 1, 32), {"bias_decay": 0.0})
    assert flat.reach(100) == {}
    for name, value in (("decay", float("nan")), ("near", float("inf"))):
        odd = make_positions("coupled-bias", Shape(8, 2, 1, 32))
        getattr(odd.relative["place"], name).data.fill_(value)
        assert odd.reach(100) == {}
    sharp = make_positions("coupled-bias", Shape(8, 2, 1, 32), {"bias_near": 2})
    sharp.relative["place"].near.data[:, 2] = 30  # the own place far above all others
    assert sharp.reach(100) == {"place": 3}
    loose = Transformer.from_config(
        build_config(TINY, {"model": {"position": "coupled-bias", "qk_norm": False}}).model
    )
    assert loose.make_cache(1, 8).reach == {}


def test_coupled_rope_turns_digits_that_line_up_alike() -> None:
    scheme = make_positions("coupled-rope", Shape(16, 2, 1, 32))
    x = torch.randn(1, 1, 2, 8, generator=torch.Generator().manual_seed(0)).expand(1, 3, 2, 8)
    turned = turn(x, scheme.turns(where(4, 7, 4)))
    assert torch.equal(turned[:, 0], turned[:, 2])
    assert not torch.allclose(turned[:, 0], turned[:, 1])


def test_alibi_falls_with_the_distance_by_the_slopes_of_the_paper() -> None:
    scheme = make_positions("alibi", Shape(16, 8, 1, 32))
    bias = bias_of(scheme, 0, Where(torch.tensor([5])), Where(torch.arange(6)))
    expected = -torch.tensor([2.0**-h for h in range(1, 9)])[:, None] * torch.tensor([5.0, 4, 3, 2, 1, 0])
    torch.testing.assert_close(bias[0, :, 0], expected)


def test_abacus_counts_the_digits_of_each_number_from_its_units() -> None:
    ids = encode("123+45=861<end>")[None]
    told = get_format("reversed").coordinates(parse_expressions(["321+54"]), ids, ["run", "segment"])
    assert told["run"][0].tolist() == [1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 0]
    assert told["segment"][0].tolist() == [0] * 6 + [1] * 5


def test_randomized_numbers_are_drawn_in_training_and_fixed_after_it() -> None:
    scheme = make_positions("randomized", Shape(8, 2, 1, 16))
    assert scheme.axes == ()
    (name, drawn), *_ = scheme.draw({}, (500, 8), draws_of(1, 3)).items()
    assert (np.diff(drawn) > 0).all()
    assert (drawn.min(), drawn.max()) == (0, 63)  # of four times as many numbers as there are tokens
    # some rows are spread over all numbers, others are as close together as those of a text that is not trained on
    for token, number in enumerate(range(0, 32, 4)):
        assert (drawn[:, token] <= number).any(), "training has seen numbers as low"
        assert (drawn[:, token] > number + 8).any(), "and higher ones"
    assert drawn[:, -1].mean() > 35
    assert (scheme.draw({}, (500, 8), draws_of(1, 3))[name] == drawn).all()
    assert not (scheme.draw({}, (500, 8), draws_of(1, 4))[name] == drawn).all()
    zeros, index = torch.zeros(1, 2, 8), torch.tensor([5, 9])
    given = Where(index, {name: torch.tensor([[7, 30]])})
    assert torch.equal(scheme.embed(zeros, given)[0], scheme.table.weight[[7, 30]])
    assert torch.equal(scheme.embed(zeros, Where(index))[0], scheme.table.weight[[20, 36]])


def test_fire_is_the_formula_of_the_paper() -> None:
    scheme = make_positions("fire", Shape(16, 2, 2, 32))
    query, key = torch.tensor([3, 900]), torch.arange(4)
    bias = bias_of(scheme, 1, Where(query), Where(key))
    assert bias.shape == (1, 2, 2, 4)
    for i, j in ((0, 0), (0, 2), (1, 3)):
        c, distance, most = 0.1, int(query[i] - key[j]), max(int(query[i]), 512)
        share = torch.tensor([math.log(c * distance + 1) / math.log(c * most + 1)])
        torch.testing.assert_close(bias[0, :, i, j], scheme.networks[1](share))


@pytest.mark.parametrize("position", ["coupled", "coupled-rope"])
def test_a_random_start_has_its_room(tmp_path: Path, position: str) -> None:
    settings = (
        f"model.position={position}",
        "data.format=reversed",
        "model.random_start=100",
        "train.max_steps=2",
    )
    finished(tiny(tmp_path / "run", *settings, "model.max_length=0"))
    assert load_checkpoint(tmp_path / "run").model.max_length > 100
    with pytest.raises(UsageError, match="random_start 100 leads to places"):
        finished(tiny(tmp_path / "other", *settings, "model.max_length=64"))


def test_random_starts_move_the_places_of_a_row_together_and_leave_what_has_none() -> None:
    rendered = get_format("reversed").render(ProblemStream(tiny(Path("x")).data, 0).problems(0, 50))
    axes = ["place", "run", "segment"]
    told = get_format("reversed").coordinates(rendered.problems, rendered.ids, axes)
    positions = make_positions("coupled+abacus+coupled-bias", Shape(16, 2, 1, 64), {"random_start": 20})
    drawn = positions.draw(told, rendered.ids.shape, draws_of(0, 3))
    assert set(drawn) == {"place", "run"}
    places, moved = told["place"], drawn["place"]
    assert (moved[places == 0] == 0).all()
    steps = [set((m - p)[p > 0].tolist()) for m, p in zip(moved, places, strict=True)]
    assert all(len(step) == 1 for step in steps)
    seen = set.union(*steps)
    assert len(seen) > 10
    assert min(seen) >= 0
    assert max(seen) <= 20
    assert (positions.draw(told, rendered.ids.shape, draws_of(0, 3))["place"] == moved).all()
    assert not (positions.draw(told, rendered.ids.shape, draws_of(0, 4))["place"] == moved).all()
    still = make_positions("coupled", Shape(16, 2, 1, 64))
    assert still.draw(told, rendered.ids.shape, draws_of(0, 3)) == {}


MINE = """
from dataclasses import dataclass
from mathllm.model.positions.base import Scheme, SchemeSettings

@dataclass(frozen=True)
class MySettings(SchemeSettings):
    my_strength: float = 1.0

class Mine(Scheme):
    axes = ("run",)
    Settings = MySettings

    def embed(self, x, where):
        return x * (1 + self.settings.my_strength * where.axes["run"][..., None])

    def draw(self, told, shape, seed):
        return {"run": told["run"] + 1}
"""


def test_a_scheme_with_a_setting_and_an_axis_of_its_own_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_scheme.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(POSITIONS, "mine", Choice("my_scheme:Mine"))
    settings = ("model.position=mine+rope", "model.my_strength=0.5", "data.format=reversed")
    finished(tiny(tmp_path / "run", *settings))
    loaded = load_checkpoint(tmp_path / "run")
    assert json.loads((loaded.path / "config.json").read_text())["model"]["my_strength"] == 0.5
    assert loaded.model.axes == ("run",)
    assert loaded.solve("1+2").text
    with pytest.raises(UsageError, match=r"model.my_strength does nothing with position 'rope'") as caught:
        tiny(tmp_path / "run", "model.my_strength=0.5")
    assert "--position mine" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"model.my_strength is a number"):
        tiny(tmp_path / "run", *settings, "model.my_strength=much")
    with pytest.raises(UsageError, match="is not its place"):
        finished(tiny(tmp_path / "other", *settings[:2], "data.format=plain"))
