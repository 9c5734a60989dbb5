"""What a problem is, and what a task says about its problems.

A problem is an expression and a task: numbers and the operators between them, held as arrays; what they mean is the
task's business, and how they are written down a format's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mathllm.errors import UsageError
from mathllm.limits import MAX_DIGITS
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, compare, lengths_of, random_digits, widen
from mathllm.tasks.sampling import SAMPLINGS, Sampling
from mathllm.tokenizer import DIVIDE, REMAINDER, SYMBOLS

_AT_ONCE = 1 << 22  # digits
_DIVIDED = DIVIDE, REMAINDER  # operators behind which no 0 may stand


@dataclass(frozen=True)
class Problems:
    """N problems: operands uint8 [N, K, D] (least significant digit first), lengths [N, K] (0: no such operand),
    negative [N, K] (which of them are below zero), operators uint8 [N, K - 1] (what stands before each operand but the
    first, a code of tokenizer.OPERATORS; 0: nothing), and task uint8 [N], the code of each row's task."""

    operands: Digits
    lengths: Ints
    negative: Bools
    operators: Digits
    task: Digits

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, rows: Any) -> Problems:
        return Problems(
            *(
                values[rows]
                for values in (self.operands, self.lengths, self.negative, self.operators, self.task)
            )
        )

    @property
    def num_operands(self) -> Ints:
        count: Ints = (self.lengths > 0).sum(1)
        return count

    @property
    def widths(self) -> Ints:
        """Digits of each row's longest operand [N]."""
        longest: Ints = self.lengths.max(1)
        return longest


def trimmed(problems: Problems) -> Problems:
    """The same problems in arrays no wider than these need."""
    operands, digits = max(2, int(problems.num_operands.max(initial=0))), int(problems.lengths.max(initial=1))
    numbers = problems.operands[:, :operands, :digits], problems.lengths[:, :operands]
    negative, operators = problems.negative[:, :operands], problems.operators[:, : operands - 1]
    return Problems(*numbers, negative, operators, problems.task)


