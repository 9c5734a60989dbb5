"""What a token of school working belongs to (see formats.column), for reports of mistakes: `carry of a partial product`
and `in column 3 of partial product 2`."""

from __future__ import annotations

import numpy as np

from mathllm.tasks import Problems
from mathllm.tasks.numbers import Bools, Ints
from mathllm.tokenizer import END, END_THINK, EQUALS, MINUS, PLUS, THINK, Ids

PRODUCT, SUM, DIFFERENCE, QUOTIENT = range(4)  # kinds of steps


def named_parts(problems: Problems, ids: Ids, columns: Ints, begins: Bools) -> list[list[tuple[str, str]]]:
    """What the tokens of some columns [N, K] of each gold text [N, T] belong to, all of its thought, and where that is;
    `begins` says where steps begin, but for the first ones."""
    by_column = [_named(problems, ids, chosen, begins) for chosen in columns.T]
    return [list(parts) for parts in zip(*by_column, strict=True)]


def _named(problems: Problems, ids: Ids, columns: Ints, begins: Bools) -> list[tuple[str, str]]:
    """The same for one column [N] of each text."""
    column, at, every = np.arange(ids.shape[1]), columns[:, None], np.arange(len(ids))
    opens, digit, sign = ids == THINK, ids < 10, (ids == PLUS) | (ids == MINUS)
    operator = sign & np.pad(digit[:, :-1], ((0, 0), (1, 0)))
    depth = np.cumsum(opens, 1) - np.cumsum(ids == END_THINK, 1)
    several = (opens & (depth == 2)).any(1)

    def last(flags: Bools) -> Ints:
        found: Ints = np.where(flags & (column <= at), column, -1).max(1, initial=-1)
        return found[:, None]

    def count(flags: Bools, start: Ints, end: Ints) -> Ints:
        total: Ints = (flags & (column >= start) & (column < end)).sum(1)
        return total

    # kinds of steps, by their first signs: `8*7`, `8+9`, `8-9` and `98/12`
    first, second = (np.pad(ids[:, k:], ((0, 0), (0, k)), constant_values=END) for k in (1, 2))
    product = (first == PLUS) & (second == PLUS)
    kinds = np.select([product, first == PLUS, (first == MINUS) & (second != MINUS)], range(3), QUOTIENT)
    begins = begins | np.pad(opens[:, :-1], ((0, 0), (1, 0)))
    working, step, divided = last(opens), last(begins), last(begins & (kinds == QUOTIENT))
    kind, since, until = kinds[every, step[:, 0]], np.maximum(working, divided), at + 1
    # where there are several operations, each stands before its working
    outer = last(opens & (depth == 1)) * several[:, None]
    named = np.where(operator & (column > outer), column, ids.shape[1]).min(1, initial=ids.shape[1])[:, None]
    left = np.where(several, count(digit, outer, named), problems.lengths[:, 0])
    right = np.where(several, count(digit, named, working), problems.lengths[:, 1])
    products = count(begins & (kinds == PRODUCT), working, until) > 0
    addends = np.where(products, right, np.where(several, 2, problems.num_operands))
    facts = (
        ids[every, columns],
        several & (depth[every, columns] == 1),
        kind,
        count(ids == EQUALS, step, at) > 0,
        # a sign belongs to what comes behind it, and a `=` stands where a carry could
        count(operator | (ids == EQUALS), step, until),
        np.where(kind == SUM, addends, 2),
        count(begins & (kinds == kind[:, None]), since, until),
        np.where(products & (right > 1), left, 0),
        count(begins & (kinds == QUOTIENT), working, until),
        count(opens & (depth == 1), every[:, None] * 0, until) * several,
    )
    return [_part(*one) for one in zip(*(fact.tolist() for fact in facts), strict=True)]


def _part(
    token: int,
    outside: bool,
    kind: int,
    result: bool,
    signs: int,
    numbers: int,
    place: int,
    length: int,
    quotient: int,
    operation: int,
) -> tuple[str, str]:
    """`signs` are those of the step so far, in which `numbers` digits are copied, `length` is that of the first
    factor of a long product, `quotient` the digit of the quotient, `operation` that of several; 0 where there is
    none."""
    of_operation = [f"of operation {operation}"] * (operation > 0)
    if outside or token in (THINK, END_THINK):
        names = {THINK: "beginning of the working", END_THINK: "end of the working"}
        return names.get(token, "operation or its result"), " ".join(of_operation)
    if kind == QUOTIENT and result:
        return "quotient digit", " ".join([f"{quotient} from the left", *of_operation])
    if kind == QUOTIENT:
        return "copied number of a division", " ".join(
            [f"for quotient digit {quotient} from the left", *of_operation]
        )
    if result:
        name = "difference" if kind == DIFFERENCE else "total"
    elif signs >= numbers:
        name = "borrow" if kind == DIFFERENCE else "carry"
    else:
        name = "copied digit"
    where = [f"in column {place}"]
    if quotient:
        name += " of a subtraction" if kind == DIFFERENCE else " of a product"
        where.append(f"for quotient digit {quotient} from the left")
    elif length and kind == PRODUCT:
        name += " of a partial product"
        where = [f"in column {(place - 1) % length + 1} of partial product {(place - 1) // length + 1}"]
    elif length:
        name += " of the sum of partial products"
    copied = [f"of number {signs + 1}"] * (not result and signs < numbers)
    return name, " ".join([*copied, *where, *of_operation])
