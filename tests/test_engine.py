"""The decoding loop against the plainest one there is: a full forward pass for each token, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mathllm.config import ModelConfig
from mathllm.errors import MathLLMError, UsageError
from mathllm.formats import Walk, get_format
from mathllm.inference import engine
from mathllm.inference.engine import CUT, ENDED, Generation, decode, generate
from mathllm.inference.sampling import SamplingParams, pick, truncate
from mathllm.model.attention import MANY_ROWS
from mathllm.model.cache import KeyValueCache
from mathllm.model.transformer import Transformer
from mathllm.registry import POSITIONS
from mathllm.tasks import get_tasks
from mathllm.tasks.expressions import parse_expressions
from mathllm.tokenizer import END, END_THINK, EQUALS, THINK, VOCAB_SIZE

VARIANTS = {
    "plain": {},
    "gqa": {"kv_heads": 2},
    "mqa": {"kv_heads": 1},
    "layernorm": {"norm": "layernorm"},
    "relu2": {"activation": "relu2"},
    "swiglu": {"activation": "swiglu"},
    "no_qk_norm": {"qk_norm": False},
    "tied": {"tie_embeddings": True},
    "loops": {"loops": 2},
}


def make_model(max_length: int = 24, **settings: object) -> Transformer:
    """A small model whose every weight matters: a fresh one has zeros that would hide a broken cache."""
    config = ModelConfig("nano", 2, 32, 4, feed_forward=48, max_length=max_length, **settings)
    model = Transformer.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.4, generator=generator)
    return model


REVERSED = get_format("reversed")


def located(model: Transformer, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The coordinates of ids (B, T) that the model needs."""
    told = walk_of(model, np.arange(len(ids))).read(ids.numpy().astype(np.uint8))
    return {axis: torch.from_numpy(known) for axis, known in told.items()}


def walk_of(model: Transformer, rows: np.ndarray) -> Walk:
    """What follows so many texts: in this format nothing hangs on their problems but the task."""
    return Walk(REVERSED, parse_expressions(["1+1"] * len(rows)), model.axes)


def columns(coordinates: dict[str, torch.Tensor], part: slice) -> dict[str, torch.Tensor]:
    return {axis: known[:, part] for axis, known in coordinates.items()}


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make_model(position="rope")


def random_prompts(
    n: int, shortest: int, longest: int, seed: int = 0, whole: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [n, longest] and lengths [n] of nonsense; `whole` ends with `=`, as every prompt of a problem does."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, n)
    ids = rng.integers(0, EQUALS + 1, (n, longest)).astype(np.uint8)
    if whole:
        ids[np.arange(n), lengths - 1] = EQUALS
    ids[np.arange(longest) >= lengths[:, None]] = END
    return ids, lengths


@torch.no_grad()
def plain_greedy(
    model: Transformer, prompt: np.ndarray, most: int, stop: int = END
) -> tuple[list[int], list[float]]:
    """Greedy decoding of one prompt without a cache."""
    tokens, log_probs = [int(i) for i in prompt], []
    while len(tokens) < model.max_length and len(log_probs) < most:
        ids = torch.tensor([tokens])
        scores = model(ids, located(model, ids))[0, -1].log_softmax(-1)
        tokens.append(int(scores.argmax()))
        log_probs.append(float(scores.max()))
        if tokens[-1] == stop:
            break
    return tokens[len(prompt) :], log_probs


def rows_of(written: Generation) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(written.ids, written.lengths, strict=True)]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [3, MANY_ROWS])
@torch.no_grad()
def test_cached_logits_are_uncached_logits(position, variant, rows):
    model = make_model(position=position, **VARIANTS[variant])
    ids = torch.from_numpy(random_prompts(rows, 12, 12)[0]).long()
    told = located(model, ids)
    whole = model(ids, told)
    assert whole.std() > 0.1, "a model without an opinion would pass with any cache"
    for cuts in ([*range(1, 13)], [5, 12], [5, 6, 12], [1, 12]):  # token by token, and chunks after a chunk
        cache = model.make_cache(rows, 12)
        parts = [
            model(ids[:, a:b], columns(told, slice(a, b)), cache)
            for a, b in zip([0, *cuts], cuts, strict=False)
        ]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_batch_agrees_with_one_at_a_time(position):
    model = make_model(position=position)
    prompts, lengths = random_prompts(20, 1, 9, whole=True)
    written = generate(model, prompts, lengths, 20, walk=lambda rows: walk_of(model, rows))
    for row, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        expected, log_probs = plain_greedy(model, prompt[:n], 20)
        assert written.ids[row, : written.lengths[row]].tolist() == expected
        assert (written.reasons[row] == ENDED) == (expected[-1] == END)
        np.testing.assert_allclose(written.log_probs[row, : len(log_probs)], log_probs, atol=2e-4)
        # behind the end: padding, and no probability
        assert (written.ids[row, len(expected) :] == END).all()
        assert (written.log_probs[row, len(expected) :] == 0).all()


