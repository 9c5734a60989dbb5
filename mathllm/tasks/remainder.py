"""The remainder of a division of two natural numbers."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import Ints, Numbers, divide, significant
from mathllm.tasks.quotients import Quotients
from mathllm.tokenizer import REMAINDER


class Remainder(Quotients):
    name, code = "remainder", 5
    operator = REMAINDER
    example = "17%5"
    rule = "a remainder is of two numbers, with % between them"

    def answer(self, problems: Problems) -> Numbers:
        return significant(divide(problems.operands[:, 0], problems.operands[:, 1])[1])

    def answer_widths(self, problems: Problems) -> Ints:
        widths: Ints = problems.lengths[:, :2].min(1)
        return widths

    def bounds(self, problems: Problems) -> tuple[Numbers, ...]:
        """From 0 to what is one less than the largest divisor, or to the largest dividend."""
        place = np.arange(problems.operands.shape[2])
        most = np.where(place < self.answer_widths(problems)[:, None], 9, 0).astype(np.uint8)
        most[:, 0] -= problems.lengths[:, 0] >= problems.lengths[:, 1]
        return significant(most * 0), significant(most)
