"""Division of two natural numbers: the quotient without its remainder."""

from __future__ import annotations

import numpy as np

from mathllm.tasks.base import Problems
from mathllm.tasks.numbers import Ints, Numbers, divide, significant
from mathllm.tasks.quotients import Quotients
from mathllm.tokenizer import DIVIDE


class Division(Quotients):
    name, code = "division", 4
    operator = DIVIDE
    example = "144/12"
    rule = "a quotient is of two numbers, with / between them"

    def answer(self, problems: Problems) -> Numbers:
        return significant(divide(problems.operands[:, 0], problems.operands[:, 1])[0])

    def answer_widths(self, problems: Problems) -> Ints:
        widths: Ints = np.maximum(problems.lengths[:, 0] - problems.lengths[:, 1] + 1, 1)
        return widths
