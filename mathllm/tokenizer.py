"""The sixteen tokens that every task, format, model and checkpoint of mathllm shares.

    >>> ids = encode("8+9=17")
    >>> decode(ids)
    '8+9=17'

White space is ignored. There are no tokens for `*`, `/` and `%`: each is two of the others (see OPERATORS), as
multiplication is repeated addition and division repeated subtraction. A number below zero stands at the front or behind
`*` alone, and there is no unary plus, so two operators in a row can be nothing else. Many rows become text as whole
arrays: no Python loop runs over them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm.errors import DataError, ExpressionError

TOKENS = (*"0123456789+-=", "<think>", "</think>", "<end>")
VOCAB_SIZE = len(TOKENS)
PLUS, MINUS, EQUALS, THINK, END_THINK, END = range(10, 16)

# what people type, and the tokens it is; an operator's code is its place here, counted from 1 (0: no operator)
OPERATORS = {"+": (PLUS,), "-": (MINUS,), "*": (PLUS, PLUS), "/": (MINUS, MINUS), "%": (MINUS, PLUS)}
ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER = range(1, len(OPERATORS) + 1)
SYMBOLS = ("", *OPERATORS)  # by code

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
# the symbols of two tokens, and the bytes of these
_PAIRS = {
    symbol.encode(): b"".join(_PIECES[i] for i in ids) for symbol, ids in OPERATORS.items() if len(ids) == 2
}
_STRUCK = re.compile(rb"=--+")


def _lookup(text: str) -> Ids:
    """One id per token, SPACE, NEWLINE or INVALID byte of `text`."""
    raw = text.encode("utf-8", "surrogatepass")
    # `</think>` before the `/` in it
    for token_id, marker in _MARKERS.items():
        raw = raw.replace(TOKENS[token_id].encode(), marker)
    for symbol, pair in _PAIRS.items():
        raw = raw.replace(symbol, pair)
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


def unflatten(flat: Ids, lengths: NDArray[np.int64]) -> Ids:
    """Rows of the given lengths, laid one after the other in `flat`, as one array padded with `<end>`."""
    width = int(lengths.max(initial=0))
    ids = np.full((len(lengths), width), END, np.uint8)
    ids[np.arange(width) < lengths[:, None]] = flat
    return ids


def decode(ids: Sequence[int] | NDArray[Any]) -> str:
    """The text of one row of ids, without any space."""
    return decode_rows(np.asarray(ids)[None])[0]


def decode_rows(
    ids: NDArray[Any], lengths: NDArray[Any] | None = None, spaces: NDArray[np.bool_] | None = None
) -> list[str]:
    """The texts of ids [N, T], each up to its length (default: all of it), with a space before the tokens where
    `spaces` [N, T] says so."""
    if len(ids) == 0:
        return []
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < VOCAB_SIZE:
        raise DataError(f"ids go from 0 to {VOCAB_SIZE - 1}, not from {ids.min()} to {ids.max()}")
    return join_pieces(lines(ids, lengths, spaces), _PIECES).decode().split("\n")[:-1]


def lines(
    ids: NDArray[Any], lengths: NDArray[Any] | None = None, spaces: NDArray[np.bool_] | None = None
) -> Ids:
    """All rows as one flat array, with SPACE ids before the tokens where `spaces` [N, T] says so, and NEWLINE after
    each row."""
    rows, width = ids.shape
    framed = np.full((rows, width + 1), NEWLINE, np.uint8)
    framed[:, :width] = ids
    inside = np.ones(framed.shape, np.bool_)
    if lengths is not None:
        framed[np.arange(rows), lengths] = NEWLINE
        inside = np.arange(width + 1) <= np.asarray(lengths)[:, None]
    flat = framed[inside]
    if spaces is None:
        return flat
    before = np.zeros(framed.shape, np.bool_)
    before[:, :width] = spaces
    return np.insert(flat, np.flatnonzero(before[inside] & (flat != NEWLINE)), SPACE)


def join_pieces(flat: NDArray[Any], pieces: Sequence[bytes]) -> bytes:
    """The concatenation of `pieces[i]` for i in `flat` (uint8), with the symbols of two tokens; the pieces are
    ASCII."""
    # one byte for each piece, then every byte that stands for a longer piece becomes that piece
    table = bytes(piece[0] if len(piece) == 1 else 128 + i for i, piece in enumerate(pieces)).ljust(256)
    text = flat.astype(np.uint8).tobytes().translate(table)
    for i, piece in enumerate(pieces):
        if len(piece) != 1:
            text = text.replace(bytes([128 + i]), piece)
    # looking for pairs among so many single signs is slow, and most texts have none
    signs = (flat == PLUS) | (flat == MINUS)
    if (signs[1:] & signs[:-1]).any():
        # no operator follows `=`: minus signs there are zeros that a format has struck out
        text = _STRUCK.sub(lambda found: found[0].replace(b"-", b"\xff"), text)
        for symbol, pair in _PAIRS.items():
            text = text.replace(pair, symbol)
        text = text.replace(b"\xff", b"-")
    return text


def token_at(text: str, position: int) -> str:
    """The token, or operator, with which `text` goes on at a position; empty where there is none."""
    return next((token for token in (*TOKENS, *OPERATORS) if text.startswith(token, position)), "")


def _first_error(text: str) -> ExpressionError:
    """Where and why `text` cannot be encoded."""
    position = 0
    while token_at(text, position) or text[position] in " \t\r\v\f\n":
        position += len(token_at(text, position)) or 1
    return ExpressionError(
        f"character {text[position]!r} at position {position + 1} is not one of the tokens",
        text,
        position,
        "use digits, + - * / % and =",
    )


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
                *(
                    {"type": "Replace", "pattern": {"String": symbol.decode()}, "content": pair.decode()}
                    for symbol, pair in _PAIRS.items()
                ),
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
