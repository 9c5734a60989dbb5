"""What the model wrote, problem by problem: lines for a file, and mistakes to look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from mathllm.evaluation.breakdown import CORRECT, KINDS, Findings
from mathllm.evaluation.exact_match import Verdicts
from mathllm.inference.engine import REASONS
from mathllm.tasks.expressions import expressions, number_texts
from mathllm.tasks.numbers import Ints
from mathllm.tokenizer import TOKENS, Ids, decode


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. `predicted` is None where there is no number; `kind` is one of breakdown.KINDS; `text` is what
    the model wrote, `gold` what it should have, and `part` what goes wrong first in it; from character `wrong_from` to
    `wrong_to` of the text stands the first token that differs."""

    expression: str
    answer: str
    predicted: str | None
    kind: str
    text: str
    gold: str
    part: str
    wrong_from: int
    wrong_to: int


def sample_rows(verdicts: Verdicts, findings: Findings, rows: Ints) -> list[dict[str, Any]]:
    """For each of the given rows: expression, answer, predicted (None without a number), correct, error (None
    if there is none), thought_correct (None without thoughts), reason why the text ended, and the text."""
    problems, written = verdicts.problems[rows], verdicts.written
    thought = findings.thought_correct
    columns = {
        "expression": expressions(problems),
        "answer": number_texts(findings.truth[rows]),
        "predicted": number_texts(verdicts.parsed.answer[rows]),
        "correct": verdicts.answer_correct[rows].tolist(),
        "error": [None if kind == CORRECT else KINDS[kind] for kind in findings.kind[rows].tolist()],
        "thought_correct": [None] * len(rows) if thought is None else thought[rows].tolist(),
        "reason": [REASONS[reason] for reason in written.reasons[rows].tolist()],
        "text": verdicts.format.texts(problems, written.ids[rows], written.lengths[rows]),
    }
    samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for place in np.flatnonzero(~verdicts.parsed.well_formed[rows]):
        samples[place]["predicted"] = None
    return samples


def write_samples(file: TextIO, verdicts: Verdicts, findings: Findings) -> None:
    """One line of JSON for each problem."""
    samples = sample_rows(verdicts, findings, np.arange(len(verdicts)))
    file.writelines(json.dumps(sample) + "\n" for sample in samples)


def first_mistakes(verdicts: Verdicts, findings: Findings, most: int) -> tuple[Mistake, ...]:
    """The first `most` wrong answers, in the order of the problems."""
    rows = np.flatnonzero(~verdicts.answer_correct)[:most]
    if len(rows) == 0:
        return ()
    gold, written = verdicts.gold[rows], verdicts.written
    gold_texts = verdicts.format.texts(gold.problems, gold.ids, gold.lengths)
    found = []
    for number, (row, sample) in enumerate(zip(rows, sample_rows(verdicts, findings, rows), strict=True)):
        ids = written.ids[row, : written.lengths[row]]
        wrong = _first_difference(ids, gold.ids[number, : gold.lengths[number]])
        said = [sample[name] for name in ("expression", "answer", "predicted", "error", "text")]
        said += [
            gold_texts[number],
            " ".join(findings.parts[row]).strip(),
            *_token_span(sample["text"], ids, wrong),
        ]
        found.append(Mistake(*said))
    return tuple(found)


def _first_difference(ids: Ids, gold: Ids) -> int:
    shared = min(len(ids), len(gold))
    different = np.flatnonzero(ids[:shared] != gold[:shared])
    return int(different[0]) if len(different) else shared


def _token_span(text: str, ids: Ids, token: int) -> tuple[int, int]:
    """Where in the text of ids [T], which has spaces put into it, the token of that index stands."""
    size = len(TOKENS[ids[token]]) if token < len(ids) else 1
    # up to its end, since the second + of a * adds nothing to the text
    before = len(decode(ids[: token + 1])) - size * (token < len(ids))
    visible = [place for place, character in enumerate(text) if character != " "]
    start = visible[before] if before < len(visible) else len(text)
    return start, start + size
