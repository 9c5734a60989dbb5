"""What a server is asked to do: jobs of rows, how they are decoded, and what comes of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import DataError, UsageError
from mathllm.formats import Rendered
from mathllm.inference.engine import CUT, ENDED
from mathllm.inference.sampling import GREEDY, SamplingParams
from mathllm.inference.texts import Written
from mathllm.math_model import Solution
from mathllm.serve.versions import Version
from mathllm.tasks import Problems, concatenate
from mathllm.tokenizer import END, Ids

AGE = 1.0  # seconds after which long work goes before short work
SLICE = 2048  # tokens that are read in parallel at once, and one text: the most that anyone waits behind
PER_CHARACTER, PER_ROW = 8, 16  # tokens that a text is taken to cost before it is read

Shares = NDArray[np.float64]
Observe = Callable[..., None]  # is told a name, a number, and of what kind of work it is: it must not block
request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is being worked on


class Refused(Exception):
    """Work that was not taken in, or not begun in time: `kind` is overloaded, draining, loading, deadline or busy, and
    it may be tried again after so many seconds."""

    def __init__(self, kind: str, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.kind, self.message, self.retry_after = kind, message, retry_after


@dataclass(frozen=True)
class How:
    """How rows are decoded: `most` is the most tokens of a completion (0: as many as the truth could need), `detail`
    whether the probabilities of all tokens are wanted, `draft` whether the true text may be tried first."""

    params: SamplingParams = GREEDY
    seed: int = 0
    draft: bool = True
    detail: bool = False
    most: int = 0


@dataclass(frozen=True)
class Raw:
    """A text to go on from, in a model's own notation: the problem that it begins with, and its ids [P]."""

    problems: Problems
    ids: Ids


Line = str | Raw


@dataclass(frozen=True)
class Token:
    """A token as it comes: the row of its job, its place in the completion, its id, and the probabilities of all
    sixteen that it was picked from."""

    row: int
    place: int
    id: int
    shares: Shares


@dataclass(frozen=True)
class Solved:
    """A row's answer: by which version, how it was decoded (`draft`, `steps`, or `draft+steps`), what the question said
    itself to be the answer, and the completion's ids [C], with the probabilities [C, V] that they were picked from
    where these were asked for."""

    solution: Solution
    version: Version
    decoding: str
    stated: str
    prompt: int  # tokens of it
    drafted: bool  # the truth was tried
    ids: tuple[int, ...]
    words: tuple[str, ...] = ()  # what the steps say, where they need it
    shares: Shares | None = None


Outcome = Solved | Exception


class Done(NamedTuple):
    """The end of a line, by its place in its job; of other work its end, with what went wrong or nothing."""

    row: int
    outcome: Outcome | None


@dataclass(eq=False)
class Job:
    """A request. `answered` holds an outcome for each line when all have theirs; `watch` is called, in the loop's
    thread, with every Token as it comes and with every Done. In place of lines there may be `work`, which is done
    slice by slice: what it yields goes to `watch`, and it is answered when it ends."""

    lines: Sequence[Line] = ()
    how: How = How()
    version: Version | None = None  # None: whoever has learned it
    deadline: float = math.inf  # on the monotonic clock: not begun later than this
    watch: Callable[[Any], None] | None = None
    work: Iterator[Any] | None = None

    def __post_init__(self) -> None:
        self.answered: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.outcomes: list[Outcome | None] = [None] * len(self.lines)
        self.missing = len(self.lines) + (self.work is not None)
        self.costs = [self._cost(line) for line in self.lines]
        self.cost = self.left = sum(self.costs)  # tokens that it may take, and those of what is not answered
        self.asked_as = request_id.get()
        self.cancelled, self.taken = False, 0  # rows that the engine has begun
        # when it came, when work on it began, when something was done for it last, and when it was answered
        self.submitted = self.began = self.touched = self.ended = 0.0

    @property
    def detailed(self) -> bool:
        return self.how.detail or self.watch is not None

    def _cost(self, line: Line) -> int:
        """Tokens that a line is taken to cost; a text that is gone on from may take all the room there is."""
        if isinstance(line, str):
            return PER_ROW + PER_CHARACTER * len(line)
        assert self.version is not None, "a model's own notation is for that model"
        room = self.version.model.scope.max_length - len(line.ids)
        return PER_ROW + len(line.ids) + max(0, min(self.how.most or room, room))


@dataclass(eq=False)
class Row:
    """One line of a job: its text as it is given to the model, and what the completion has come to so far."""

    job: Job
    index: int
    stated: str = ""
    asked: Rendered | None = None  # [1]
    limit: int = 0  # the most tokens of the completion
    drafted: bool = False  # the truth was tried as a draft
    accepted: int = 0  # tokens of it that are those of the draft
    tied: bool = False  # it came to a near tie, and is decoded alone
    told: int = 0  # tokens that whoever watches knows of, and when the last of them was decoded
    heard: float = 0.0
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)  # where the job is detailed

    @property
    def text(self) -> Rendered:
        assert self.asked is not None, "it has not been written out"
        return self.asked

    @property
    def begun(self) -> bool:
        """Has anything of its completion been worked out?"""
        return self.tied or bool(self.ids)

    def begin_again(self) -> None:
        """Forgets its completion, to be decoded from its prompt, alone."""
        self.tied, self.accepted, self.heard = True, 0, 0.0
        self.ids, self.log_probs, self.shares = [], [], []

    @property
    def so_far(self) -> Ids:
        """The prompt's ids [P], and those of the completion behind it."""
        prompt = self.text.ids[0, : self.text.prompt_lengths[0]]
        return np.concatenate([prompt, np.array(self.ids, np.uint8)])


@dataclass
class Block:
    """Rows whose texts were written out together, which have been read up to `at`."""

    version: Version
    texts: Rendered
    rows: list[Row]
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.rows) - self.at


def is_ours(error: Exception) -> bool:
    """Is an error our fault, as damaged weights are, and not of what was asked?"""
    return not isinstance(error, Refused | UsageError | DataError)


def too_late() -> Refused:
    return Refused("deadline", "it was not begun before its deadline")


def aged(job: Job) -> bool:
    """Has nothing been done for it in a while?"""
    return time.monotonic() - job.touched > AGE


def problems_of(rows: Sequence[Row]) -> Problems:
    return concatenate([row.text.problems for row in rows])


def written_of(rows: Sequence[Row]) -> Written:
    """The texts of rows, with their completions."""
    prompts = np.array([int(row.text.prompt_lengths[0]) for row in rows])
    counts = np.array([len(row.ids) for row in rows])
    lengths = prompts + counts
    ids = np.full((len(rows), int(lengths.max(initial=0))), END, np.uint8)
    likely = np.zeros((len(rows), int(counts.max(initial=0))), np.float32)
    for at, row in enumerate(rows):
        ids[at, : lengths[at]] = row.so_far
        likely[at, : counts[at]] = row.log_probs
    reasons = np.array([ENDED if row.ids[-1:] == [END] else CUT for row in rows], np.uint8)
    return Written(problems_of(rows), ids, lengths, prompts, reasons, likely)


def decoding_of(row: Row) -> str:
    """How a completion was come by."""
    if row.accepted == len(row.ids):
        return "draft"
    return "draft+steps" if row.accepted else "steps"


def softmax(logits: NDArray[np.float32]) -> Shares:
    """Probabilities [..., V] of logits [..., V]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    shares: Shares = shifted / shifted.sum(-1, keepdims=True)
    return shares
