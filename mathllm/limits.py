"""How large things may be: every bound on what people type and what files say stands here.

A few bytes can ask for more memory, or more hours, than a machine has. So whatever comes in from outside is held to
these bounds before anything of that size is made; they are far above what tiny transformers are trained on.
"""

from __future__ import annotations

from mathllm.errors import DataError, UsageError, check_at_least, check_whole

MAX_DIGITS = 4000  # of a number that is typed, drawn or read: Python's int() reads no more than 4,300
MAX_OPERANDS = 100  # of a sum: a carry has at most two digits then
MAX_LENGTH = 1 << 20  # tokens of a text
MAX_THOUGHTS = 1000

# of a model
MAX_WIDTH, MAX_FEED_FORWARD = 1 << 14, 1 << 16
MAX_DEPTH = 256  # blocks that a token goes through: layers times loops
MAX_PARAMETERS = 1 << 28  # 1 GiB in fp32
MAX_TABLE = 1 << 26  # numbers in a table of positions
MAX_NEAR = 64  # places to either side in a table of differences

# of a run
MAX_STEPS = 1 << 40
MAX_THREADS = 256
MAX_STEP_TOKENS, MAX_EVALUATED = 1 << 25, 1 << 27  # tokens in the texts of a step, and of a validation
MAX_SAMPLES = 256  # texts drawn of a problem
MAX_SEEDS = 1000  # of a study

MAX_EXAMPLES = 10**10  # rows of a dataset: terabytes
MAX_CELLS = 1 << 27  # digits of problems that are held at once: rows times operands times digits
MAX_HELD = 1 << 28  # and of a fixed set to train on, or of a draw for training
MAX_LINE = 1 << 20  # characters of a line that is typed, or comes through a pipe
MAX_ROW = 1 << 22  # characters of a line of a data file: the longest that can be written has half of that
MAX_DOCUMENT = 1 << 24  # bytes of a JSON file
MAX_RECIPE = 1 << 14  # and of a TOML file, which takes time by the square of its keys


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raises UsageError for a number below `least`, above `most`, or none; and for one that is not whole, where
    `most` is."""
    if isinstance(most, int):
        check_whole(name, value, least)
    else:
        check_at_least(name, value, least)
    if value > most:
        # the number itself may be as long as a file
        raise UsageError(f"{name} must be at most {most:,}" + (f", not {value:,}" if value < 1e15 else ""))


def check_cells(what: str, rows: int, operands: int, digits: int, most: int = MAX_CELLS) -> None:
    """Raises UsageError for more problems of that size than memory has room for."""
    if rows * operands * digits > most:
        raise UsageError(
            f"{what}: {rows:,} problems of {operands} numbers of {digits:,} digits are too many to hold at once",
            f"at most {max(1, most // (operands * digits)):,} of that size, or shorter ones",
        )


def check_widening(whose: str, rows: int, operands: int, digits: int, most: int = MAX_CELLS) -> None:
    """Raises DataError where a few long rows would make the arrays of all the others that long, too."""
    if rows * operands * digits > most:
        raise DataError(
            f"{whose} would take too much memory: each of {rows:,} is held as wide as the widest, {operands} numbers "
            f"of {digits:,} digits",
            "put the longest ones apart from the others",
        )