def test_rows_that_end_leave_the_batch_and_change_nothing(model, monkeypatch):
    kept = []
    keep = KeyValueCache.keep
    monkeypatch.setattr(
        KeyValueCache, "keep", lambda cache, rows: (kept.append(len(rows)), keep(cache, rows))
    )
    prompts, lengths = random_prompts(64, 4, 4)
    written = generate(model, prompts, lengths, 20, stop=4)
    assert len(kept) > 1
    assert len(set(written.lengths.tolist())) > 4  # they do end at different times
    for row, prompt in enumerate(prompts):
        expected, log_probs = plain_greedy(model, prompt, 20, stop=4)
        assert rows_of(written)[row] == expected
        np.testing.assert_allclose(written.log_probs[row, : len(log_probs)], log_probs, atol=2e-4)
    assert {END} >= set(written.ids[np.arange(written.ids.shape[1]) >= written.lengths[:, None]].tolist())


@pytest.mark.parametrize("position", ["rope", "coupled-bias"])
def test_long_prompts_are_read_in_pieces_without_a_difference(position, monkeypatch):
    model, (prompts, lengths) = make_model(position=position), random_prompts(5, 12, 15, whole=True)

    def write() -> Generation:
        return generate(model, prompts, lengths, 8, walk=lambda rows: walk_of(model, rows))

    whole = write()
    widths, forward = [], Transformer.forward

    def watched(self, tokens, *rest):
        widths.append(tokens.shape[1])
        return forward(self, tokens, *rest)

    monkeypatch.setattr(Transformer, "forward", watched)
    monkeypatch.setattr(engine, "SCORES", 60)
    pieces = write()
    assert 1 < max(widths) < 6
    assert rows_of(pieces) == rows_of(whole)


def test_batch_size_is_only_a_matter_of_speed(model):
    prompts, lengths = random_prompts(30, 2, 5)
    whole, small = (generate(model, prompts, lengths, 20, batch_size=size) for size in (1024, 4))
    assert rows_of(whole) == rows_of(small)
    assert whole.reasons.tolist() == small.reasons.tolist()


def test_steps_name_their_rows_and_logits(model):
    prompts, _ = random_prompts(16, 4, 4)
    seen: dict[int, list[int]] = {}
    ended = set()
    for step in decode(model, torch.from_numpy(prompts).long(), 20, stop=4):
        assert not step.logits.requires_grad
        assert len(step.rows) > 0  # it is over as soon as nobody runs
        assert len(step.rows) == len(step.ids) == len(step.log_probs) == len(step.logits)
        assert not ended & set(step.rows.tolist())  # no row is heard of again
        assert step.ids.tolist() == step.logits.argmax(-1).tolist()
        torch.testing.assert_close(step.log_probs, step.logits.log_softmax(-1).amax(-1))
        for row, token in zip(step.rows.tolist(), step.ids.tolist(), strict=True):
            seen.setdefault(row, []).append(token)
            ended |= {row} if token == 4 else set()
    assert [seen[row] for row in range(16)] == [
        plain_greedy(model, prompt, 20, stop=4)[0] for prompt in prompts
    ]


def test_nothing_is_written_past_the_models_length():
    model = make_model(max_length=10, position="learned")  # which has no vector for an eleventh position
    prompts, lengths = random_prompts(20, 6, 9)
    written = generate(model, prompts, lengths, 1000, stop=VOCAB_SIZE)  # a token that never comes
    assert (written.lengths == 10 - lengths).all()
    assert (written.reasons == CUT).all()
    assert written.ids.shape[1] == (10 - lengths).max()
    assert list(decode(model, torch.zeros(2, 10, dtype=torch.long), 5)) == []
    with pytest.raises(UsageError, match="10 tokens leaves no room in the model's 10") as error:
        generate(model, np.zeros((1, 10), np.uint8), np.array([10]), 5)
    assert error.value.hint


