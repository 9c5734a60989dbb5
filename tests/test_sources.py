"""Where training problems come from: law 5 (no problem in two splits, no accidental repeats), exact epochs, batches."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mathllm.config import DataConfig
from mathllm.data.batches import IGNORED, make_batch, micro_batches
from mathllm.data.sources import ProblemFile, ProblemStream, Source, held_out, longest_text
from mathllm.errors import UsageError
from mathllm.formats import Format, get_format
from mathllm.tasks import Problems, concatenate
from mathllm.tasks.expressions import expressions, parse_expressions
from mathllm.tasks.splits import TEST, TRAIN, VAL, SplitRatios, hash_problems, split_of

KINDS = [
    DataConfig(),
    DataConfig(max_digits=1, train_ratio=0.5, val_ratio=0.25),
    DataConfig(task="addition,subtraction", sampling="balanced", signed=True),
    DataConfig(max_digits=20, max_operands=4, sampling="uniform"),
]


def kind_id(data: DataConfig) -> str:
    return f"{data.task}-{data.max_digits}-{data.sampling}"


def some(source: Source, steps: int, n: int = 64) -> Problems:
    return concatenate([source.problems(step, n) for step in range(steps)])


def equal(one: Problems, other: Problems) -> bool:
    return expressions(one) == expressions(other)


@pytest.mark.parametrize("data", KINDS, ids=kind_id)
def test_a_stream_shows_train_problems_only(data: DataConfig) -> None:
    ratios = SplitRatios(data.train_ratio, data.val_ratio)
    for seed in (0, 1, 2**40):
        problems = some(ProblemStream(data, seed), 20)
        assert len(problems) == 20 * 64
        assert (split_of(problems, ratios) == TRAIN).all()


@pytest.mark.parametrize("data", KINDS, ids=kind_id)
def test_what_is_held_out_is_never_in_a_stream(data: DataConfig) -> None:
    ratios = SplitRatios(data.train_ratio, data.val_ratio)
    held = {split: held_out(data, split, 300) for split in (VAL, TEST)}
    for split, problems in held.items():
        assert (split_of(problems, ratios) == split).all()
        assert len(np.unique(hash_problems(problems))) == len(problems), "a problem is there twice"
    # written the other way round it is the same problem
    turned = {split: {_canonical(text) for text in expressions(problems)} for split, problems in held.items()}
    assert not turned[VAL] & turned[TEST]
    streamed = {_canonical(text) for text in expressions(some(ProblemStream(data, 5), 50))}
    assert not streamed & (turned[VAL] | turned[TEST])


def _canonical(text: str) -> str:
    return text if "-" in text else "+".join(sorted(text.split("+")))


def test_held_out_gives_as_many_as_there_are() -> None:
    data = DataConfig(max_digits=1, train_ratio=0.5, val_ratio=0.25)
    everything = parse_expressions([f"{a}+{b}" for a in range(10) for b in range(a, 10)])
    there_are = int((split_of(everything, SplitRatios(0.5, 0.25)) == VAL).sum())
    assert len(held_out(data, VAL, 1000)) == there_are
    assert len(held_out(data, VAL, 3)) == 3


def test_what_is_held_out_never_changes() -> None:
    """A figure of today can be compared with one of last year."""
    assert expressions(held_out(DataConfig(), VAL, 3)) == ["934+375", "3+69", "4+387"]
    assert expressions(held_out(DataConfig(), TEST, 3)) == ["2+0", "568+1", "0+11"]
    assert expressions(held_out(DataConfig(), TEST, 3, seed=1)) != ["2+0", "568+1", "0+11"]


def test_a_stream_is_a_function_of_seed_and_step() -> None:
    data = DataConfig()
    stream, again = ProblemStream(data, 7), ProblemStream(data, 7)
    later = [stream.problems(step, 32) for step in range(5)]
    assert equal(again.problems(3, 32), later[3]), "asked for out of order"
    assert equal(again.problems(3, 32), later[3]), "asked for twice"


def test_steps_and_seeds_do_not_repeat_each_other() -> None:
    data = DataConfig(max_digits=12)
    batches = [ProblemStream(data, seed).problems(step, 64) for seed in (0, 1, 2) for step in range(40)]
    batches += [ProblemStream(data, 0).problems(step, 64) for step in (1000, 2**20, 2**32)]
    batches += [held_out(data, split, 64) for split in (VAL, TEST)]
    texts = [text for problems in batches for text in expressions(problems)]
    # numbers of 12 digits do not meet by chance; short ones do
    long = [text for text in texts if len(text) > 20]
    assert len(long) > 50
    assert len(set(long)) == len(long)


def test_a_curriculum_goes_from_one_digit_to_all_of_them() -> None:
    data = DataConfig(max_digits=4, curriculum_steps=100)
    stream, plain = ProblemStream(data, seed=1), ProblemStream(DataConfig(max_digits=4), seed=1)
    longest = {step: int(stream.problems(step, 200).widths.max()) for step in (0, 24, 25, 50, 75, 99, 100)}
    assert longest == {0: 1, 24: 1, 25: 2, 50: 3, 75: 4, 99: 4, 100: 4}
    later = ProblemStream(DataConfig(max_digits=4, curriculum_steps=90, curriculum_start=2), seed=1)
    longest = {step: int(later.problems(step, 200).widths.max()) for step in (0, 29, 30, 60, 90)}
    assert longest == {0: 2, 29: 2, 30: 3, 60: 4, 90: 4}
    assert (stream.problems(100, 50).operands == plain.problems(100, 50).operands).all()
    with pytest.raises(UsageError, match="needs an endless stream"):
        DataConfig(curriculum_steps=5, num_examples=10)


def test_a_stream_that_has_nothing_to_train_on_says_so() -> None:
    data = DataConfig(max_digits=1, train_ratio=0.002, val_ratio=0.5)
    with pytest.raises(UsageError, match="train split has no problem"):
        ProblemStream(data, 0).problems(0, 8)
    with pytest.raises(UsageError, match="test split has no problem"):
        held_out(dataclasses.replace(data, train_ratio=0.9, val_ratio=0.1), TEST, 8)


def numbered(n: int) -> Problems:
    return parse_expressions([f"{i}+0" for i in range(n)])


def rows(problems: Problems) -> list[int]:
    return [int(text.split("+")[0]) for text in expressions(problems)]


@pytest.mark.parametrize(("n", "batch"), [(20, 5), (23, 5), (7, 20), (1, 3), (64, 64)])
def test_a_file_gives_every_row_once_an_epoch(n: int, batch: int) -> None:
    source = ProblemFile(numbered(n), seed=1)
    epochs, steps = 4, -(-4 * n // batch)
    drawn = [row for step in range(steps) for row in rows(source.problems(step, batch))]
    assert len(drawn) == steps * batch, "a batch is short"
    order = [tuple(drawn[e * n : (e + 1) * n]) for e in range(epochs)]
    for epoch in order:
        assert sorted(epoch) == list(range(n))
    if n > 5:
        assert len(set(order)) == epochs, "an epoch repeats the order of another"


def test_a_file_is_a_function_of_seed_and_step() -> None:
    source = ProblemFile(numbered(50), seed=1)
    drawn = [rows(source.problems(step, 8)) for step in range(20)]
    fresh = ProblemFile(numbered(50), seed=1)
    assert [rows(fresh.problems(step, 8)) for step in reversed(range(20))] == drawn[::-1]
    assert rows(ProblemFile(numbered(50), seed=2).problems(0, 8)) != drawn[0]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UsageError, match="no problems"):
        ProblemFile(numbered(3)[:0], seed=0)


@pytest.mark.parametrize("data", KINDS, ids=kind_id)
def test_no_text_is_longer_than_the_longest(data: DataConfig) -> None:
    for name in ("column", "pairwise", "reversed", "plain"):
        written = dataclasses.replace(data, format=name, zero_pad=name == "plain")
        lengths = get_format(name, written.zero_pad).render(some(ProblemStream(written, 0), 30)).lengths
        assert lengths.max() <= longest_text(written)


CPU = torch.device("cpu")
COLUMN: Format = get_format("column")


def test_a_batch_asks_for_the_completion_and_nothing_else() -> None:
    rendered = COLUMN.render(parse_expressions(["1+2", "58+67"]))
    batch = make_batch(rendered, np.array([1, 0]), CPU)
    assert batch.inputs.shape == batch.targets.shape == (2, rendered.lengths.max() - 1)
    for row, source in enumerate([1, 0]):
        ids = rendered.ids[source].astype(int)
        prompt, end = rendered.prompt_lengths[source], rendered.lengths[source]
        wanted = (
            [IGNORED] * (prompt - 1) + list(ids[prompt:end]) + [IGNORED] * (batch.targets.shape[1] + 1 - end)
        )
        assert batch.targets[row].tolist() == wanted
        assert batch.inputs[row, : end - 1].tolist() == list(ids[: end - 1])


@pytest.mark.parametrize(
    ("max_rows", "max_tokens"), [(1, 10**6), (4, 10**6), (1000, 60), (7, 90), (1000, 1), (3, 1)]
)
def test_micro_batches_hold_every_row_once_and_keep_their_limits(max_rows: int, max_tokens: int) -> None:
    rendered = COLUMN.render(ProblemStream(DataConfig(max_digits=5), 0).problems(0, 40))
    some_rows: NDArray[np.int64] = np.arange(0, 40, 2)
    batches = list(micro_batches(rendered, some_rows, max_rows, max_tokens, CPU))
    for batch in batches:
        assert len(batch.inputs) <= max_rows
        assert batch.inputs.numel() <= max_tokens or len(batch.inputs) == 1
        # no wider than its longest row needs
        assert (batch.targets[:, -1] != IGNORED).any()
    wanted = sorted(rendered.ids[row, : rendered.lengths[row] - 1].tolist() for row in some_rows)
    found = [
        ids[: int((targets != IGNORED).nonzero().max()) + 1].tolist()
        for batch in batches
        for ids, targets in zip(batch.inputs, batch.targets, strict=True)
    ]
    assert sorted(found) == wanted
