"""Exact match by three ways of greedy decoding, with the same verdicts: gold as draft, with a cache, without one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mathllm.bench import Measurement, Options, rate, seconds_of
from mathllm.checkpoint import load_checkpoint
from mathllm.data.sources import held_out
from mathllm.device import pick_device
from mathllm.errors import MathLLMError
from mathllm.evaluation.exact_match import Verdicts, judge
from mathllm.finding import SHIPPED
from mathllm.inference.engine import as_tensors
from mathllm.math_model import MathModel
from mathllm.tasks import Problems
from mathllm.tasks.splits import TEST
from mathllm.tokenizer import END

PROBLEMS, ONE_BY_ONE = 10_000, 50


def measure(options: Options) -> list[Measurement]:
    loaded = load_checkpoint(SHIPPED / "addsub-3digit", pick_device(options.device))
    problems = held_out(loaded.data, TEST, PROBLEMS)
    few = problems[np.arange(ONE_BY_ONE) * (len(problems) // ONE_BY_ONE)]
    repeats = max(1, options.repeats // 2)
    verdicts: dict[bool, Verdicts] = {}

    def evaluate(draft: bool) -> None:
        verdicts[draft] = judge(loaded, problems, draft=draft)

    drafted, decoded = (
        seconds_of(partial(evaluate, draft), repeats, loaded.device) for draft in (True, False)
    )
    texts: list[list[int]] = []
    alone = seconds_of(lambda: texts.extend(without_cache(loaded, few)), 1, loaded.device)
    written = judge(loaded, few).written
    ours = [ids[:length].tolist() for ids, length in zip(written.ids, written.lengths, strict=True)]
    same = (verdicts[True].answer_correct == verdicts[False].answer_correct).all()
    if not same or texts[-len(ours) :] != ours:
        raise MathLLMError("three ways of greedy decoding wrote different texts", "please report this")
    slowest = ONE_BY_ONE / alone[0]
    found = []
    for what, times in (("gold as draft", drafted), ("cached, in batches", decoded)):
        speed = rate(f"{what}, {len(problems):,} problems", len(problems), "problems/s", times)
        found.append(replace(speed, more={"times_one_by_one": speed.value / slowest}))
    what = f"without a cache, one by one, {ONE_BY_ONE} problems"
    return [*found, rate(what, ONE_BY_ONE, "problems/s", alone)]


@torch.inference_mode()
def without_cache(loaded: MathModel, problems: Problems) -> list[list[int]]:
    """Greedy completions of problems, each alone, everything computed anew for every token."""
    gold, model = loaded.render(problems), loaded.model
    completions = []
    for row, length in enumerate(gold.prompt_lengths):
        text = gold.ids[row, :length].tolist()
        while len(text) < model.max_length and text[-1] != END:
            told = loaded.format.coordinates(problems[row : row + 1], np.array([text], np.uint8), model.axes)
            logits = model(torch.tensor([text], device=loaded.device), as_tensors(told, loaded.device))
            text.append(int(logits[0, -1].argmax()))
        completions.append(text)
    return completions
