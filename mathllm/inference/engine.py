"""The one decoding loop, for evaluation, chat, the API and every server: batched, with a key/value cache.

Prompts of one length are decoded together, so that no prompt is padded and no mask is needed; rows that have
ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


@torch.inference_mode()
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
    """Decodes prompts (B, P) of one length, a Step at a time, until every row has written `stop`.

    A `walk` that has seen nothing yet tells the model where its tokens stand, and holds it to what may follow. Prompt
    and completion together never take more than `room_in(model)` tokens; a prompt that leaves no room gives no
    Step."""
    batch, length = prompts.shape
    room = min(max_new_tokens, room_in(model) - length)
    if room <= 0 or batch == 0:
        return
    cache, device = model.make_cache(batch, length + room), prompts.device
    rows = torch.arange(batch, device=device)  # the row of the batch that each row of the cache is
    running = torch.ones(batch, dtype=torch.bool, device=device)
    alive = batch
    tokens, coordinates = prompts, {}
    if walk is not None:
        coordinates = as_tensors(walk.read(prompts.cpu().numpy().astype(np.uint8)), device)
    for step in range(room):
        for piece in read(model, tokens, coordinates, cache):
            logits = piece[:, -1]  # of the last piece
        may = None if walk is None else walk.allowed()
        if may is not None:
            logits = logits.masked_fill(~torch.from_numpy(may).to(device), -torch.inf)
        ids = pick(logits, params, generator)
        if alive == len(rows):
            yield Step(rows, ids, logits)
        else:
            live = running.nonzero()[:, 0]
            yield Step(rows[live], ids[live], logits[live])
        running &= ids != stop
        alive = int(running.sum())
        if alive == 0 or step == room - 1:
            return
        if alive < 0.7 * len(rows):
            # copying the cache costs about one step, so it pays only where many rows have ended
            kept = running.nonzero()[:, 0]
            cache.keep(kept)
            rows, ids, running = rows[kept], ids[kept], running[kept]
            if walk is not None:
                walk.keep(kept.cpu().numpy())
        tokens = ids[:, None]
        if walk is not None and (walk.axes or walk.restricts):
            told = walk.push(ids.cpu().numpy().astype(np.uint8))
            coordinates = as_tensors({axis: known[:, None] for axis, known in told.items()}, device)


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
        piece = min(piece, 2 * reach)  # from a short piece most of a long text is out of reach
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
