"""The one decoding loop, for evaluation, chat, the API and the server: batched, with a key/value cache.

Prompts of one length are decoded together, so that no prompt is padded and no mask is needed, unless others join them
on the way (continuous batching, as in Orca, OSDI 2022; here the last tokens of all rows are in one column, with room on
the left of those that came later). Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mathllm.device import workers
from mathllm.errors import UsageError
from mathllm.formats import Walk
from mathllm.inference.sampling import GREEDY, SamplingParams, pick
from mathllm.model.cache import KeyValueCache
from mathllm.model.transformer import Transformer
from mathllm.tokenizer import END, Ids

# what a batch may take: pairs of tokens that a head scores at once (64 MiB), and the cache
SCORES, CACHE_BYTES = 1 << 24, 1 << 30
SHORT_PIECE = 128  # tokens of a long text that are read at once at least

# rows that are worth a batch of their own on another thread (with fewer, threads wait for Python and not for
# products), and the most threads
SHARE, MOST = 256, 8

ENDED, CUT = 0, 1
REASONS = ("end", "length")  # why a row ended: it wrote the stop token, or ran out of room


@dataclass(frozen=True)
class Generation:
    """Completions: ids uint8 [N, T] (the stop token included, `<end>` behind it), their lengths [N],
    log-probabilities [N, T] (0 behind the end), and why each row ended, as an index [N] into REASONS."""

    ids: Ids
    lengths: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    reasons: NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """One token for each row that still runs: which row of the batch (R), id (R), and the logits (R, V) that it
    was picked from (-inf where a token was not allowed)."""

    rows: Tensor
    ids: Tensor
    logits: Tensor

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities (R) of the ids under the model at temperature 1."""
        return self.logits.log_softmax(-1).gather(-1, self.ids[:, None])[:, 0]


