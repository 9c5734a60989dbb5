"""How a problem is written down: the one `Format` class that every notation is a value of.

A notation file says only what is its own: the order of digits, how a thought is written, how long the answer
is that a thought announces. Rendering, parsing and places are the same for all of them and stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import UsageError, check_choice
from mathllm.formats.places import answer_places, number_places, run_positions
from mathllm.tasks import TASKS, Problems, answer, answer_widths, concatenate, make_problems
from mathllm.tasks.expressions import numbers_from_ids, problems_from_ids, without_hints
from mathllm.tasks.numbers import Bools, Ints, Numbers
from mathllm.tasks.slots import (
    ABSENT,
    Slots,
    compact,
    constant,
    expression_slots,
    number_slots,
    stack,
    token_slot,
)
from mathllm.tokenizer import END, END_THINK, EQUALS, MINUS, PLUS, THINK, VOCAB_SIZE, Ids


@dataclass(frozen=True)
class Rendered:
    """Texts as ids uint8 [N, T] padded with `<end>`, their lengths [N], and the prompts' lengths [N].

    The prompt is everything up to and including the first `=`, and a thought that is given; what follows, `<end>`
    included, is the completion.
    """

    ids: Ids
    lengths: Ints
    prompt_lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def loss_mask(self) -> Bools:
        """True [N, T] for the tokens of the completion: the ones that a model is trained to predict."""
        column = np.arange(self.ids.shape[1])
        mask: Bools = (column >= self.prompt_lengths[:, None]) & (column < self.lengths[:, None])
        return mask


@dataclass(frozen=True)
class Parsed:
    """What a text says: the answer, where the thought and the answer stand, and what is wrong with the text.

    Spans are half open. `well_formed` means that the answer is a number and, where the format thinks, that a
    thought stands before it; `ended` that `<end>` was reached.
    """

    answer: Numbers
    well_formed: Bools
    ended: Bools
    thought_start: Ints
    thought_end: Ints
    answer_start: Ints
    answer_end: Ints


# writes the thoughts of one task: problems, their answers, the width [N] that answers are padded to (or None)
ThoughtWriter = Callable[[Problems, Numbers, "Ints | None"], Slots]
# from ids and where the prompt is, both [N, T]: the places inside thoughts [N, T], where the answer is [N, T]
# (from the token before its first digit on), and how many digits the thought has announced for it [N]
ThoughtReader = Callable[[Ids, Bools], "tuple[Ints, Bools, Ints]"]
# from the same: the places of all tokens [N, T], or how many tokens a thought has [N]
PlaceReader = Callable[[Ids, Bools], Ints]
LengthReader = Callable[[Ids, Bools], Ints]


@dataclass(frozen=True)
class Format:
    """One notation. `thoughts` has a writer for each task it can reason about; without it, no thought.

    `thought_length` is for thoughts of digits whose number follows from the problem. A thought that is `given` is a
    part of the prompt.
    """

    name: str
    summary: str
    least_significant_first: bool = False
    thoughts: Mapping[str, ThoughtWriter] | None = None
    read_thoughts: ThoughtReader | None = None
    hints: bool = False  # before every digit its place; only for numbers least significant digit first
    only: str = ""  # the one task that this is for, where there are no thoughts to say so
    read_places: PlaceReader | None = None  # of all tokens, where these are not about columns of digits
    thought_length: LengthReader | None = None
    thoughts_given: bool = False
    true_thoughts: bool = True  # is what is written here for thoughts the truth, or only room for some?
    zero_pad: bool = field(default=False, kw_only=True)

    def knows_task(self, name: str) -> bool:
        """Can it write problems of that task?"""
        if name == "chain" and (self.hints or self.least_significant_first or self.zero_pad):
            return False  # it has no digit places to be written by
        return self.only in ("", name) and (self.thoughts is None or name in self.thoughts)

    def check_task(self, code: int) -> None:
        """Raises UsageError where this notation does not know how to reason about a task."""
        name = TASKS[code].name
        if self.only not in ("", name):
            raise UsageError(f"format {self.name!r} is for task {self.only!r} alone, not for {name!r}")
        if not self.knows_task(name):
            lacks = "has no thought for" if self.thoughts is not None else "cannot write"
            others = "steps or plain" if name == "chain" else "plain or reversed"
            raise UsageError(
                f"format {self.name!r} {lacks} task {name!r}",
                f"use --format {others}, or write one: see mathllm/formats",
            )

    def render(self, problems: Problems) -> Rendered:
        """Problem, thought and answer of every row."""
        parts = []
        codes = np.unique(problems.task)
        for code in codes:
            self.check_task(code)
            parts.append(self._render_task(problems[problems.task == code] if len(codes) > 1 else problems))
        if len(parts) == 1:
            return parts[0]
        width = max((part.ids.shape[1] for part in parts), default=0)
        ids = np.full((len(problems), width), END, np.uint8)
        lengths, prompt_lengths = np.zeros((2, len(problems)), np.int64)
        for code, part in zip(codes, parts, strict=True):
            rows = np.flatnonzero(problems.task == code)
            ids[rows, : part.ids.shape[1]] = part.ids
            lengths[rows], prompt_lengths[rows] = part.lengths, part.prompt_lengths
        return Rendered(ids, lengths, prompt_lengths)

    def _render_task(self, problems: Problems) -> Rendered:
        n = len(problems)
        result = answer(problems)
        width = answer_widths(problems) if self.zero_pad else None
        prompt = self._prompt_slots(problems)
        parts = [prompt]
        if self.thoughts is not None and not self.thoughts_given:
            parts.append(self._thought_slots(problems, result, width))
        parts += [signed_slots(result, width, self.least_significant_first, self.hints), constant(n, END)]
        ids, lengths = compact(stack(parts))
        return Rendered(ids, lengths, (prompt != ABSENT).sum(0))

    def _thought_slots(self, problems: Problems, result: Numbers, widths: Ints | None) -> Slots:
        assert self.thoughts is not None
        thought = self.thoughts[TASKS[problems.task[0]].name](problems, result, widths)
        n = len(problems)
        return stack([constant(n, THINK), thought, constant(n, END_THINK)])

    def _prompt_slots(self, problems: Problems) -> Slots:
        widths = problems.widths if self.zero_pad else None
        expression = expression_slots(problems, self.least_significant_first, widths, self.hints)
        prompt = [expression, constant(len(problems), EQUALS)]
        if self.thoughts_given and len(problems):
            prompt.append(self._thought_slots(problems, answer(problems), widths))
        return stack(prompt)

    def allowed(self, ids: Ids) -> Bools:
        """Which token may follow each token of texts or prefixes [N, T, V]: thoughts of a known length are held to it,
        and to digits; anything may stand elsewhere."""
        assert self.thought_length is not None
        prompt = np.cumsum(ids == EQUALS, 1) == 0
        length = self.thought_length(ids, prompt)[:, None, None]
        token, here = np.arange(VOCAB_SIZE), (np.cumsum(~prompt, 1) - 1)[..., None]  # since `=`; -1 before it
        thinks = np.where((here >= 1) & (here <= length), token < 10, True)
        closes = np.where(here == length + 1, token == END_THINK, thinks)
        return np.where(here == 0, token == THINK, closes)

    def prompts(self, problems: Problems) -> tuple[Ids, Ints]:
        """The prompts alone: ids [N, T] and lengths [N]."""
        return compact(self._prompt_slots(problems))

    def longest(
        self, codes: tuple[int, ...], max_digits: int, max_operands: int, signed: bool = False
    ) -> int:
        """Tokens of the longest text of these tasks with operands up to this size."""
        extremes = [
            make_problems(
                TASKS[code].extreme(max_digits, min(max_operands, TASKS[code].max_operands), signed), code
            )
            for code in codes
        ]
        return int(self.render(concatenate(extremes)).lengths.max())

    def parse(self, ids: Ids) -> Parsed:
        """Reads texts [N, T], rendered or written by a model; what follows the first `<end>` is ignored."""
        n, width = ids.shape
        ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=END)  # (N, T + 1): every row has an end
        column = np.arange(width + 1)
        end = (ids == END).argmax(1)
        ended = end < width
        before_end = column < end[:, None]
        equals = _first((ids == EQUALS) & before_end, end)
        thought_start = thought_end = answer_start = np.minimum(equals + 1, end)
        well_formed = equals < end
        if self.thoughts is not None:
            closing = (ids == END_THINK) & before_end & (column > equals[:, None])
            closed = closing.any(1)
            thought_end = np.where(closed, width + 1 - closing[:, ::-1].argmax(1), thought_start)
            opened = ids[np.arange(n), thought_start] == THINK
            answer_start = thought_end
            well_formed &= closed & opened
        # the answer, moved to the left
        lengths = end - answer_start
        source = np.minimum(answer_start[:, None] + np.arange(lengths.max(initial=1)), width)
        body = ids[np.arange(n)[:, None], source]
        if self.hints:
            body, lengths, hinted = without_hints(body, lengths)
            well_formed &= hinted
        number, is_number = numbers_from_ids(body, lengths, self.least_significant_first)
        return Parsed(number, well_formed & is_number, ended, thought_start, thought_end, answer_start, end)

    @property
    def knows_places(self) -> bool:
        """Can the places of an answer be told before it is written? Not if its length is anyone's guess."""
        if self.read_places is not None:
            return True
        if self.thought_length is not None:
            return False
        return self.thoughts is not None or self.least_significant_first or self.zero_pad

    def check_places(self) -> None:
        """Raises UsageError where the places of tokens cannot be known."""
        if not self.knows_places:
            raise UsageError(
                f"format {self.name!r} cannot tell the places of an answer whose length is unknown",
                "use --format reversed, column or pairwise, or zero-padding (--zero-pad)",
            )

    def places(self, ids: Ids) -> Ints:
        """The digit place [N, T] that each token of texts, or of prefixes, is about: units 1, tens 2, none 0.

        A token whose successor will be the answer's digit i has place i. From the first `=` on, places do not
        change when a token is appended. Raises UsageError where the format cannot know them.
        """
        self.check_places()
        prompt = np.cumsum(ids == EQUALS, 1) == 0
        if self.read_places is not None:
            return self.read_places(ids, prompt)
        # a factor counts in every column alike: it is about no place
        factor = np.cumsum((ids[:, 1:] == PLUS) & (ids[:, :-1] == PLUS) & prompt[:, 1:], 1) > 0
        placed = prompt.copy()
        placed[:, 1:] &= ~factor
        places = number_places(ids, placed, self.least_significant_first)
        if self.hints:
            places = (places + 1) // 2  # a hint and its digit have one place
        inside, answering, announced = np.zeros_like(places), ~prompt, np.zeros(len(ids), np.int64)
        if self.read_thoughts is not None:
            inside, answering, announced = self.read_thoughts(ids, prompt)
        if self.zero_pad and not self.least_significant_first:
            problems, _ = problems_from_ids(np.where(prompt, ids, END), prompt.sum(1))
            announced = answer_widths(problems)
        said = answer_places(ids, answering, announced, self.least_significant_first)
        return places + inside + (((said + 1) // 2) if self.hints else said)

    def coordinates(self, ids: Ids, axes: Sequence[str] = ("place", "segment")) -> dict[str, Ints]:
        """What a model is told of the tokens of texts or prefixes, [N, T] for each of the axes: `place` (see `places`),
        `run`, the position of each digit in its own number, from the left, and `segment`, 1 from the first `=` on."""
        tell = {"place": self.places, "run": self._runs, "segment": _segments}
        for axis in axes:
            check_choice("axis of coordinates", axis, tell)
        return {axis: tell[axis](ids) for axis in axes}

    def _runs(self, ids: Ids) -> Ints:
        runs = run_positions(ids < 10)
        return (runs + 1) // 2 if self.hints else runs

    def check_axes(self, axes: Sequence[str]) -> None:
        """Raises UsageError where this notation cannot tell a model what it is to be told."""
        for axis in axes:
            check_choice("axis of coordinates", axis, ("place", "run", "segment"))
        if "place" in axes:
            self.check_places()
        if "run" in axes and not self.least_significant_first:
            raise UsageError(
                f"in format {self.name!r} the position of a digit in its number is not its place",
                "use --format reversed: all numbers least significant digit first",
            )


def _segments(ids: Ids) -> Ints:
    return (np.cumsum(ids == EQUALS, 1) > 0).astype(np.int64)


def signed_slots(
    number: Numbers, widths: Ints | None, least_significant_first: bool, hints: bool = False
) -> Slots:
    """Numbers with a minus sign in front where they are negative; `widths` [N] pads them with zeros."""
    lengths = number.lengths if widths is None else np.maximum(number.lengths, widths)
    digits = number_slots(number.digits, lengths, least_significant_first, hints)
    return stack([token_slot(MINUS, number.negative), digits])


def _first(flags: NDArray[np.bool_], otherwise: Ints) -> Ints:
    """Column [N] of the first true value in each row."""
    return np.where(flags.any(1), flags.argmax(1), otherwise)
