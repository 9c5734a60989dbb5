"""Evaluation: the verdicts of greedy decoding, whatever the draft, the batches and the chunks."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from judged import BOTH_TASKS, CONFIG, half_trained, mixed_problems, of, report_of

from mathllm import device
from mathllm.config import ModelConfig
from mathllm.errors import UsageError
from mathllm.evaluation import report
from mathllm.evaluation.exact_match import Verdicts, judge
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.evaluation.report import evaluate_problems
from mathllm.evaluation.show import headline
from mathllm.formats import formats_for
from mathllm.inference import engine, scoring
from mathllm.inference.engine import CUT, ENDED
from mathllm.model.transformer import Transformer
from mathllm.registry import POSITIONS
from mathllm.tasks import concatenate
from mathllm.tasks.expressions import expressions, parse_expression, parse_expressions
from mathllm.tokenizer import END, decode_rows


def assert_same(one: Verdicts, other: Verdicts) -> None:
    assert (one.written.lengths == other.written.lengths).all()
    assert decode_rows(one.written.ids, one.written.lengths) == decode_rows(
        other.written.ids, other.written.lengths
    )
    for name in ("answer_correct", "completion_correct", "token_hits", "token_counts"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    assert (one.written.reasons == other.written.reasons).all()


# the draft


@pytest.mark.parametrize("format", ["column", "plain"])
def test_gold_as_draft_is_greedy_decoding(format: str) -> None:
    model, problems = half_trained(format), mixed_problems()
    greedy = judge(model, problems, draft=False)
    assert greedy.decoded.all()
    assert 20 < greedy.answer_correct.sum() < len(problems) - 20, "the model should be right here and there"
    for batch_size in (1024, 7):
        quick = judge(model, problems, batch_size=batch_size)
        assert_same(quick, greedy)
        assert not (quick.decoded & greedy.completion_correct).all()
        assert (quick.decoded | greedy.completion_correct).all()
        # a row that is certain was not decoded, and nearly every right one is certain
        assert quick.decoded.sum() <= (~greedy.completion_correct).sum() + 3


def test_a_narrow_lead_is_decided_by_decoding() -> None:
    """Cached and parallel sums differ in the last bits: where two tokens all but tie, the draft proves nothing."""
    narrow, problems = copy.deepcopy(half_trained()), mixed_problems()
    assert narrow.model.head is not None
    with torch.no_grad():
        narrow.model.head.weight *= 1e-6  # the same first choice everywhere, ahead by next to nothing
    verdicts = judge(narrow, problems)
    assert verdicts.decoded.all()
    assert verdicts.answer_correct.sum() > 20


def test_the_texts_are_those_of_the_simplest_decoder() -> None:
    problems = mixed_problems()[::10]
    for model, draft in (
        (half_trained(), True),
        (half_trained(), False),
        (of(Transformer.from_config(CONFIG)), True),
    ):
        verdicts = judge(model, problems, draft=draft)
        for row in range(len(problems)):
            ids = verdicts.gold.ids[row, : verdicts.gold.prompt_lengths[row]].tolist()
            while len(ids) < model.max_length and ids[-1] != END:
                with torch.inference_mode():
                    ids.append(int(model.model(torch.tensor([ids]))[0, -1].argmax()))
            assert verdicts.written.ids[row, : verdicts.written.lengths[row]].tolist() == ids
            assert (verdicts.written.ids[row, verdicts.written.lengths[row] :] == END).all()
            assert verdicts.written.reasons[row] == (ENDED if ids[-1] == END else CUT)


def test_one_problem_at_a_time_gives_the_same() -> None:
    model, problems = half_trained(), mixed_problems()[::9]
    together = judge(model, problems)
    for row in range(len(problems)):
        alone = judge(model, problems[row : row + 1])
        assert_same(alone, judge(model, problems[row : row + 1], draft=False))
        assert alone.answer_correct[0] == together.answer_correct[row]
        assert alone.token_hits[0] == together.token_hits[row]


@pytest.mark.parametrize("format", formats_for("addition"))
def test_an_untrained_model_is_decoded(format: str) -> None:
    # its logits are all zero: every token ties with every other, and no draft may be taken for certain
    model, problems = of(Transformer.from_config(CONFIG), format), mixed_problems()[::9]
    quick, greedy = judge(model, problems), judge(model, problems, draft=False)
    assert quick.decoded.all()
    assert_same(quick, greedy)
    held_to = 2 if format == "slots" else 0  # <think> and </think>: nothing else may stand there
    assert (quick.token_hits == held_to).all()
    assert (quick.written.reasons == CUT).all()
    assert report_of(quick).errors.kinds["no_end"] == len(problems)


def test_a_model_of_nan_is_wrong_everywhere() -> None:
    model = Transformer.from_config(CONFIG)
    torch.nn.init.constant_(model.embedding.weight, float("nan"))
    verdicts = judge(of(model, "plain"), mixed_problems()[:20])
    assert verdicts.decoded.all()
    assert not verdicts.answer_correct.any()
    assert not verdicts.token_hits.any()


def test_several_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_POOLS", {})  # as in a new process
    model, problems = half_trained(), mixed_problems()
    alone = judge(model, problems, batch_size=16)
    torch.set_num_threads(3)
    try:
        assert_same(judge(model, problems, batch_size=16), alone)
        assert torch.get_num_threads() == 3
        # threads that come later work alone, too: see device.workers
        with ThreadPoolExecutor(1) as new_thread:
            assert new_thread.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("position", POSITIONS)
def test_judging_leaves_the_mode_of_the_model_which_makes_no_difference(position: str) -> None:
    model = Transformer.from_config(replace(CONFIG, position=position))
    torch.nn.init.normal_(model.head.weight)  # it starts at zero, where every model would agree
    found = []
    for mode in (True, False):
        model.train(mode)
        found.append(judge(of(model, "reversed"), mixed_problems()[:30]))
        assert model.training is mode
    assert_same(*found)


@pytest.mark.parametrize("position", POSITIONS)
def test_rows_that_stand_alike_are_scored_together(position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer.from_config(replace(CONFIG, position=position))
    torch.nn.init.normal_(model.head.weight)
    loaded = of(model, "reversed")
    gold = loaded.render(mixed_problems())

    batches = {"few": list(loaded.score(gold))}
    monkeypatch.setattr(scoring, "SCORED_TOKENS", {"cpu": 64})
    batches["many"] = list(loaded.score(gold))
    monkeypatch.setattr(engine, "SCORES", 60)  # long texts are read piece by piece
    batches["pieces"] = list(loaded.score(gold))
    hits = np.full((3, len(gold)), -1)
    for found, parts in zip(hits, batches.values(), strict=True):
        for rows, row_hits, _ in parts:
            assert (found[rows] == -1).all()
            found[rows] = row_hits
    assert (hits == hits[0]).all()
    assert (hits >= 0).all()
    if model.axes:
        told = loaded.format.coordinates(gold.problems, gold.ids, model.axes)
        parts = ({axis: known[rows] for axis, known in told.items()} for rows, _, _ in batches["many"])
        alike = [len(known[model.axes[0]]) for known in parts if scoring.alike(known) is not known]
        assert sum(alike) > len(gold) / 2


@pytest.mark.parametrize("draft", [True, False])
def test_progress_reaches_the_end_once(draft: bool) -> None:
    calls: list[tuple[int, int]] = []
    problems = mixed_problems()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    judge(half_trained(), problems, batch_size=16, draft=draft, progress=progress)
    done = [count for count, _ in calls]
    assert all(total == len(problems) for _, total in calls)
    assert done == sorted(set(done))
    assert done[-1] == len(problems)
    assert len(done) > 10


def test_no_problems_no_verdicts() -> None:
    assert len(judge(half_trained(), mixed_problems()[:0])) == 0
    with pytest.raises(UsageError, match="no problem"):
        evaluate_problems(half_trained(), mixed_problems()[:0])


def test_problems_that_are_too_long_are_named_before_anything_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "CHUNK_TOKENS", 1)  # one problem at a time
    problems = parse_expressions(["1+1", "12+45", "99999+99999", "9" * 70 + "+1"])
    calls: list[int] = []
    with pytest.raises(UsageError) as error:
        evaluate_problems(half_trained(), problems, progress=lambda done, _: calls.append(done))
    assert not calls
    assert error.value.message.startswith("2 of 4 problems are too long for this model: with its answer, 999")
    assert "at most 40" in error.value.message
    assert "(72 characters)" in error.value.message
    with pytest.raises(UsageError, match=r"1 of 1 problems .* 99999\+99999 takes 59 tokens"):
        judge(half_trained(), problems[2:3])
    for max_length in (58, 59):
        model = of(Transformer.from_config(ModelConfig("nano", 1, 16, 1, max_length=max_length)))
        if max_length == 59:
            judge(model, problems[2:3])
        else:
            with pytest.raises(UsageError):
                judge(model, problems[2:3])


def test_texts_without_end_are_cut_long_before_a_long_model_is_full() -> None:
    model = Transformer.from_config(ModelConfig("nano", 1, 16, 1, max_length=5000))
    problems = parse_expressions(["1+2", "9+9"])
    verdicts = judge(of(model, "reversed"), problems)  # untrained: it writes 0 for ever
    assert verdicts.written.reasons.tolist() == [CUT, CUT]
    assert not verdicts.answer_correct.any()
    assert verdicts.written.lengths.max() < 60


def test_where_a_text_is_cut_does_not_depend_on_its_neighbours() -> None:
    model = Transformer.from_config(ModelConfig("nano", 1, 16, 1, max_length=500))
    problems = parse_expressions(["1+2", "123456789012+3"])  # prompts of two lengths, texts without end
    lengths = [judge(of(model), problems, batch_size=size).written.lengths for size in (1, 2)]
    assert lengths[0].tolist() == lengths[1].tolist()
    assert lengths[0][0] < lengths[0][1]


# all problems


def test_all_pairs_are_there_once() -> None:
    sums = expressions(AllPairs(BOTH_TASKS[:1], 12)[:])
    assert sorted(sums) == sorted(f"{a}+{b}" for a in range(13) for b in range(13))
    differences = expressions(AllPairs(BOTH_TASKS[1:], 12)[:])
    assert sorted(differences) == sorted(f"{a}-{b}" for a in range(13) for b in range(a + 1))
    signed = expressions(AllPairs(BOTH_TASKS[1:], 12, signed=True)[:])
    assert sorted(signed) == sorted(f"{a}-{b}" for a in range(13) for b in range(13))


@pytest.mark.parametrize("signed", [False, True])
def test_slices_of_all_pairs_are_the_whole(signed: bool) -> None:
    pairs = AllPairs(BOTH_TASKS, 40, signed)
    whole = expressions(pairs[:])
    assert len(pairs) == len(whole) == len(set(whole)) == 41**2 + (41**2 if signed else 41 * 42 // 2)
    parts = [expressions(pairs[start : start + 100]) for start in range(0, len(pairs), 100)]
    assert [text for part in parts for text in part] == whole
    assert len(pairs[len(pairs) :]) == 0


def test_large_triangles_are_exact() -> None:
    pairs = AllPairs(BOTH_TASKS[1:], 99_999)
    rows = len(pairs)
    assert expressions(pairs[rows - 1 :]) == ["99999-99999"]
    before = 99_999 * 100_000 // 2  # pairs whose first operand is less
    assert expressions(pairs[before - 1 : before + 1]) == ["99998-99998", "99999-0"]


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="1,000,000"):
        AllPairs(BOTH_TASKS[:1], 1_000_000)


def test_everything_there_is_can_be_evaluated() -> None:
    pairs = AllPairs(BOTH_TASKS, 9)
    got = evaluate_problems(half_trained(), pairs)
    assert got.answers.num_examples == len(pairs) == 155
    assert 0.5 < got.exact_match < 1
    assert "all there are" in headline(got.answers, complete=True)


# chunks


def test_parts_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, problems = half_trained(), mixed_problems()
    lines, lines_in_parts = io.StringIO(), io.StringIO()
    whole = evaluate_problems(model, problems, mistakes=30, samples=lines).to_dict()
    monkeypatch.setattr(report, "CHUNK_TOKENS", 13 * model.max_length)
    monkeypatch.setattr(report, "CHECKED_ROWS", 11)
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    parts = evaluate_problems(
        model, problems, mistakes=30, samples=lines_in_parts, progress=progress
    ).to_dict()
    assert whole.pop("seconds") >= 0
    assert parts.pop("seconds") >= 0
    assert parts == whole
    assert len(whole["mistakes"]) == 30
    assert lines.getvalue() == lines_in_parts.getvalue()
    assert calls[-1] == (len(problems), len(problems))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_scoring_sees_only_what_it_should() -> None:
    # tokens of the prompt and behind the end count for nothing, whatever stands beside a row in its batch
    model = half_trained()
    gold = model.render(concatenate([parse_expression("1+2"), parse_expression("57+68")]))
    ((rows, hits, _),) = model.score(gold)
    apart = [int(hits[0]) for row in rows for _, hits, _ in model.score(gold[row : row + 1])]
    assert sorted(rows.tolist()) == [0, 1]
    assert hits.tolist() == apart
    assert (hits <= (gold.lengths - gold.prompt_lengths)[rows]).all()