def room_in(model: Transformer) -> int:
    """Tokens of prompt and completion that a model has room for, and memory for its cache."""
    return min(model.max_length, CACHE_BYTES // model.cache_bytes)


class Running:
    """Rows that are being decoded, which may come and go: groups are admitted at any time, and those that have ended
    leave. What a row writes does not depend on its company, but for the last bits of its logits.

    A group is decoded with parameters and random numbers of its own, until its rows have written `stop` or have no room
    left; its `walk`, which has seen nothing yet, tells the model where its tokens stand, and holds it to what may
    follow."""

    def __init__(self, model: Transformer, stop: int = END) -> None:
        self.model, self.stop, self.device = model, stop, model.embedding.weight.device
        self.groups: list[Group] = []
        self.alive = self.admitted = 0
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        # by row of the cache: its number, the step behind which it has no room, and whether it still runs
        self.rows, self.ends, self.running = none, none, none.bool()
        self.steps = self.soonest = 0  # so many, and when the first row has no room
        self.cache: KeyValueCache | None = None
        # of each row, the logits that its next token is picked from; or that token, which the model has not read yet
        self.logits: Tensor | None = None
        self.picked: Tensor | None = None

    @torch.inference_mode()
    def admit(
        self,
        prompts: Tensor,
        room: int,
        *,
        params: SamplingParams = GREEDY,
        generator: torch.Generator | None = None,
        walk: Walk | None = None,
    ) -> range:
        """Takes in prompts (B, P) of one length, to be followed by at most `room` tokens each, and returns the numbers
        of their rows.

        Prompt and completion together never take more than `room_in(model)` tokens; a prompt that leaves no room is not
        taken in."""
        batch, length = prompts.shape
        room = min(room, room_in(self.model) - length)
        if room <= 0 or batch == 0:
            return range(0)
        self._read_picked()
        cache, coordinates = self.model.make_cache(batch, length + room), {}
        if walk is not None:
            told = walk.read(prompts.cpu().numpy().astype(np.uint8))
            coordinates = as_tensors(told, self.device)
        for piece in read(self.model, prompts, coordinates, cache):
            logits = piece[:, -1]  # of the last piece
        numbers = range(self.admitted, self.admitted + batch)
        rows = torch.arange(numbers.start, numbers.stop, device=self.device)
        ends, running = torch.full_like(rows, self.steps + room), torch.ones_like(rows, dtype=torch.bool)
        if self.cache is None or self.logits is None:
            self.cache, self.logits = cache, logits
            self.rows, self.ends, self.running, self.groups = rows, ends, running, []
        else:
            self.cache.join(cache, max(room, int(self.ends.max()) - self.steps))
            self.logits = torch.cat([self.logits, logits])
            self.rows, self.ends = torch.cat([self.rows, rows]), torch.cat([self.ends, ends])
            self.running = torch.cat([self.running, running])
        self.soonest = int(self.ends.min())
        self.groups.append(Group(params, generator, walk, torch.arange(batch, device=self.device), batch))
        self.admitted, self.alive = numbers.stop, self.alive + batch
        return numbers

    @torch.inference_mode()
    def step(self) -> Step:
        """The next token of every row that still runs."""
        self._read_picked()
        assert self.logits is not None, "no row runs"
        if len(self.groups) == 1:
            logits = self.groups[0].held(self.logits)
            ids = self.groups[0].pick(logits)
        else:
            parts = zip(self.groups, self.logits.split([group.count for group in self.groups]), strict=True)
            held = [group.held(part) for group, part in parts]
            logits = torch.cat(held)
            ids = torch.cat([group.pick(part) for group, part in zip(self.groups, held, strict=True)])
        if self.alive == len(self.rows):
            found = Step(self.rows, ids, logits)
        else:
            live = self.running.nonzero()[:, 0]
            found = Step(self.rows[live], ids[live], logits[live])
        self.steps += 1
        self.running = self.running & (ids != self.stop)
        if self.steps >= self.soonest:
            self.running = self.running & (self.ends > self.steps)
        self.alive = int(self.running.sum())
        self.logits, self.picked = None, ids
        return found

    def drop(self, numbers: Sequence[int]) -> None:
        """Goes on without these rows."""
        self.running = self.running & ~torch.isin(self.rows, torch.tensor(numbers, device=self.device))
        self.alive = int(self.running.sum())

    def _read_picked(self) -> None:
        """The model reads the tokens picked last; where many rows have ended, they go."""
        if self.picked is None or self.cache is None:
            return
        if self.alive == 0:
            self.cache = self.picked = None
            return
        ids = self.picked
        if self.alive < 0.7 * len(self.rows) or self.steps >= self.soonest:
            # copying the cache costs about one step, so it pays only where many rows have ended; a row without room
            # has no position left
            kept = self.running.nonzero()[:, 0]
            self.cache.keep(kept)
            self.rows, self.ends, ids = self.rows[kept], self.ends[kept], ids[kept]
            self._keep_groups(self.running)
            self.running, self.soonest = self.running[kept], int(self.ends.min())
        coordinates = self._told(ids.cpu().numpy().astype(np.uint8)) if self._walks else {}
        (logits,) = read(self.model, ids[:, None], coordinates, self.cache)
        self.logits, self.picked = logits[:, -1], None

    def _keep_groups(self, running: Tensor) -> None:
        parts = running.split([group.count for group in self.groups])
        for group, part in zip(self.groups, parts, strict=True):
            if not part.all():
                group.keep(part.nonzero()[:, 0])
        self.groups = [group for group in self.groups if group.count]

    @property
    def _walks(self) -> bool:
        walks = [group.walk for group in self.groups]
        return any(walk is not None and (walk.axes or walk.restricts) for walk in walks)

    def _told(self, ids: Ids) -> dict[str, Tensor]:
        """The coordinates (R, 1) of the tokens picked last."""
        start, told = 0, []
        for group in self.groups:
            assert group.walk is not None, "rows that are followed and rows that are not do not go together"
            told.append(group.walk.push(ids[start : start + group.count]))
            start += group.count
        joined = (
            told[0]
            if len(told) == 1
            else {axis: np.concatenate([one[axis] for one in told]) for axis in told[0]}
        )
        return as_tensors({axis: known[:, None] for axis, known in joined.items()}, self.device)


@dataclass
class Group:
    """Rows that were admitted together, `size` of them, and which of them [R] still are there; how their tokens are
    picked, and what follows them."""

    params: SamplingParams
    generator: torch.Generator | None
    walk: Walk | None
    kept: Tensor
    size: int

    @property
    def count(self) -> int:
        return len(self.kept)

    def held(self, logits: Tensor) -> Tensor:
        """Logits (R, V) of what may follow; -inf of what may not."""
        may = None if self.walk is None else self.walk.allowed()
        return (
            logits
            if may is None
            else logits.masked_fill(~torch.from_numpy(may).to(logits.device), -torch.inf)
        )

    def pick(self, logits: Tensor) -> Tensor:
        """Next ids (R). A random number is drawn for those that have ended, too, so that which ones these are changes
        nothing."""
        if self.params.temperature == 0:
            return logits.argmax(-1)
        chances = torch.rand(self.size, generator=self.generator, device=logits.device)
        return pick(logits, self.params, chances=chances[self.kept])

    def keep(self, rows: Tensor) -> None:
        """Goes on with these of its rows."""
        self.kept = self.kept[rows]
        if self.walk is not None:
            self.walk.keep(rows.cpu().numpy())


def decode(
    model: Transformer,
    prompts: Tensor,
    max_new_tokens: int,
    *,
    params: SamplingParams = GREEDY,
    stop: int = END,
    generator: torch.Generator | None = None,
    walk: Walk | None = None,
) -> Iterator[Step]:
    """Decodes prompts (B, P) of one length, a Step at a time, until every row has written `stop` or has no room left:
    see Running."""
    running = Running(model, stop)
    running.admit(prompts, max_new_tokens, params=params, generator=generator, walk=walk)
    while running.alive:
        yield running.step()


def as_tensors(coordinates: Mapping[str, NDArray[np.int64]], device: torch.device) -> dict[str, Tensor]:
    """Coordinates where a model can use them."""
    return {
        axis: torch.from_numpy(np.ascontiguousarray(known)).to(device) for axis, known in coordinates.items()
    }


def read(
    model: Transformer, tokens: Tensor, coordinates: Mapping[str, Tensor], cache: KeyValueCache | None = None
) -> Iterator[Tensor]:
    """Logits (R, t, V) of tokens (R, T) behind those of the cache, into which they go; long texts piece by piece, so
    that memory holds their scores."""
    batch, length = tokens.shape
    past = cache.length if cache else 0
    piece = max(1, SCORES // (batch * (past + length)))
    reach = min((cache or model).reach.values(), default=0)
    if reach and past + length > 8 * reach:
        # from a short piece most of a long text is out of reach; but a very short one costs as much as this
        piece = min(piece, max(SHORT_PIECE, 2 * reach))
    if cache is None and piece < length:
        cache = model.make_cache(batch, length)
    for start in range(0, length, piece):
        part = slice(start, start + piece)
        told = {axis: known[:, part] for axis, known in coordinates.items()}
        yield model(tokens[:, part], told, cache)


def generate(
    model: Transformer,
    prompts: Ids,
    lengths: NDArray[np.int64],
    max_new_tokens: int,
    *,
    params: SamplingParams = GREEDY,
    stop: int = END,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
    walk: Callable[[NDArray[np.int64]], Walk] | None = None,
) -> Generation:
    """Completions of prompts [N, P] of the given lengths [N], in batches of one prompt length each; `walk` makes what
    follows the texts of some rows.

    At most `batch_size` rows are decoded at once, fewer where long texts would fill the memory.

    Raises UsageError where a prompt leaves no room for a completion.
    """
    n = len(lengths)
    shortest, longest = (int(lengths.min()), int(lengths.max())) if n else (0, 0)
    if longest >= room_in(model):
        raise UsageError(
            f"a prompt of {longest} tokens leaves no room in the model's {room_in(model)}",
            "use shorter numbers, or train with a larger --max-length",
        )
    width = max(0, min(max_new_tokens, room_in(model) - shortest))
    ids = np.full((n, width), END, np.uint8)
    log_probs = np.zeros((n, width), np.float32)
    written = np.zeros(n, np.int64)
    reasons = np.full(n, CUT, np.uint8)
    device = model.embedding.weight.device
    greedy = params.temperature == 0
    # random draws come in order
    threads = min(MOST, torch.get_num_threads()) if device.type == "cpu" and greedy else 1

    def complete(part: NDArray[np.int64]) -> None:
        prompt = torch.from_numpy(prompts[part, : lengths[part[0]]]).to(device).long()
        steps = list(
            decode(
                model,
                prompt,
                max_new_tokens,
                params=params,
                stop=stop,
                generator=generator,
                walk=None if walk is None else walk(part),
            )
        )
        parts = zip(*((step.rows, step.ids, step.logits) for step in steps), strict=True)
        every = Step(*(torch.cat(part) for part in parts))
        # one transfer a batch: a GPU would otherwise wait for the host at every token
        row, token, log_prob = (part.cpu().numpy() for part in (every.rows, every.ids, every.log_probs))
        column = np.repeat(np.arange(len(steps)), [len(step.rows) for step in steps])
        ids[part[row], column] = token
        log_probs[part[row], column] = log_prob
        written[part] = np.bincount(row, minlength=len(part))
        reasons[part[row[token == stop]]] = ENDED

    jobs = _batches(model, lengths, max_new_tokens, batch_size, threads) if width else []
    if threads > 1 and n >= SHARE * len(jobs) > SHARE:
        list(workers(threads).map(complete, jobs))
    else:
        for job in jobs:
            complete(job)
    width = int(written.max(initial=0))
    return Generation(ids[:, :width], written, log_probs[:, :width], reasons)


def _batches(
    model: Transformer, lengths: NDArray[np.int64], max_new_tokens: int, batch_size: int, threads: int
) -> list[NDArray[np.int64]]:
    """Rows [N] with prompts of these lengths, in batches of one length each that the cache has room for."""
    found = []
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        room = int(length) + min(max_new_tokens, room_in(model) - int(length))
        most = min(batch_size, CACHE_BYTES // threads // (room * model.cache_bytes))
        share = max(SHARE, -(-len(same) // threads))
        size = max(1, min(most, share))
        found += [same[start : start + size] for start in range(0, len(same), size)]
    return found