@pytest.mark.parametrize("most", [0, 1, 3])
def test_max_new_tokens(model, most):
    prompts, lengths = random_prompts(10, 3, 6)
    written = generate(model, prompts, lengths, most, stop=VOCAB_SIZE)
    assert written.ids.shape == written.log_probs.shape == (10, most)
    assert (written.lengths == most).all()
    assert (written.reasons == CUT).all()


def test_a_row_may_end_with_the_last_token_that_fits(model):
    prompt = random_prompts(1, 4, 4)[0]
    first = plain_greedy(model, prompt[0], 1)[0][0]
    written = generate(model, prompt, np.array([4]), 1, stop=first)
    assert written.reasons.tolist() == [ENDED]


def test_no_prompts_at_all(model):
    written = generate(model, np.zeros((0, 5), np.uint8), np.zeros(0, np.int64), 10)
    assert written.ids.shape == (0, 0)
    assert list(decode(model, torch.zeros(0, 5, dtype=torch.long), 10)) == []


def test_prompts_are_left_as_they_were(model):
    prompts, lengths = random_prompts(8, 2, 5)
    before = prompts.copy()
    generate(model, prompts, lengths, 10)
    assert (prompts == before).all()


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_only_allowed_tokens_are_written(model, temperature):
    prompts = torch.from_numpy(random_prompts(50, 4, 4)[0]).long()
    allowed = (2, 7, EQUALS)

    class Held(Walk):
        """Holds every text to the same few tokens."""

        def __init__(self, rows: np.ndarray) -> None:
            super().__init__(REVERSED, parse_expressions(["1+1"] * len(rows)), ())
            self.restricts = True

        def allowed(self) -> np.ndarray:
            return np.isin(np.arange(16), allowed)[None].repeat(len(self.task), 0)

    steps = list(
        decode(
            model,
            prompts,
            10,
            params=SamplingParams(temperature),
            stop=EQUALS,
            generator=torch.Generator().manual_seed(0),
            walk=Held(np.arange(50)),
        )
    )
    written = torch.cat([step.ids for step in steps])
    assert set(written.tolist()) <= set(allowed)
    assert temperature == 0 or set(written.tolist()) == set(allowed)
    # the likeliest of those allowed, and probabilities among them
    logits = model(prompts)[:, -1, list(allowed)]
    if temperature == 0:
        assert steps[0].ids.tolist() == [allowed[i] for i in logits.argmax(-1).tolist()]
        torch.testing.assert_close(steps[0].log_probs, logits.log_softmax(-1).amax(-1))
    assert (steps[0].logits.softmax(-1)[:, list(allowed)].sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_thought_that_is_counted_has_as_many_digits_as_its_problem_says(model, temperature):
    steps, texts = get_format("steps"), ["3+4", "1*3-2", "9", "1+2+3+4", "5-5-5"] * 8
    gold = steps.render(parse_expressions(texts, get_tasks("chain")))
    written = generate(
        model,
        gold.ids,
        gold.prompt_lengths,
        9,
        params=SamplingParams(temperature),
        generator=torch.Generator().manual_seed(0),
        batch_size=7,
        walk=lambda rows: Walk(steps, gold.problems[rows], model.axes),
    )
    for ids, size in zip(written.ids, gold.problems.num_operands, strict=True):
        assert ids[0] == THINK
        assert (ids[1:size] < 10).all()
        assert ids[size] == END_THINK
    assert temperature == 0 or len(set(written.ids[:, 1].tolist())) > 3


def chi_square(params: SamplingParams, logits: torch.Tensor, expected: torch.Tensor) -> float:
    n = 40_000
    ids = pick(logits.expand(n, -1), params, torch.Generator().manual_seed(3))
    counts = torch.bincount(ids, minlength=len(expected)).double()
    assert (counts[expected == 0] == 0).all()
    likely = expected > 0
    return float(((counts - n * expected)[likely] ** 2 / (n * expected[likely])).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_softmax(temperature):
    logits = torch.linspace(-2.0, 2.0, VOCAB_SIZE)[
        torch.randperm(VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    ]
    expected = (logits.double() / temperature).softmax(-1)
    # 15 degrees of freedom: above 45 once in 10,000 seeds
    assert chi_square(SamplingParams(temperature), logits, expected) < 45
    cut = torch.where(expected >= expected.sort(descending=True).values[3], expected, 0)
    assert chi_square(SamplingParams(temperature, top_k=4), logits, cut / cut.sum()) < 25


def test_log_probabilities_are_those_of_the_model_whatever_the_sampling(model):
    prompts, lengths = random_prompts(30, 3, 6)
    params = SamplingParams(temperature=2.5, top_k=6, top_p=0.9)
    written = generate(model, prompts, lengths, 12, params=params, generator=torch.Generator().manual_seed(0))
    for row, n in enumerate(lengths):
        m = int(written.lengths[row])
        text = torch.from_numpy(np.concatenate([prompts[row, :n], written.ids[row, :m]])).long()
        with torch.no_grad():
            scores = model(text[None, :-1])[0, n - 1 :].log_softmax(-1)
        expected = scores.gather(-1, text[n:, None])[:, 0]
        np.testing.assert_allclose(written.log_probs[row, :m], expected, atol=2e-4)


def test_a_seed_gives_the_same_samples_again(model):
    prompts, lengths = random_prompts(20, 3, 6)
    params = SamplingParams(temperature=1.5)

    def sample(seed: int) -> list[list[int]]:
        return rows_of(
            generate(
                model,
                prompts,
                lengths,
                12,
                params=params,
                generator=torch.Generator().manual_seed(seed),
            )
        )

    torch.manual_seed(0)
    first = sample(1)
    torch.manual_seed(99)  # the global state has no say
    assert sample(1) == first
    assert sample(2) != first


weights_of_tokens = st.lists(st.floats(0.001, 1.0), min_size=2, max_size=VOCAB_SIZE)


@given(weights_of_tokens, st.integers(0, 20), st.floats(0.01, 1.0))
def test_top_k_and_top_p_keep_exactly_the_right_tokens(weights, top_k, top_p):
    probabilities = torch.tensor([weights], dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = truncate(probabilities, SamplingParams(1.0, top_k, top_p))[0]
    expected, mass = [], 0.0
    for rank, i in enumerate(sorted(range(len(weights)), key=lambda i: (-float(probabilities[0, i]), i))):
        if (top_k and rank >= top_k) or (top_p < 1 and mass >= top_p + 1e-12):
            break
        if abs(mass - top_p) < 1e-9:
            return  # rounding decides, and either way is right
        expected.append(i)
        mass += float(probabilities[0, i])
    assert kept.nonzero()[:, 0].tolist() == sorted(expected)
    assert (kept[expected] == probabilities[0, expected]).all()


def test_top_k_and_top_p_by_hand():
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    for params, kept in (
        (SamplingParams(1.0), [0, 1, 2, 3]),
        (SamplingParams(1.0, top_k=1), [1]),
        (SamplingParams(1.0, top_k=2), [1, 3]),
        (SamplingParams(1.0, top_k=9), [0, 1, 2, 3]),
        (SamplingParams(1.0, top_p=0.01), [1]),
        (SamplingParams(1.0, top_p=0.39), [1]),
        (SamplingParams(1.0, top_p=0.41), [1, 3]),
        (SamplingParams(1.0, top_p=0.71), [1, 2, 3]),
        (SamplingParams(1.0, top_k=2, top_p=0.95), [1, 3]),
    ):
        assert truncate(weights, params)[0].nonzero()[:, 0].tolist() == kept, params
    # no token of a row that is all but certain goes missing while nothing is asked for
    assert (truncate(torch.tensor([[1.0, 1e-12]]), SamplingParams(1.0)) > 0).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-40, 5e-324])
def test_almost_no_temperature_is_greedy(model, temperature):
    prompts, lengths = random_prompts(20, 3, 6)
    cold = generate(model, prompts, lengths, 12, params=SamplingParams(temperature))
    assert rows_of(cold) == rows_of(generate(model, prompts, lengths, 12))


def test_ties_at_no_temperature_go_to_one_of_the_best():
    logits = torch.tensor([[1.0, 5.0, 5.0, -torch.inf]])
    assert {int(pick(logits, SamplingParams(1e-40))) for _ in range(20)} <= {1, 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
    ],
)
def test_sampling_settings_that_make_no_sense(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        SamplingParams(**settings)


def test_damaged_weights_are_an_error_when_sampling():
    model = make_model()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    prompts, lengths = random_prompts(3, 3, 3)
    with pytest.raises(MathLLMError, match="damaged"):
        generate(model, prompts, lengths, 5, params=SamplingParams(1.0))


def test_reasons_have_names():
    assert engine.REASONS[ENDED] == "end"
    assert engine.REASONS[CUT] == "length"
