"""The sixteen tokens that every task, format, model and checkpoint of mathllm shares.

    >>> ids = encode("8+9=17")
    >>> decode(ids)
    '8+9=17'

White space is ignored on the way in and put back for people on the way out (`8+9=17 5+8+1=14`), and `*` is two tokens,
`+` and `+`: multiplication is repeated addition. Both ways work on whole arrays at once, so that files of millions of
rows need no Python loop over rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import DataError, ExpressionError

TOKENS = (*"0123456789+-=", "<think>", "</think>", "<end>")
VOCAB_SIZE = len(TOKENS)
PLUS, MINUS, EQUALS, THINK, END_THINK, END = range(10, 16)
TIMES = "*"  # how people write two tokens, PLUS PLUS

Ids = NDArray[np.uint8]

# pseudo tokens of the byte level, never seen by a model: what separates tokens and rows in a text
SPACE, NEWLINE, INVALID = 16, 17, 255
_PIECES = tuple(token.encode() for token in (*TOKENS, " ", "\n"))

# multi-character tokens become one byte each (bytes that no UTF-8 text contains) before the table look-up
_MARKERS = {THINK: b"\xf5", END_THINK: b"\xf6", END: b"\xf7"}
_TABLE = np.full(256, INVALID, np.uint8)
for _id, _token in enumerate(TOKENS):
    _TABLE[ord(_token) if len(_token) == 1 else _MARKERS[_id][0]] = _id
for _blank in b" \t\r\v\f":
    _TABLE[_blank] = SPACE
_TABLE[ord("\n")] = NEWLINE


def _lookup(text: str) -> Ids:
    """One id per token, SPACE, NEWLINE or INVALID byte of `text`."""
    raw = text.encode("utf-8", "surrogatepass").replace(TIMES.encode(), b"++")
    for token_id, marker in _MARKERS.items():
        raw = raw.replace(TOKENS[token_id].encode(), marker)
    found: Ids = _TABLE[np.frombuffer(raw, np.uint8)]
    return found


def encode(text: str) -> Ids:
    """Token ids (uint8 [T]) of `text`; white space is skipped.

    Raises ExpressionError with the position of the first character that starts no token.
    """
    ids = _lookup(text)
    if (ids == INVALID).any():
        raise _first_error(text)
    return ids[ids < VOCAB_SIZE]


def encode_rows(texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
    """Token ids [N, T] (padded with `<end>`) and lengths [N] of many texts at once.

    Raises DataError naming the (1-based) row of the first text that cannot be encoded.
    """
    ids = _lookup("\n".join(texts))
    newline = ids == NEWLINE
    if (ids == INVALID).any() or int(newline.sum()) != max(len(texts) - 1, 0):
        raise _first_row_error(texts)
    row = np.cumsum(newline)
    keep = ids < VOCAB_SIZE
    lengths = np.bincount(row[keep], minlength=len(texts)).astype(np.int64)
    return unflatten(ids[keep], lengths), lengths


def unflatten(flat: Ids, lengths: NDArray[np.int64]) -> Ids:
    """Rows of the given lengths, laid one after the other in `flat`, as one array padded with `<end>`."""
    width = int(lengths.max(initial=0))
    ids = np.full((len(lengths), width), END, np.uint8)
    ids[np.arange(width) < lengths[:, None]] = flat
    return ids


def decode(ids: Sequence[int] | NDArray[Any]) -> str:
    """The text of one row of ids, with a space between the steps of a thought."""
    return decode_rows(np.asarray(ids)[None])[0]


def decode_rows(ids: NDArray[Any], lengths: NDArray[Any] | None = None) -> list[str]:
    """The texts of ids [N, T], each up to its length (default: all of it)."""
    if len(ids) == 0:
        return []
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < VOCAB_SIZE:
        raise DataError(f"ids go from 0 to {VOCAB_SIZE - 1}, not from {ids.min()} to {ids.max()}")
    return join_pieces(spaced(ids, lengths), _PIECES).decode().split("\n")[:-1]


def spaced(ids: NDArray[Any], lengths: NDArray[Any] | None = None) -> Ids:
    """All rows as one flat array, with SPACE ids between steps and NEWLINE after each row.

    A run of digits between `=` and the next operator ends one digit before the run does: a column step starts
    with a one-digit operand, so the last digit of the run belongs to the next step.
    """
    rows, width = ids.shape
    framed = np.full((rows, width + 1), NEWLINE, np.uint8)
    framed[:, :width] = ids
    if lengths is None:
        flat = framed.ravel()
    else:
        framed[np.arange(rows), lengths] = NEWLINE
        flat = framed[np.arange(width + 1) <= np.asarray(lengths)[:, None]]
    # sentinels on both sides, so that every token has two tokens before it and one after it
    around = np.concatenate([[NEWLINE, NEWLINE], flat, [NEWLINE]]).astype(np.uint8)
    here, before, after = around[2:-1], around[1:-2], around[3:]
    digit = here < 10
    place = np.arange(len(flat))
    run_start = np.maximum.accumulate(np.where(digit & (before >= 10), place, 0))
    opener, opener_before = around[run_start + 1], around[run_start]
    result = (opener == EQUALS) | ((opener == MINUS) & (opener_before == EQUALS))
    operator = (after == PLUS) | (after == MINUS)
    return np.insert(flat, np.flatnonzero(digit & operator & result & (place > run_start)), SPACE)


def join_pieces(flat: NDArray[Any], pieces: Sequence[bytes]) -> bytes:
    """The concatenation of `pieces[i]` for i in `flat` (uint8), `*` for `++`; the pieces are ASCII."""
    # one byte for each piece, then every byte that stands for a longer piece becomes that piece
    table = bytes(piece[0] if len(piece) == 1 else 128 + i for i, piece in enumerate(pieces)).ljust(256)
    text = flat.astype(np.uint8).tobytes().translate(table)
    for i, piece in enumerate(pieces):
        if len(piece) != 1:
            text = text.replace(bytes([128 + i]), piece)
    return text.replace(b"++", TIMES.encode())


def _first_error(text: str) -> ExpressionError:
    """Where and why `text` cannot be encoded."""
    position = 0
    while position < len(text):
        token = next((t for t in (*TOKENS, TIMES) if text.startswith(t, position)), None)
        if token is None and text[position] not in " \t\r\v\f\n":
            break
        position += len(token) if token else 1
    return ExpressionError(
        f"character {text[position]!r} at position {position + 1} is not one of the tokens",
        text,
        position,
        "use digits, + - * and =",
    )


def _first_row_error(texts: Sequence[str]) -> DataError:
    """Which of the texts cannot be encoded, and why."""
    for row, text in enumerate(texts):
        if (_lookup(text) == INVALID).any():
            return _first_error(text).in_row(row)
        if "\n" in text:
            return DataError(f"row {row + 1}: a line break inside one text")
    raise AssertionError("every text can be encoded")


def tokenizer_json() -> str:
    """A `tokenizer.json` that the Hugging Face `tokenizers` library loads to the same ids."""
    added = [
        {
            "id": token_id,
            "content": TOKENS[token_id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
        for token_id in (THINK, END_THINK, END)
    ]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"Regex": r"[ \t\r\n\x0B\f]+"}, "content": ""},
                {"type": "Replace", "pattern": {"String": TIMES}, "content": "++"},
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(TOKENS)}, "unk_token": "<unk>"},
    }
    return json.dumps(spec, indent=1)
