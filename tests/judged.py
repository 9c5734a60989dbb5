"""Verdicts to test with: from a model that is half trained, and from completions written by hand."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from strategies import encode_rows

from mathllm.config import DataConfig, ModelConfig
from mathllm.evaluation import report
from mathllm.evaluation.breakdown import CORRECT, KINDS, find
from mathllm.evaluation.exact_match import Verdicts, read_verdicts
from mathllm.evaluation.exhaustive import AllPairs
from mathllm.formats import get_format
from mathllm.inference.engine import CUT, ENDED
from mathllm.inference.texts import Written
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.tasks import Problems, Sampling, concatenate, get_tasks, sample
from mathllm.tasks.expressions import parse_expressions
from mathllm.tokenizer import decode_rows

BOTH_TASKS = get_tasks("addition,subtraction")
CONFIG = ModelConfig("nano", 2, 64, 4, feed_forward=256, max_length=40, position="learned")


def of(model: Transformer, format: str = "column") -> MathModel:
    """A model that is said to know both tasks up to two digits in a format."""
    return MathModel(model, DataConfig(task="addition,subtraction", format=format, max_digits=2))


@lru_cache
def half_trained(format: str = "column") -> MathModel:
    """A model that has seen some problems of one digit: knows most of those, and little else."""
    torch.set_num_threads(1)
    model, notation = Transformer.from_config(CONFIG), get_format(format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    rng = np.random.default_rng(0)
    for _ in range(80):
        rendered = notation.render(sample(rng, 64, BOTH_TASKS, Sampling(1, 2)))
        ids = torch.from_numpy(rendered.ids.astype(np.int64))
        gold = ids.masked_fill(~torch.from_numpy(rendered.loss_mask), -1)[:, 1:]
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), gold.flatten(), ignore_index=-1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return of(model, format)


@lru_cache
def mixed_problems() -> Problems:
    """All problems of one digit and some of two: a half-trained model gets some right and some wrong."""
    longer = sample(np.random.default_rng(1), 100, BOTH_TASKS, Sampling(2, 2, "uniform", signed=True))
    return concatenate([AllPairs(BOTH_TASKS, 9)[:], longer])


def written(*pairs: tuple[str, str], format: str = "column") -> Verdicts:
    """Verdicts on completions that were written by hand; one without `<end>` was cut."""
    notation = get_format(format)
    problems = parse_expressions([expression for expression, _ in pairs])
    gold, none = notation.render(problems), np.zeros(len(pairs), np.int64)
    prompts = decode_rows(gold.ids, gold.prompt_lengths)
    ids, lengths = encode_rows([p + completion for p, (_, completion) in zip(prompts, pairs, strict=True)])
    reasons = np.array([ENDED if c.endswith("<end>") else CUT for _, c in pairs], np.uint8)
    log_probs = np.zeros((len(pairs), 0), np.float32)
    texts = Written(problems, ids, lengths, gold.prompt_lengths, reasons, log_probs)
    return read_verdicts(notation, gold, texts, none, none == 0)


def kinds(verdicts: Verdicts) -> list[str]:
    return ["correct" if kind == CORRECT else KINDS[kind] for kind in find(verdicts).kind]


def report_of(verdicts: Verdicts, mistakes: int = 5) -> report.Report:
    found = report.Report()
    found.add(verdicts, find(verdicts), mistakes)
    return found
