"""Which split a problem is in: a property of the problem alone, for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Question, arrays, ask, batches, questions

from mathllm.errors import UsageError
from mathllm.tasks import Problems, Sampling, get_tasks, sample
from mathllm.tasks.expressions import parse_expressions
from mathllm.tasks.splits import SPLITS, TEST, TRAIN, VAL, SplitRatios, hash_problems, split_of

# never change these: problems that were held out would be trained on
FROZEN = {
    "0+0": 0xD49FFE2F0EF90131,
    "0-0": 0x3851753BE06A92A3,
    "12+34": 0x355A53463748042D,
    "99+1": 0xA445BDD63F057A8B,
    "100-99": 0x49E602945494BC79,
    "99-100": 0x59B350A25ACB9E5B,
    "1+2+3": 0xB01152F184E60EAE,
    "123456789012345678901234567890+1": 0xAC1E1F50F82C5B7B,
    "12*3": 0x9E10AE8CBF248465,
    "7*8": 0x97F4AEE3DE3D36A0,
    "123456789012345678901234567890*9": 0x3E7FBA813D0ADFBC,
    "-12*34": 0x8072BD1C8E980FBD,
    "-12*-34*5": 0x0584A50B17679BC4,
}
FROZEN_CHAINS = {
    "8": 0x61E5CB94D25D9A0A,
    "3+4*7-2*3": 0xA39A32E52DFE44E2,
    "3+9": 0xDC1DA9E72E00256A,
    "3*7+9-0": 0xCD518E970E580A93,
}


def hashes(*texts: str) -> list[int]:
    return [int(value) for value in hash_problems(arrays(list(map(ask, texts))))]


def many(n: int = 20_000, **kwargs: object) -> Problems:
    how = Sampling(max_digits=8, max_operands=4, signed=True, **kwargs)  # type: ignore[arg-type]
    return sample(np.random.default_rng(5), n, get_tasks("addition,subtraction"), how)


def test_the_hash_never_changes() -> None:
    assert dict(zip(FROZEN, hashes(*FROZEN), strict=True)) == FROZEN
    chains = parse_expressions(list(FROZEN_CHAINS), get_tasks("chain"))
    assert dict(zip(FROZEN_CHAINS, hash_problems(chains).tolist(), strict=True)) == FROZEN_CHAINS


def test_the_splits_never_change() -> None:
    texts = ["658+189", "7+5", "45+810", "3+3", "41+41", "10-1", "1-10", "9-9"]
    codes = split_of(arrays(list(map(ask, texts))), SplitRatios(0.4, 0.3))
    assert [SPLITS[code] for code in codes] == ["val", "test", "train", "val", "test", "val", "val", "test"]


@given(questions(symbols="+*", max_operands=6), st.randoms())
def test_the_order_of_addends_and_factors_does_not_matter(question: Question, random) -> None:  # type: ignore[no-untyped-def]
    other = list(question.operands)
    random.shuffle(other)
    one, two = hash_problems(arrays([question, Question(question.symbol, tuple(other))]))
    assert one == two


@given(questions(symbols="-"))
def test_the_order_in_a_subtraction_does_matter(question: Question) -> None:
    a, b = question.operands
    if a != b:
        assert len(set(hashes(f"{a}-{b}", f"{b}-{a}"))) == 2


@given(st.sets(questions(max_digits=6, max_operands=4), min_size=2, max_size=20))
def test_different_problems_have_different_hashes(asked: set[Question]) -> None:
    canonical = {(q.symbol, tuple(sorted(q.operands)) if q.symbol == "+" else q.operands) for q in asked}
    assert len(set(hash_problems(arrays(list(asked))).tolist())) == len(canonical)


def test_zeros_count_as_operands() -> None:
    texts = ["0+0", "0-0", "0+0+0", "5+0", "5+0+0", "5-0", "0-5", "5+5", "5+5+0", "0+10", "10-0", "1+0"]
    assert len(set(hashes(*texts))) == len(texts)


def test_all_sums_and_differences_of_small_numbers_have_hashes_of_their_own() -> None:
    sums = [f"{a}+{b}" for a in range(60) for b in range(a + 1)]
    differences = [f"{a}-{b}" for a in range(60) for b in range(60)]
    assert len(set(hashes(*sums, *differences))) == len(sums) + len(differences)


@given(batches(max_digits=12, max_operands=4), st.integers(0, 3), st.integers(0, 9))
def test_how_much_room_the_arrays_have_does_not_matter(
    asked: list[Question], more_operands: int, more_digits: int
) -> None:
    tight, wide = arrays(asked), arrays(asked, more_operands, more_digits)
    assert (hash_problems(tight) == hash_problems(wide)).all()
    assert [int(hash_problems(arrays([q]))[0]) for q in asked] == hash_problems(tight).tolist()


@pytest.mark.parametrize("ratios", [(0.9, 0.05), (0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.3, 0.0), (0.1, 0.2)])
def test_splits_have_their_shares(ratios: tuple[float, float]) -> None:
    problems = many()
    split = split_of(problems, SplitRatios(*ratios))
    assert split.dtype == np.uint8
    for code, share in zip((TRAIN, VAL, TEST), (*ratios, 1 - sum(ratios)), strict=True):
        assert abs((split == code).mean() - share) < 0.015
        if abs(share) < 1e-9:
            assert not (split == code).any()


def test_shares_hold_for_every_kind_of_problem() -> None:
    problems = many()
    test = split_of(problems, SplitRatios(0.7, 0.1)) == TEST
    widths, operands = problems.widths, problems.num_operands
    for group in (
        widths == 2,
        widths == 8,
        operands == 2,
        operands == 4,
        problems.task == 0,
        problems.task == 1,
    ):
        assert group.sum() > 500
        assert abs(test[group].mean() - 0.2) < 0.09


def test_a_smaller_test_split_is_a_part_of_a_larger_one() -> None:
    problems = many()
    before = np.ones(len(problems), bool)
    for train, val in ((0.2, 0.2), (0.5, 0.3), (0.8, 0.1), (0.9, 0.05), (0.9, 0.09), (0.95, 0.05)):
        test = split_of(problems, SplitRatios(train, val)) == TEST
        assert not (test & ~before).any()
        before = test


def test_the_key_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = many(2000)
    before = hash_problems(problems)
    monkeypatch.setattr("mathllm.tasks.splits._KEY", 1)
    assert (hash_problems(problems) != before).mean() > 0.99


@pytest.mark.parametrize(
    ("train", "val"),
    [(0, 0.5), (-0.1, 0.5), (0.9, -0.1), (0.9, 0.2), (1.1, 0), (float("nan"), 0), (0.5, float("nan"))],
)
def test_shares_that_are_none_are_refused(train: float, val: float) -> None:
    with pytest.raises(UsageError, match="must be shares of a whole") as caught:
        SplitRatios(train, val)
    assert "--train-ratio" in (caught.value.hint or "")
