"""What the fuzzer types, and what lies about when it does: about half of it is valid but for small damage.

What is valid here takes milliseconds. Values may be of any size where they should be refused or bounded, but not where
much work is an honest wish: a million rows of data, or a million steps.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import typer.main
from hypothesis import strategies as st

from mathllm import registry
from mathllm.cli.main import app
from mathllm.config import Config
from tests.fuzz_setup import RECIPE, RUN, STUDY, SUMS, THINK, THINKER, TRAIN, Case
from tests.fuzz_values import (
    HUGE,
    Content,
    as_json,
    bombs,
    choices,
    damaged,
    damaged_json,
    damaged_tensors,
    damaged_toml,
    no_plain_file,
    numbers,
    texts,
    values,
)


def few(strategy: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=1, max_size=most)


# arguments

PATHS = [
    "",
    ".",
    "/",
    "data",
    "nowhere",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "loop",
    "file",
    "a" * 5000,
]
PATHS += ["data/train.jsonl", "sums.txt", RUN, f"{RUN}/best/config.json", "nowhere/file", "file/file"]
typed = (numbers | texts | choices | st.sampled_from(PATHS)).map(lambda text: text.replace("\0", "?"))
# what is done that often is honest work, however long it takes
LONG = {
    "--num-examples",
    "--max-steps",
    "--steps",
    "--num-epochs",
    "--grad-accumulation",
    "--repeats",
    "--limit",
}
LONG |= {"--exhaustive", "--seeds", "train.max_steps", "train.grad_accumulation", "train.num_epochs"}
MOST = 20
VALID = {
    "--checkpoint": [RUN, THINKER, f"{RUN}/best", f"{RUN}/checkpoint-1/model.safetensors", "addsub-3digit"],
    "--init": [RUN, THINKER],
    "--data-dir": ["data"],
    "--data-path": ["sums.txt", "sums.csv", "sums.jsonl", "data/test.jsonl"],
    "--from": ["sums.txt", "sums.csv", "sums.jsonl"],
    "--output-dir": ["out", RUN, "checkpoints/deep/er"],
    "--output-file": ["result.json"],
    "--samples": ["samples.jsonl"],
    "--plot": ["picture.svg", "picture.png"],
    "--recipe": ["recipe.toml", "demo"],
    "--device": ["cpu", "auto"],
    "--digits": ["1", "1,2", "2x1"],
    "--grid": ["2", "2x1"],
    "--task": [*registry.TASKS, "subtraction,addition", "division,remainder", "addition,arithmetic"],
    "--format": [*registry.FORMATS],
    "--position": [*registry.POSITIONS, "coupled+rope"],
    "--sampling": [*registry.SAMPLINGS],
    "--objective": [*registry.OBJECTIVES],
    "--schedule": ["cosine", "constant"],
    "--model-size": ["nano"],
    "--examples": ["100"],
    "--only": ["nothing"],
    "--seeds": ["0", "0,1"],
}
BASE = {
    "demo": ["--output-dir", "out", "--steps", "1", "--limit", "1"],
    "gen-data": ["--output-dir", "out", "--num-examples", "30", "--max-digits", "1"],
    "train": ["--output-dir", "out", *TRAIN],
    "eval": ["--checkpoint", RUN],
    "chat": [],
    "solve": ["1+2"],
    "study": ["study.toml"],
    "thoughts": THINK[1:],
    "bench": ["--only", "nothing"],
    "doctor": [],
}
# evaluation asks one question at a time
MODES = [[], ["--data-dir", "data"], ["--digits", "1", "--max-examples", "3"], ["--exhaustive", "2"]]
MODES += [["--grid", "1", "--per-cell", "2"], ["--data-path", "sums.csv"]]


@cache
def settings() -> dict[str, list[str]]:
    """Every section.key that --set takes, with values that are right."""
    found = {
        f"{section}.{key}": value for section, own in Config().to_dict().items() for key, value in own.items()
    }
    for section, load, names in (
        ("model", registry.position_class, registry.POSITIONS),
        ("objective", registry.objective_class, registry.OBJECTIVES),
    ):
        for one in map(load, names):
            found |= {f"{section}.{key}": value for key, value in vars(one.Settings()).items()}
    named = {
        "model.position": registry.POSITIONS,
        "data.task": registry.TASKS,
        "data.format": registry.FORMATS,
    }
    named |= {"data.sampling": registry.SAMPLINGS, "objective.name": registry.OBJECTIVES}
    return {name: [str(value), *named.get(name, ["1", "2"])] for name, value in found.items()}


def kept_short(name: str, value: str) -> str:
    """The value, unless it asks for long and honest work."""
    try:
        much = name in LONG and any(int(part) > MOST for part in value.split(","))
    except ValueError:
        return value
    return (
        str(MOST) if much or (name.endswith(("max_steps", "max-steps")) and not value.strip("-0 ")) else value
    )


def mostly(right: list[str]) -> st.SearchStrategy[str]:
    """Values that are right, that are numbers at least, and others."""
    known = st.sampled_from(right)
    return st.one_of(known, known, known, st.sampled_from(HUGE) | st.integers(-2, 64).map(str), typed)


some_setting = st.sampled_from(sorted(settings())).flatmap(
    lambda name: mostly(settings()[name]).map(lambda value: f"{name}={kept_short(name, value)}")
)


@cache
def options(command: str) -> st.SearchStrategy[list[str]]:
    """An option of a command, as words: half of them with a value that is right."""
    made = []
    for one in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if one.param_type_name != "option":
            continue
        name = max(one.opts, key=len)
        if one.is_flag:
            made.append(st.sampled_from([[flag] for flag in (*one.opts, *one.secondary_opts)]))
            continue
        if name == "--set":
            made += [some_setting.map(lambda value, name=name: [name, value])] * 12
            continue
        made.append(
            mostly(VALID.get(name, ["1", "2", "0.5"])).map(
                lambda value, name=name: [name, kept_short(name, value)]
            )
        )
    return st.one_of(made)


@st.composite
def arguments(draw: Any) -> Case:
    command = draw(st.sampled_from([*BASE, "train", "train", "train", "eval", "eval", "gen-data"]))
    words = [command, *BASE[command], *(draw(st.sampled_from(MODES)) if command == "eval" else [])]
    for added in draw(st.lists(options(command), max_size=3)):
        words += added
    if draw(st.integers(0, 9)) == 0:  # something else, anywhere
        words.insert(draw(st.integers(0, len(words))), draw(typed | st.sampled_from([*BASE])))
    return Case("arguments", words, draw(lines | st.just(b"")))


# expressions

SIGNS = [
    "+",
    "-",
    "*",
    "=",
    " ",
    ".",
    "(",
    ")",
    "−",
    "×",
    "２",
    "%",
    "/",
    "1",
    "0",
    "\t",
    "e",
    "\x00",
    "\ufeff",
    "<end>",
]
sums = st.tuples(st.integers(0, 99), st.sampled_from("++-*/%"), st.integers(0, 99)).map(
    lambda sum: "{}{}{}".format(*sum)
)
repeated = st.tuples(
    st.sampled_from(["1", "9", "1+", "1-1+", "(", "-", "1+2=3 ", "\x1b[2J", " ", "é", "1*", "9/9%"]),
    st.sampled_from([10, 100, 4000, 4001, 50_000, 1_000_000]),
    st.sampled_from(["", "1", "+1", "=2"]),
).map(lambda parts: parts[0] * parts[1] + parts[2])
COMMANDS = [
    "/help",
    "/temperature",
    "/temperature 0.5",
    "/tokens",
    "/tokens on",
    "/checkpoint",
    f"/checkpoint {RUN}",
]
COMMANDS += ["/temp", "/quit", "/exit", "quit now", "/nothing", "/", "//", "/tokens nan", "/temperature nan"]


@st.composite
def damaged_text(draw: Any, text: str) -> str:
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.sampled_from(SIGNS)) + text[start + draw(st.integers(0, 2)) :]
    return text


expression = sums | sums.flatmap(damaged_text) | texts | numbers | repeated
chat_line = expression | st.sampled_from(COMMANDS) | st.tuples(st.sampled_from(COMMANDS), typed).map(" ".join)


def joined(texts: list[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode(errors="surrogateescape")


lines = few(expression, 5).map(joined)


@st.composite
def expressions(draw: Any) -> Case:
    model = ["--checkpoint", draw(st.sampled_from([RUN, RUN, THINKER]))]
    stdin = draw(few(chat_line, 5).map(joined))
    if draw(st.booleans()):
        stdin = b"\n".join(draw(damaged(stdin)).split(b"\n")[:100])  # every line is a piece of work
    command = draw(st.sampled_from(["chat", "solve", "ask"]))
    if command == "chat":
        return Case("expressions", ["chat", *model], stdin)
    flags = [*model, *draw(st.sampled_from([[], ["--json"]]))]
    if command == "solve":
        return Case("expressions", ["solve", *flags], stdin)
    asked = [text.replace("\0", "?")[:100_000] for text in draw(few(expression))]
    return Case("expressions", ["solve", *flags, *draw(st.sampled_from([["--"], []])), *asked])


# files

# one row of another length among many, and files that are more than they seem
wide = st.tuples(
    st.sampled_from([b"", b"expression,equation\n", b"equation\n", b"\xef\xbb\xbf"]),
    st.sampled_from(
        [b"1+1=2\n", b"12+34=46\n", b"foo\n", b"1+1=3\n", b"\n", b'{"expression": "1+1", "answer": 2}\n']
    ),
    st.sampled_from([1, 100, 10_000, 10_000, 200_000]),
    st.sampled_from(
        [(b"1", b"+0=", b"1"), (b"1+", b"1=", b"1"), (b"0", b"1+1=", b""), (b"", b"1+1=2", b" ")]
    ),
    st.sampled_from([1, 100, 3999, 3999, 4001, 100_000, 3_000_000]),
).map(
    lambda row: (
        row[0] + row[1] * row[2] + row[3][0] * row[4] + row[3][1] + row[3][2] * row[4] + b"\n" + row[1]
    )
)
encoded = st.sampled_from([SUMS.encode(name) for name in ("utf-16", "utf-32", "utf-8-sig", "cp500")])
rows = few(expression | sums.map(lambda text: f"{text}={eval(text)}"), 6).map(joined)
JSON_ROW = [
    b'{"expression": %s, "answer": %s}\n',
    b'{"answer": %s, "expression": "1+1", "x": %s}\n',
    b"{%s: %s}\n",
]
json_row = st.tuples(st.sampled_from(JSON_ROW), values.map(as_json), values.map(as_json))
json_rows = few(json_row.map(lambda row: row[0] % row[1:])).map(b"".join)


def file_of(there: Path, name: str) -> st.SearchStrategy[Content | None]:
    """What may become of a file of the setup."""
    content = (there / name).read_bytes()
    if name.endswith(".safetensors"):
        return st.one_of(damaged_tensors(content), damaged_tensors(content), no_plain_file | bombs)
    if name.endswith(".json"):
        return damaged_json(content)
    # a pipe may well give problems, however late
    return damaged(content) | damaged(content) | no_plain_file.filter(lambda one: one != ("pipe", 0))


@st.composite
def changed(draw: Any, there: Path, names: list[str]) -> dict[str, Content | None]:
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return {name: draw(file_of(there, name)) for name in chosen}


@st.composite
def data_files(draw: Any, there: Path) -> Case:
    name = draw(st.sampled_from(["sums.txt", "sums.csv", "sums.jsonl", "data/test.jsonl"]))
    content = (there / name).read_bytes()
    made = [
        damaged(content),
        damaged(content),
        rows,
        json_rows,
        wide,
        encoded,
        st.binary(max_size=200),
        bombs,
    ]
    files = {name: draw(st.one_of(made))}
    if draw(st.booleans()):
        more = draw(st.sampled_from([[], ["--max-examples", "2"], ["--samples", "samples.jsonl"]]))
        return Case("data files", ["eval", "--checkpoint", RUN, "--data-path", name, *more], files=files)
    flags = draw(st.sampled_from([[], ["--format", "plain"], ["--zero-pad"], ["--format", "slots"]]))
    return Case("data files", ["gen-data", "--output-dir", "out", "--from", name, *flags], files=files)


LOADING = [["solve", "1+2"], ["chat"], ["doctor"], ["thoughts", "--steps", "1", "--examples", "100"]]
LOADING += [
    ["eval", "--exhaustive", "1"],
    ["eval", "--grid", "1", "--per-cell", "1"],
    ["eval", "--data-path", "sums.txt"],
]
LOADING += [["eval", "--digits", "1", "--max-examples", "2"], ["train", "--output-dir", "out", *TRAIN]]


@st.composite
def checkpoints(draw: Any, there: Path) -> Case:
    where = draw(st.sampled_from([f"{RUN}/checkpoint-2", f"{RUN}/checkpoint-2", f"{THINKER}/checkpoint-1"]))
    command = draw(st.sampled_from(LOADING))
    given = ["--init" if command[0] == "train" else "--checkpoint", where]
    files = draw(
        changed(there, [f"{where}/config.json", f"{where}/config.json", f"{where}/model.safetensors"])
    )
    stdin = b"1+2\n/checkpoint " + where.encode() + b"\n" if command == ["chat"] else b""
    return Case("checkpoints", [*command, *given], stdin, files)


@st.composite
def runs(draw: Any, there: Path) -> Case:
    last = f"{RUN}/checkpoint-2"
    names = [f"{RUN}/training_config.json", f"{RUN}/training_config.json", f"{RUN}/metrics.jsonl"]
    names += [f"{last}/training_state.json", f"{last}/training_state.safetensors", f"{last}/config.json"]
    names += [f"{last}/model.safetensors", f"{RUN}/test_results.json"]
    files = draw(changed(there, names))
    if draw(st.integers(0, 9)) == 0:
        files[f"{RUN}/best"] = draw(no_plain_file)
    more = draw(st.sampled_from([["--resume"]] * 6 + [["--overwrite", *TRAIN], TRAIN]))
    return Case("runs", ["train", "--output-dir", RUN, *more, "--no-wandb", "--max-steps", "3"], files=files)


READING = [["train", "--data-dir", "data", "--output-dir", "out", *TRAIN]] * 3
READING += [
    ["train", "--output-dir", "out", *TRAIN],
    ["train", "--output-dir", RUN, "--resume", "--max-steps", "3"],
]
READING += [
    ["eval", "--checkpoint", RUN, "--data-dir", "data"],
    ["eval"],
    ["doctor"],
    ["train", "--show-loss-mask"],
]
READING += [["gen-data", "--num-examples", "9", "--max-digits", "1", "--overwrite"]]


@st.composite
def datasets(draw: Any, there: Path) -> Case:
    names = [
        "data/metadata.json",
        "data/metadata.json",
        "data/train.jsonl",
        "data/val.jsonl",
        "data/test.jsonl",
    ]
    return Case("datasets", draw(st.sampled_from(READING)), files=draw(changed(there, names)))


@st.composite
def recipes(draw: Any, there: Path) -> Case:
    name, text = draw(st.sampled_from([("recipe.toml", RECIPE), ("study.toml", STUDY)]))
    lines = damaged_toml(text, [one.partition(".")[2] for one in sorted(settings())])
    files = {name: draw(st.one_of(lines, lines, damaged(text.encode()), no_plain_file | bombs))}
    little = ["--set", "train.eval_examples=10", "--set", "train.max_steps=1"]
    if name == "recipe.toml" and draw(st.booleans()):
        return Case(
            "recipes", ["train", "--recipe", name, "--output-dir", "out", "--no-wandb", *little], files=files
        )
    return Case("recipes", ["study", "study.toml", "--seeds", "0", *little], files=files)


def kinds(there: Path) -> dict[str, st.SearchStrategy[Case]]:
    """All kinds of inputs; `there` is where the setup has been made."""
    of_files = {"data files": data_files, "checkpoints": checkpoints, "runs": runs}
    of_files |= {"datasets": datasets, "recipes": recipes}
    made = {name: make(there) for name, make in of_files.items()}
    return {"arguments": arguments(), "expressions": expressions(), **made}