def at_once(problems: Problems) -> list[slice]:
    """All rows, in parts whose digits may be worked with as 64-bit numbers."""
    n, operands, digits = problems.operands.shape
    rows = max(1, _AT_ONCE // (operands * digits))
    return [slice(start, start + rows) for start in range(0, n, rows)] or [slice(None)]


def concatenate(parts: Sequence[Problems]) -> Problems:
    """One batch of several; operands and digits are widened to the largest."""
    operands = max((part.operands.shape[1] for part in parts), default=2)
    width = max((part.operands.shape[2] for part in parts), default=1)
    digits = [np.zeros((0, operands, width), np.uint8)]
    lengths, operators = [np.zeros((0, operands), np.int64)], [np.zeros((0, operands - 1), np.uint8)]
    negative = [np.zeros((0, operands), np.bool_)]
    for part in parts:
        absent = (0, 0), (0, operands - part.operands.shape[1])
        digits.append(np.pad(widen(part.operands, width), (*absent, (0, 0))))
        lengths.append(np.pad(part.lengths, absent))
        negative.append(np.pad(part.negative, absent))
        operators.append(np.pad(part.operators, absent))
    task = np.concatenate([np.zeros(0, np.uint8), *(part.task for part in parts)])
    numbers = np.concatenate(digits), np.concatenate(lengths), np.concatenate(negative)
    return Problems(*numbers, np.concatenate(operators), task)


class Task:
    """One kind of problem: a subclass in a file of its own. What stands here is right for most of them: an operation
    on two numbers or more, with one operator.

    `code` stands for the task in `Problems.task` and never changes, since splits depend on it. `max_operands` is the
    most that `--max-operands` may ask for, `samplings` are the methods it can be drawn by, and `signed` says what
    `--signed` lets be below zero (empty: nothing), which are operands, too, where `signed_operands`. `second` is what
    its operands but the first are called where `--second-digits` bounds their digits (else empty), and `least_second`
    the least of these. `aligned` is how many operands have digits that line up with the answer's (None: all). Tasks of
    different `meaning` do not go together, since one text would have two answers; `general` ones take what others of
    their meaning take, too. `rule` is what its expressions are, for whoever typed something else, and `example` one of
    them."""

    name: str
    code: int
    operator: int
    example: str
    rule: str
    meaning = "in integers"
    least_numbers, most_numbers = 2, 2  # in an expression, and digits of the longest of these
    most_digits = MAX_DIGITS
    max_operands = 2
    samplings: tuple[str, ...] = SAMPLINGS
    commutative = False
    signed = ""
    signed_operands = False
    second = ""
    least_second = 0
    general = False
    aligned: int | None = None
    unit = "digit"  # what --max-digits and --digits count of a problem
    stress = "carry stress"  # what is hard about the problems of `of_length` that are drawn so
    one_digit = False  # has every number one digit, the answer too: nothing to pad, to hint or to turn round?

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        """Problems drawn by one method, of row i with counts[i] operands."""
        raise NotImplementedError

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        """n problems with as many operands as the size says: random ones of exactly so many digits, or (`stress`) the
        hardest, the first operand of that many digits (or one less)."""
        raise NotImplementedError

    def all_triples(self, digits: int) -> Problems:
        """Problems of numbers of so many digits that hold, together, every three columns in a row there can be. Raises
        UsageError where a task has none."""
        raise UsageError(f"no {self.name} holds every three columns in a row", "sums do")

    def of_lengths(self, rng: np.random.Generator, lengths: Ints, signed: bool) -> Problems:
        """Random problems of two operands of exactly these lengths [N, 2]; where the first is never the smaller one,
        it is not the shorter one, either."""
        operands = random_digits(rng, lengths, int(lengths.max(initial=1)))
        if self.ordered(signed):  # two of one length may stand in the wrong order
            swap = compare(operands[:, 0], operands[:, 1]) < 0
            operands = select(swap, operands[:, ::-1], operands)
        return self.problems(operands)

    def extreme(self, size: Sampling) -> Problems:
        """The problem [1] of up to this size whose text is the longest of this task, in any format."""
        raise NotImplementedError

    def answer(self, problems: Problems) -> Numbers:
        """The exact results of problems of this task."""
        raise NotImplementedError

    def answer_widths(self, problems: Problems) -> Ints:
        """Digits [N] that hold any answer to operands of these widths: what zero-padding pads to."""
        raise NotImplementedError

    def carries(self, problems: Problems) -> tuple[Ints, Ints, Ints] | None:
        """What is carried into each column [N, D + 1], added to its digit (a borrow is negative), and the least [N]
        and the most [N] that can be; None where nothing is. A wrong carry explains wrong digits in a report."""
        return None

    def carry_lengths(self, problems: Problems) -> Ints:
        """The longest run [N] of carries or borrows."""
        return np.zeros(len(problems), np.int64)

    def cascades(self, problems: Problems) -> Bools:
        """In which problems [N] a carry or borrow out of some place is there because of the one into it, as behind
        two digits that add up to 9."""
        return np.zeros(len(problems), np.bool_)

    def bounds(self, problems: Problems) -> tuple[Numbers, ...]:
        """Answers [N] of which the lowest and the highest bound those to all operands with as many digits as
        these."""
        place = np.arange(problems.operands.shape[2])
        length = problems.lengths[..., None]
        least = ((place == length - 1) & (length > 1)).astype(np.uint8)
        least[:, 1:, 0] |= np.isin(problems.operators, _DIVIDED) & (problems.lengths[:, 1:] == 1)
        most = np.where(place < length, 9, 0).astype(np.uint8)
        # a result rises or falls with each operand, so the extremes lie where the operands are extreme
        corners = (np.concatenate([a[:, :1], b[:, 1:]], axis=1) for a in (least, most) for b in (least, most))
        return tuple(self.answer(replace(problems, operands=operands)) for operands in corners)

    def sizes(self, problems: Problems) -> Ints:
        """What `--max-digits` bounds [N]: digits of the longest operand."""
        return problems.widths

    def digits_of(self, operand: int, size: Sampling) -> int:
        """The most digits of an operand (from 0) in problems of up to this size."""
        return size.second if operand and self.second else size.max_digits

    def most_operands(self, size: Sampling) -> int:
        """The most operands in problems of up to this size."""
        return min(size.max_operands, self.max_operands)

    def ordered(self, signed: bool) -> bool:
        """Is the first operand never the smaller one?"""
        return False

    def check_pairs(self) -> None:
        """Raises UsageError where not all pairs of operands are problems."""

    def identity(self, problems: Problems) -> tuple[Digits, Bools]:
        """Numbers [N, M, D] and which of them count [N, M]: what tells problems of this task apart."""
        return problems.operands, problems.lengths > 0

    def misfits(self, problems: Problems) -> Bools:
        """Which parts [N, 2 K - 1] of expressions have no place in one of this task: numbers and operators in
        turn."""
        wrong = np.zeros((len(problems), 2 * problems.operands.shape[1] - 1), np.bool_)
        wrong[:, 1::2] = (problems.operators != self.operator) & (problems.operators > 0)
        wrong[:, 2::2] = zero_divisors(problems)
        wrong[:, ::2] |= problems.negative & (not self.signed_operands)
        wrong[:, 2 * self.most_numbers - 1 :: 2] |= problems.operators[:, self.most_numbers - 1 :] > 0
        return wrong

    def extent(self, max_digits: int) -> str:
        """How large its problems are, for people."""
        return f"of numbers of up to {plural(max_digits, self.unit)}"

    @property
    def such(self) -> str:
        """One of its problems, for people."""
        return f"a problem of {self.name}"

    def unseen(self, problems: Problems, size: Sampling) -> list[tuple[str, Bools]]:
        """In what ways problems can be larger than those of up to this size, each with the rows [N] that are."""
        most, second = size.max_digits, self.digits_of(1, size)
        found = [(f"a number of more than {plural(most, 'digit')}", self.sizes(problems) > most)]
        if second < most:
            longer: Bools = np.any(problems.lengths[:, 1:] > second, axis=1)
            found.append((f"a {self.second} of more than {plural(second, 'digit')}", longer))
        return found

    def problems(
        self, operands: Digits, num_operands: Ints | None = None, operators: Digits | None = None
    ) -> Problems:
        """Problems of this task from operands [N, K, D], none below zero, without those past a row's `num_operands`
        [N]; between them stands the task's own operator, unless others [N, K - 1] are given."""
        lengths = lengths_of(operands)
        if num_operands is not None:
            present = np.arange(operands.shape[1]) < num_operands[:, None]
            lengths = lengths * present
            operands = operands * present[..., None]
        if operators is None:
            operators = (self.operator * (lengths[:, 1:] > 0)).astype(np.uint8)
        negative, task = np.zeros(lengths.shape, np.bool_), np.full(len(operands), self.code, np.uint8)
        return Problems(operands, lengths, negative, operators, task)

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.operator]


def zero_divisors(problems: Problems) -> Bools:
    """Which operands [N, K - 1] but the first a number is divided by though they are 0."""
    zero: Bools = np.isin(problems.operators, _DIVIDED) & ~problems.operands[:, 1:].any(2)
    return zero


def plural(number: int, noun: str) -> str:
    """`1 digit`, `2,000 digits`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def select(condition: Bools, yes: Digits, no: Digits) -> Digits:
    """Rows of `yes` where the condition [N] holds, else of `no`."""
    chosen: Digits = np.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
    return chosen
