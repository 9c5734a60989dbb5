"""Addition of two or more operands."""

from __future__ import annotations

import numpy as np

from mathllm.errors import UsageError
from mathllm.limits import MAX_OPERANDS
from mathllm.tasks.base import Problems, Task
from mathllm.tasks.numbers import (
    Bools,
    Ints,
    Numbers,
    add,
    column_sums,
    longest_run,
    random_digits,
    significant,
)
from mathllm.tasks.sampling import Sampling, draw_carry_stress, draw_operands, draw_sums, triples
from mathllm.tokenizer import ADD


class Addition(Task):
    name, code = "addition", 0
    operator = ADD
    example = "12+34"
    rule = f"a sum has 2 to {MAX_OPERANDS} numbers, and no operator but +"
    commutative = True
    max_operands = most_numbers = MAX_OPERANDS

    def sample(self, rng: np.random.Generator, counts: Ints, method: str, how: Sampling) -> Problems:
        if method == "balanced":
            return self.problems(draw_sums(rng, counts, how.max_digits), counts)
        return self.problems(draw_operands(rng, counts, method, how.max_digits), counts)

    def of_length(self, rng: np.random.Generator, n: int, size: Sampling, *, stress: bool) -> Problems:
        operands, digits = self.most_operands(size), size.max_digits
        if stress:
            return self.problems(draw_carry_stress(rng, n, operands, digits))
        return self.problems(random_digits(rng, np.full((n, operands), digits), digits))

    def all_triples(self, digits: int) -> Problems:
        if digits < 4:
            raise UsageError(
                f"{digits} digits have no room for three columns and one above", "give 4 or more"
            )
        # pieces of one circle of columns, each with the first two of the next, and a column above that leads
        circle, each = triples(100), digits - 1
        starts = np.arange(0, len(circle), each - 2)
        columns = circle[(starts[:, None] + np.arange(each)) % len(circle)]
        columns = np.concatenate([columns, np.full((len(starts), 1), 11)], axis=1)
        return self.problems(np.stack(np.divmod(columns, 10), axis=1).astype(np.uint8))

    def extreme(self, size: Sampling) -> Problems:
        return self.problems(np.full((1, self.most_operands(size), size.max_digits), 9, np.uint8))

    def answer(self, problems: Problems) -> Numbers:
        return significant(add(problems.operands))

    def answer_widths(self, problems: Problems) -> Ints:
        operands, widths = problems.num_operands, problems.widths
        # a hundred operands at most: from two digits on, that many nines carry one less than they are
        carries = np.where(widths == 1, operands * 9 // 10, operands - 1)
        extra: Ints = np.where(carries > 9, 2, 1)
        return widths + extra

    def carries(self, problems: Problems) -> tuple[Ints, Ints, Ints]:
        carries = column_sums(problems.operands)[1]
        return carries, np.zeros(len(problems), np.int64), problems.num_operands - 1

    def carry_lengths(self, problems: Problems) -> Ints:
        return longest_run(column_sums(problems.operands)[1][:, 1:])

    def cascades(self, problems: Problems) -> Bools:
        totals, carries = column_sums(problems.operands)
        through: Bools = ((totals - carries[:, :-1]) // 10 != carries[:, 1:]).any(1)
        return through
