"""What do the thoughts of a model mean? Where the state after each step is known: the true thoughts of its format.
Reading alone (agreement, mutual information) may show what is only there by the way; so thoughts are changed, too: in
the donor swap a thought is replaced by another problem's, and the answer should be what follows from the state there
(interchange intervention, arXiv 2106.02997).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mathllm.errors import UsageError
from mathllm.evaluation.breakdown import NOTHING, Count
from mathllm.evaluation.exact_match import Progress
from mathllm.evaluation.lengths import RANDOM, check_length, draw_length
from mathllm.formats import Format, Rendered
from mathllm.formats.thought import Thought
from mathllm.inference.texts import Reasoner, pad_ids
from mathllm.limits import MAX_STEP_TOKENS, check_range
from mathllm.tasks import Task
from mathllm.tasks.numbers import Ints
from mathllm.tokenizer import END, Ids

DIGITS = 10


@dataclass(frozen=True)
class Slot:
    """One thought. `counts` [state, thought]: how often each goes with each. `followed`: of swaps that should change
    the answer, those after which it was that of the donor's state. With few problems the best renaming, and the
    information, come out too high."""

    counts: Ints
    followed: Count

    @property
    def agreement(self) -> float:
        """The share of thoughts that are the true state, digit for digit."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def renamed(self) -> float:
        """The same after the best renaming of the ten digits."""
        return best_matching(self.counts) / float(self.counts.sum())

    @property
    def information(self) -> float:
        """Mutual information of thought and true state, in bits (of at most log2 10 = 3.32)."""
        joint = self.counts / self.counts.sum()
        product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        there = joint > 0
        return max(0.0, float((joint[there] * np.log2(joint[there] / product[there])).sum()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "agreement": self.agreement,
            "agreement_renamed": self.renamed,
            "mutual_information_bits": self.information,
            "donor_followed": self.followed.correct,
            "donor_swaps": self.followed.num_examples,
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True)
class ThoughtReport:
    """What the thoughts of problems of that many steps are: right answers, the same with other problems' whole thoughts
    in the place of their own, and each thought."""

    task: str
    steps: int
    answers: Count
    shuffled: Count
    slots: tuple[Slot, ...]

    @property
    def followed(self) -> Count:
        return sum((slot.followed for slot in self.slots), NOTHING)

    def to_dict(self) -> dict[str, Any]:
        """All of it for a JSON document."""
        return {
            "steps": self.steps,
            "correct": self.answers.correct,
            "num_examples": self.answers.num_examples,
            "correct_with_shuffled_thoughts": self.shuffled.correct,
            "slots": [slot.to_dict() for slot in self.slots],
        }


def thought_of(format: Format, task: Task) -> Thought:
    """What a model thinks about a task, a digit a step. Raises UsageError where the true states are not known, or
    thoughts are not the model's own."""
    thought = format.thoughts.get(task.name)
    if thought is None or not (thought.counted and thought.true):
        raise UsageError(
            f"format {format.name!r}: what its thoughts should mean is not known",
            "train a model that thinks a digit a step: mathllm train --recipe chain-thoughts",
        )
    return thought


def examine(
    model: Reasoner, task: Task, steps: int, n: int = 1000, *, seed: int = 0, progress: Progress | None = None
) -> ThoughtReport:
    """The report on n random problems of that many steps (at least 1). Raises UsageError where these are too long.

    `progress` gets how many of the decodings are done, and how many there are.
    """
    thought = thought_of(model.format, task)
    size = steps + 1  # a step is between two numbers
    longest = check_length(model.format, model.max_length, task, size)
    check_range(f"problems of {steps} steps", n, 1, MAX_STEP_TOKENS // longest)
    gold = model.format.render(draw_length(task, size, RANDOM, n, seed=seed))
    # the true states are what the gold text thinks
    begin = gold.prompt_lengths[:, None] + 1
    states = np.take_along_axis(gold.ids, begin + np.arange(steps), 1)
    decode = partial(complete, model, gold)
    none = np.zeros((n, 0), np.uint8)
    thoughts, answers = decode(none, steps)
    order = np.random.default_rng([seed, steps]).permutation(n)
    donor = np.zeros(n, np.int64)
    donor[order] = np.roll(order, 1)  # each gives to one other, and takes from one

    def done(decodings: int) -> None:
        if progress is not None:
            progress(decodings, steps + 2)

    done(1)
    _, shuffled = decode(thoughts[donor], steps)
    slots = []
    for slot in range(steps):
        done(slot + 2)
        forced = np.concatenate([thoughts[:, :slot], thoughts[donor, slot : slot + 1]], axis=1)
        _, changed = decode(forced, steps)
        expected = thought.resume(gold.problems, states[donor, slot], slot + 1)
        telling = states[donor, slot] != states[:, slot]
        counts = np.zeros((DIGITS, DIGITS), np.int64)
        np.add.at(counts, (states[:, slot], thoughts[:, slot]), 1)
        slots.append(Slot(counts, Count.of((changed == expected)[telling])))
    done(steps + 2)
    own = states[:, -1]
    return ThoughtReport(task.name, steps, Count.of(answers == own), Count.of(shuffled == own), tuple(slots))


def complete(model: Reasoner, gold: Rendered, forced: Ids, steps: int) -> tuple[Ids, Ints]:
    """Greedy thoughts [N, steps], of which the first ones [N, k] are forced, and the answers after them [N] (-1:
    none).
    """
    n, given = forced.shape
    # what is forced takes the place of the true states, between `<think>` and, after the last one, `</think>`
    texts = gold.ids.copy()
    np.put_along_axis(texts, gold.prompt_lengths[:, None] + 1 + np.arange(given), forced, 1)
    prompts = gold.prompt_lengths + 1 + given + (given == steps)
    begun = Rendered(gold.problems, texts, gold.lengths, prompts)
    own = steps - given
    written = model.complete(begun, limits=np.full(n, own + 3))
    source = begun.prompt_lengths[:, None] + np.arange(own + 3)
    ids = np.take_along_axis(pad_ids(written.ids, int(source.max()) + 1), source, 1)
    thoughts = np.concatenate([forced, ids[:, :own]], axis=1)
    place = own + (given < steps)  # past `</think>`
    answer = ids[:, place].astype(np.int64)
    ended = written.lengths == begun.prompt_lengths + place + 2
    ends = ended & (ids[:, place + 1] == END) & (answer < DIGITS)
    return thoughts, np.where(ends, answer, -1)


def best_matching(counts: Ints) -> int:
    """The largest sum of counts [D, D] with one of each row and column, over all subsets of columns (2^D D steps)."""
    size = len(counts)
    best = np.full(1 << size, -1, np.int64)
    best[0] = 0
    for taken in range(1, 1 << size):
        row = taken.bit_count() - 1
        best[taken] = max(
            best[taken ^ (1 << column)] + counts[row, column] for column in range(size) if taken >> column & 1
        )
    return int(best[-1])
