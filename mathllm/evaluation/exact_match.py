"""Exact match, at the speed of one parallel forward pass.

The truth is known, so it is used as a draft: score the gold completion of every problem at once. Where every
gold token is the model's first choice, greedy decoding would have written exactly it; only the other rows are
decoded token by token. The verdicts are those of plain greedy decoding, to the last row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mathllm.errors import UsageError
from mathllm.formats import Format, Parsed, Rendered
from mathllm.inference.engine import ENDED
from mathllm.inference.texts import Reasoner, Written, most_tokens, pad_ids
from mathllm.tasks import Problems, answer
from mathllm.tasks.expressions import expressions
from mathllm.tasks.numbers import Bools, Ints

Progress = Callable[[int, int], None]  # is told how much of the work is done, and how much there is in all

NAMED = 3  # rows, in an error about many


class ProblemSet(Protocol):
    """Problems, or what makes them when a slice is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Problems: ...


@dataclass(frozen=True)
class Verdicts:
    """What greedy decoding wrote for N problems, and whether it is right.

    `answer_correct` [N]: the text ended and its answer is the true integer. `completion_correct` [N]: every
    token is the gold one. `token_hits` and `token_counts` [N]: gold tokens predicted with the gold prefix
    given (teacher forcing), and gold tokens in all. `decoded` [N]: which rows were decoded token by token.
    """

    format: Format
    gold: Rendered
    written: Written
    parsed: Parsed
    answer_correct: Bools
    completion_correct: Bools
    token_hits: Ints
    token_counts: Ints
    decoded: Bools

    def __len__(self) -> int:
        return len(self.gold)

    @property
    def problems(self) -> Problems:
        return self.gold.problems


def judge(
    model: Reasoner,
    problems: Problems,
    *,
    batch_size: int = 1024,
    draft: bool = True,
    progress: Progress | None = None,
) -> Verdicts:
    """Verdicts on problems. Without `draft` every row is decoded token by token: slow, with the same result.

    A completion that is more than twice as long as the gold one (see inference.texts.most_tokens) is cut, and counts as
    one without end.
    At most `batch_size` rows go through the model at once. `progress` is called with the number of problems
    done and in all. Raises UsageError where the text of a problem is longer than the model can write.
    """
    gold = model.format.render(problems)
    check_lengths(model.max_length, problems, [gold.lengths])
    n, done = len(problems), 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None and rows:
            progress(done, n)

    hits, certain = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    for rows, row_hits, surely_gold in model.score(gold, batch_size=batch_size):
        hits[rows], certain[rows] = row_hits, surely_gold & draft
        advance(int(certain[rows].sum()))
    written = _complete(model, gold, np.flatnonzero(~certain), batch_size, advance)
    return read_verdicts(model.format, gold, written, hits, ~certain)


def moved(progress: Progress | None, before: int, total: int) -> Progress:
    """The progress of a part of the work, before which some of the `total` was done."""
    return lambda done, _: progress(before + done, total) if progress is not None else None


def read_verdicts(
    format: Format, gold: Rendered, written: Written, token_hits: Ints, decoded: Bools
) -> Verdicts:
    """Verdicts on texts that are there already: no model is needed."""
    parsed = format.parse(written.ids)
    # the padding lets `parsed.ended` be true of rows that were cut: the reason alone tells
    ended = written.reasons == ENDED
    answer_correct = ended & parsed.well_formed & parsed.answer.same(answer(gold.problems))
    width = max(written.ids.shape[1], gold.ids.shape[1])
    same = (pad_ids(written.ids, width) == pad_ids(gold.ids, width)).all(1)
    completion_correct = same & (written.lengths == gold.lengths)
    counts = gold.lengths - gold.prompt_lengths
    right = answer_correct, completion_correct
    return Verdicts(format, gold, written, parsed, *right, token_hits, counts, decoded)


def check_lengths(max_length: int, problems: ProblemSet, lengths: Iterable[Ints]) -> int:
    """Tokens of the longest text. Raises UsageError where some of the problems' whole texts are too long.

    `lengths` are the tokens of each text, in arrays one after the other that cover the problems.
    """
    too_long = start = longest = most = 0
    for part in lengths:
        too_long += int((part > max_length).sum())
        if part.max(initial=0) > most:
            longest, most = start + int(part.argmax()), int(part.max())
        start += len(part)
    if too_long == 0:
        return most
    expression = shortened(problems[longest : longest + 1])
    raise UsageError(
        f"{too_long:,} of {start:,} problems are too long for this model: with its answer, "
        f"{expression} takes {most:,} tokens, and the model writes at most {max_length:,}",
        "use smaller numbers, or train with a larger --max-length",
    )


def check_writable(format: Format, parts: Iterable[Problems]) -> None:
    """Raises UsageError that names rows, counted from 1, where the format cannot write some of the problems, which come
    in parts one after the other."""
    refused: list[str] = []
    start = count = 0
    for part in parts:
        found = format.refusals(part)
        count += len(found)
        for row, error in sorted(found.items())[: NAMED - len(refused)]:
            refused.append(f"row {start + row + 1:,}, {shortened(part[row : row + 1])}: {error.message}")
        start += len(part)
    if refused:
        more = [f"and {count - len(refused):,} more"] if count > len(refused) else []
        message = "\n  ".join([f"{count:,} of {start:,} problems cannot be asked", *refused, *more])
        raise UsageError(message, "take them out, or ask a model that has learned such ones")


def shortened(problem: Problems) -> str:
    """One problem as a text that fits into a message."""
    expression = expressions(problem)[0]
    return expression if len(expression) <= 60 else f"{expression[:40]}... ({len(expression)} characters)"


def _complete(
    model: Reasoner, gold: Rendered, rows: Ints, batch_size: int, advance: Callable[[int], None]
) -> Written:
    """Greedy texts of all problems: the gold ones, except for the given rows, which are decoded."""
    ids, lengths = gold.ids.copy(), gold.lengths.copy()
    reasons = np.full(len(ids), ENDED, np.uint8)
    rows = rows[np.argsort(gold.prompt_lengths[rows], kind="stable")]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        texts = gold[part]
        written = model.complete(texts, batch_size=batch_size, limits=most_tokens(texts))
        ids = pad_ids(ids, written.ids.shape[1])
        ids[part] = pad_ids(written.ids, ids.shape[1])
        lengths[part], reasons[part] = written.lengths, written.reasons
        advance(len(part))
    none = np.zeros((len(ids), 0), np.float32)  # what is taken from the gold has not been worked out
    return Written(gold.problems, ids, lengths, gold.prompt_lengths, reasons, none)
