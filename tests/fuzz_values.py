"""Values and damage for the fuzzer: strategies of odd numbers and texts, and of JSON, TOML, tensors and bytes that are
valid but for a few places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from mathllm import registry

# what an input lies in: bytes, or the name of what is no plain file, with its size or target; None is no file at all
Content = bytes | tuple[str, Any]

HUGE = ["100", "65536", "1000000", "1000000000", str(2**31), str(2**63), str(2**64), "9" * 400, "9" * 5000]
ODD = [
    "",
    " ",
    "0",
    "-0",
    "-1",
    "2",
    "3",
    "0.5",
    "1e3",
    "1e309",
    "-1e309",
    "nan",
    "inf",
    "1e-400",
    "0x10",
    "1_0",
    "١",
]
WORDS = [
    "true",
    "no",
    "-",
    "--",
    "-x",
    "--help",
    "None",
    "[]",
    "{}",
    "a.b=c",
    "../x",
    "a/b/c",
    "x\ny",
    "%s%n",
]
WORDS += ["\x1b[31mred\x07", "\u202e12", "é", "数", "\udcff\udc80", "a" * 300, "addition," * 3000, "1+" * 99]
CHOICES = [*registry.TASKS, *registry.FORMATS, *registry.POSITIONS, *registry.SAMPLINGS, *registry.OBJECTIVES]
CHOICES += ["nano", "small", "large", "adamw", "muon", "fp32", "bf16", "swiglu", "rope+coupled"]

numbers = st.sampled_from(ODD + HUGE) | st.integers(-100, 100).map(str) | st.floats().map(str)
texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
choices = st.sampled_from(CHOICES)


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes with a few of them changed, taken out, put in, or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 1, 8, 100, len(content)])))
        times = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 1000]))
        odd = st.sampled_from([b"\0", b"\xff\xfe", b'"', b"{", b"[", b"\n", b"\r", b"-", b"9", b"\x1b[31m"])
        added = draw(st.binary(max_size=4) | odd)
        content = content[:start] + (content[start:end] * times)[:1_000_000] + added + content[end:]
    return content


# in place of a file
no_plain_file = st.sampled_from(
    [None, ("directory", 0), ("pipe", 0), ("link", "loop"), ("link", "/dev/null"), ("link", "/dev/zero")]
)
bombs = st.sampled_from([("sparse", 10**9), ("sparse", 2 * 10**11), b"[" * 100_000, b"\0" * 10_000])

# of JSON and TOML: what json.dumps would not write is put in by name
RAW = {"@deep@": "[" * 50_000 + "]" * 50_000, "@number@": "9" * 5000, "@huge@": "1e999"}
RAW["@objects@"] = '{"a":' * 50_000
NUMBERS = [0, -1, 1, 2, 3, 7, 1 << 16, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308]
NUMBERS += [float("nan"), float("inf")]
OTHERS = [None, True, False, "", "1", "x", [], [1, 2], {}, {"a": {"b": []}}, ["a"] * 1000, "é\udcff", *RAW]
OTHERS += ["\x1b[31mred\x07", "a" * 100_000, "addition," * 20_000, "1" * 4000]
values = st.sampled_from(NUMBERS + OTHERS) | choices | texts | st.integers() | st.floats()


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a tree, of a list the first: what holds them, and their keys there."""
    keys = [*tree] if isinstance(tree, dict) else [0] if isinstance(tree, list) and tree else []
    for key in keys:
        yield tree, key
        yield from places(tree[key])


@st.composite
def damaged_tree(draw: Any, text: bytes) -> Any:
    """What JSON says, with a few values replaced, left out or added."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        there = [*places(tree)]
        if not there:
            break
        place, key = there[draw(st.integers(0, len(there) - 1))]
        how = draw(st.integers(0, 9))
        if how == 0:
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place[draw(texts)] = place[key]
        elif how < 6 and isinstance(place[key], (int, float)):
            place[key] = draw(st.sampled_from(NUMBERS))
        else:
            place[key] = draw(values)
    return tree


def as_json(tree: Any) -> bytes:
    text = json.dumps(tree)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def damaged_json(text: bytes) -> st.SearchStrategy[Content | None]:
    trees = damaged_tree(text.splitlines()[0] if text.startswith(b'{"') else text).map(as_json)
    return st.one_of(trees, trees, trees, trees, damaged(text), no_plain_file | bombs, values.map(as_json))


@st.composite
def damaged_tensors(draw: Any, content: bytes) -> bytes:
    """A safetensors file with another header, or other bytes, or cut off."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    how = draw(st.integers(0, 5))
    if how == 0:
        return content[: draw(st.integers(0, len(content)))]
    if how == 1:
        return draw(damaged(content))
    if how == 2:
        body = draw(damaged(body))
    elif how == 3:
        body = b"\xff" * len(body)  # not numbers
    else:
        header = as_json(draw(damaged_tree(header)))
    length = draw(st.sampled_from([len(header)] * 6 + [0, 2**31, 2**63, 2**64 - 1, len(header) - 1]))
    return length.to_bytes(8, "little") + header + body


def as_toml(value: Any) -> str:
    """A value as TOML writes it, as far as it can."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return RAW.get(value, json.dumps(value)) if isinstance(value, str) else str(value).lower()


@st.composite
def damaged_toml(draw: Any, text: str, names: list[str]) -> bytes:
    """A TOML file with another value in some lines, and with lines more or less; `names` are of other settings."""
    lines = text.splitlines()
    odd = st.sampled_from(["1979-05-27", "0xff", "[[1]]", "'", "{a = 1}"])
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        key = lines[number].partition(" = ")[0]
        line = f"{draw(st.sampled_from([key] * 5 + names))} = {draw(odd | values.map(as_toml))}"
        lines[number] = draw(st.sampled_from([line] * 5 + ["", key, f"{lines[number]}\n{line}"]))
    return "\n".join(lines).encode(errors="surrogatepass")
