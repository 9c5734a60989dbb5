"""The errors that mathllm shows to people: what happened, why, and the command that mends it."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection, Iterable
from numbers import Integral, Real

_WIDEST, _KEPT = 1000, 300  # characters of a line: the longest, and what is left of each end of a longer one


class MathLLMError(Exception):
    """A failure with a message for the user; `hint` says what to do about it. Both may quote from files: see
    `visible`."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        message = visible(message)
        super().__init__(message)
        self.message = message
        self.hint = hint and visible(hint)

    def __str__(self) -> str:
        """All that there is to say, as a notebook shows it."""
        return "\n".join([self.message, *([f"hint: {self.hint}"] if self.hint else [])])


class UsageError(MathLLMError, ValueError):
    """A value that cannot be used: an unknown option, a combination that makes no sense."""

    exit_code = 2


class DataError(MathLLMError, ValueError):
    """A data file or an expression that cannot be read."""


class ExpressionError(DataError):
    """A text that is no arithmetic problem; `position` is the offending character of `text`."""

    def __init__(self, message: str, text: str, position: int, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.text = text
        self.position = position

    def __str__(self) -> str:
        return super().__str__().replace(self.message, f"{self.message}\n{self.caret()}", 1)

    def caret(self, width: int = 72) -> str:
        """Two lines: the text (a window of it, if long) and a caret under the offending character."""
        start = max(0, min(self.position - width // 2, len(self.text) - width))
        shown = self.text[start : start + width]
        # control characters would move the caret away from what it points at
        shown = "".join(c if c.isprintable() else "?" for c in shown)
        return f"{shown}\n{' ' * (self.position - start)}^"

    def in_row(self, row: int) -> DataError:
        """The same error, for a text that is one of many: says which row (from 0), counted from 1."""
        return DataError(f"row {row + 1}: {self.message}\n{self.caret()}", self.hint)


class CheckpointError(MathLLMError):
    """A checkpoint that is missing, damaged, or made for something else."""


class DeviceError(MathLLMError):
    """A device that was asked for and is not there."""


class TrainingError(MathLLMError):
    """Training cannot go on, for example because the loss is not a number any more."""


def reason(error: BaseException) -> str:
    """What an error says, in a sentence that has a place for it: without the hint."""
    return error.message if isinstance(error, MathLLMError) else str(error)


def visible(text: str) -> str:
    """A text that may come from a file as a terminal can show it: its control characters are written out (`\\x1b`),
    and very long lines are cut in the middle."""
    lines = (
        line if len(line) <= _WIDEST else f"{line[:_KEPT]} ... {line[-_KEPT:]}" for line in text.split("\n")
    )
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)


def complain(error: MathLLMError, where: str = "") -> None:
    """An error on stderr: what happened, at which place, and what mends it."""
    print(f"error: {where}{error.message}", file=sys.stderr)
    if isinstance(error, ExpressionError):
        print("  " + error.caret().replace("\n", "\n  "), file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def remark(text: str) -> None:
    """A note on stderr: what one should know beside the result."""
    print(f"note: {visible(text)}", file=sys.stderr)


def unknown_choice(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not among `choices`, with the nearest one as a hint."""
    choices = list(choices)
    begun = [choice for choice in choices if choice.startswith(value)]
    # a name that only sounds alike would lead astray: division is no addition
    near = begun if len(begun) == 1 else difflib.get_close_matches(value, choices, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}?" if near else None
    return UsageError(f"unknown {kind} {value!r}; choose from {', '.join(choices)}", hint)


def check_choice(kind: str, value: str, choices: Collection[str]) -> None:
    """Raises UsageError for a name that is not among the choices."""
    if value not in choices:
        raise unknown_choice(kind, value, choices)


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises UsageError for a number that is too low, infinite, or none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} is a number, not {value!r}")
    if not value >= least:
        # whole numbers may be too large for a float
        shown = f"{value:g}" if isinstance(value, float) or abs(value) < 1e15 else "that"
        raise UsageError(f"{name} must be at least {least:g}, not {shown}")
    if value == math.inf:
        raise UsageError(f"{name} must be finite")


def check_whole(name: str, value: float, least: float) -> None:
    """Raises UsageError for a number that is too low, not whole, or none."""
    check_at_least(name, value, least)
    if not isinstance(value, Integral):
        raise UsageError(f"{name} is a whole number, not {value!r}")
