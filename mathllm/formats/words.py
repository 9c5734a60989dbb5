"""What the rows of `scratchpad` say, in numbers as people write them: `*3=630`, a row of 12*34, is `12*30 = 360`.

It is read off what the model wrote, right or wrong, and never worked out.
"""

from __future__ import annotations

import re

OPERATION = re.compile(r"(-?)(\d+)([-+*/%])(-?)(\d+)=?")
RESULT = re.compile(r"(-?)(\d+)")
TIMES = re.compile(r"\*(\d)=(\d+)")
SUM = re.compile(r"\+=(\d+)")
DOWN = re.compile(r"\d*\+(\d)=(\d+)")
LESS = re.compile(r"-=(\d+)([+-])(\d?)")
OTHER = re.compile(r"=(\d+)")
TOP = re.compile(r"=-*(\d*)")


class Reader:
    """One working from top to bottom: the operation at hand, and what its rows have come to."""

    def __init__(self, expression: str) -> None:
        """`expression` as the format writes it, such as `21*43`."""
        self.left = self.operator = self.right = ""
        self._begins(expression)

    def says(self, row: str) -> str:
        """What the next row says; "" of what is none."""
        if result := RESULT.fullmatch(row):
            return f"= {result[1]}{_number(result[2])}"
        if row.endswith("=") and (said := self._begins(row)):
            return said
        reads = {"*": self._product, "/": self._quotient, "%": self._quotient, "-": self._difference}
        return reads.get(self.operator, self._sum)(row)

    def _begins(self, text: str) -> str:
        found = OPERATION.fullmatch(text)
        if not found:
            return ""
        left_sign, left, operator, right_sign, right = found.groups()
        left, right = _number(left), _number(right)
        said = f"{left_sign}{left}{operator}{right_sign}{right}"
        if left_sign and operator == "+":  # -5+3 is worked out as 3-5
            left, operator, right = right, "-", left
        self.left, self.operator, self.right = left, operator, right
        self.zeros = ""  # below the multiplier's digit
        self.final = ""  # digits of the product that no later row changes
        self.rest, self.borrowed = "0", False
        return said

    def _sum(self, row: str) -> str:
        found = SUM.fullmatch(row)
        return f"so far {_number(found[1])}" if found else ""

    def _product(self, row: str) -> str:
        if found := TIMES.fullmatch(row):
            digit, product = found[1], _number(found[2])
            return f"{self.left}*{_places(digit, self.zeros)} = {_places(product, self.zeros)}"
        if found := SUM.fullmatch(row):
            said = f"so far {_number(self.final + found[1])}"
            self.final += found[1][0]
            self.zeros += "0"
            return said
        return ""

    def _quotient(self, row: str) -> str:
        if found := DOWN.fullmatch(row):
            self.rest = _number(found[2])
            return f"bring down {found[1]}: {self.rest}"
        if found := LESS.fullmatch(row):
            taken = f"{self.rest}-{self.right}"
            if found[2] == "-":
                times = "once" if found[3] == "1" else f"{found[3]} times"
                return f"{taken} is below 0: it went {times}"
            self.rest = _number(found[1])
            return f"{taken} = {self.rest}"
        return self._from_the_top(row)

    def _difference(self, row: str) -> str:
        if found := LESS.fullmatch(row):
            taken = f"{self.left}-{self.right}"
            self.borrowed = found[2] == "-"
            return f"{taken} is below 0" if self.borrowed else f"{taken} = {_number(found[1])}"
        if self.borrowed and (found := OTHER.fullmatch(row)):
            self.borrowed = False
            return f"{self.right}-{self.left} = {_number(found[1])}"
        return self._from_the_top(row)

    def _from_the_top(self, row: str) -> str:
        found = TOP.fullmatch(row)
        return f"{found[1] or '0'} is left" if found else ""


def _number(digits: str) -> str:
    """Of digits with the units first."""
    return digits[::-1].lstrip("0") or "0"


def _places(number: str, zeros: str) -> str:
    return number if number == "0" else number + zeros
