"""What formats share that work out expressions: one operation after the other, each in a thought of its own.

`2+3*4=<think>3*4=<think>...</think>12</think><think>2+12=<think>...</think>14</think>14`; a text of one operation
on two numbers has its working alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Digits, Ints, Numbers, widen
from mathllm.tasks.order import in_order, reduced
from mathllm.tasks.slots import ABSENT, Slots, constant, operator_slots, signed_slots, stack
from mathllm.tokenizer import ADD, DIVIDE, END_THINK, EQUALS, MULTIPLY, REMAINDER, SUBTRACT, THINK

# the working of one operation on two numbers a row, of which only the left one may be negative, in sums and differences
Working = Callable[[Digits, Numbers, Numbers], Slots]


def workings(problems: Problems, working: Working, least_significant_first: bool) -> Slots:
    """The working of problems with one operation, and all operations of those with more."""
    no = np.zeros(len(problems), np.bool_)
    left, right = (Numbers(problems.operands[:, k], problems.lengths[:, k], no) for k in (0, 1))
    several = problems.num_operands > 2
    parts: list[tuple[Bools | Ints, Slots]] = []
    if not several.all():
        two = ~several
        parts.append((two, working(problems.operators[two, 0], left[two], right[two])))
    if several.any():
        parts.append((several, steps(problems[several], working, least_significant_first)))
    return merged(len(problems), parts)


def steps(problems: Problems, working: Working, least_significant_first: bool) -> Slots:
    """All operations of expressions, each with its working: `3*4=<think>...</think>12`, and between them
    `</think><think>`."""
    order = reduced(problems)
    (n, k), results = problems.lengths.shape, order.results
    width = results.digits.shape[2]
    digits = np.concatenate([widen(problems.operands, width)[..., :width], results.digits], axis=1)
    lengths = np.concatenate([problems.lengths, results.lengths], axis=1)
    negative = np.concatenate([np.zeros((n, k), np.bool_), results.negative], axis=1)
    parts: list[Slots] = []
    for step in range(k - 1):
        rows = np.flatnonzero(order.operators[:, step])
        operators, m = order.operators[rows, step], len(rows)
        taken = order.left[rows, step], order.right[rows, step], np.full(m, k + step)
        left, right, result = (Numbers(digits[rows, i], lengths[rows, i], negative[rows, i]) for i in taken)
        text = [constant(m, END_THINK, THINK)] if step else []
        text += [signed_slots(left, None, least_significant_first), operator_slots(operators)]
        text += [signed_slots(right, None, least_significant_first), constant(m, EQUALS, THINK)]
        text += [working(operators, left, right), constant(m, END_THINK)]
        text.append(signed_slots(result, None, least_significant_first))
        parts.append(merged(n, [(rows, stack(text))]))
    return stack(parts)


def merged(n: int, parts: list[tuple[Bools | Ints, Slots]]) -> Slots:
    """Slots of n rows, of which each part has some, and the others none."""
    if len(parts) == 1 and parts[0][1].shape[1] == n:
        return parts[0][1]
    slots = np.full((max((len(part) for _, part in parts), default=0), n), ABSENT, np.uint8)
    for rows, part in parts:
        slots[: len(part), rows] = part
    return slots


def operations(problems: Problems, tokens: Callable[[Ints, Ints, Ints], Ints]) -> Ints:
    """The sum [N] of `tokens(operators, left, right)` over the operations of problems, given the operators and the most
    digits of both numbers [N] (0 where there is no more operation)."""
    order, k = in_order(problems), problems.operands.shape[1]
    widths = np.concatenate([problems.lengths, np.zeros_like(order.left)], axis=1)
    total, every = np.zeros(len(problems), np.int64), np.arange(len(problems))
    for step, operator in enumerate(order.operators.T):
        left, right = (widths[every, taken[:, step]] for taken in (order.left, order.right))
        total += tokens(operator, left, right) * (operator > 0)
        kinds = [operator == MULTIPLY, operator == DIVIDE, operator == REMAINDER]
        made = [left + right, np.maximum(left - right, 0) + 1, np.minimum(left, right)]
        widths[:, k + step] = np.select(kinds, made, np.maximum(left, right) + 1)
    return total


def kinds_of(operators: Digits, left: Numbers) -> Digits:
    """As what operations [N] are worked out: -a+b is b-a, and -a-b is -(a+b)."""
    turned = left.negative & (operators <= SUBTRACT)
    return np.where(turned, ADD + SUBTRACT - operators, operators).astype(np.uint8)
