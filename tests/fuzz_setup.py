"""What lies about when the fuzzer calls a command: a dataset, runs, files, and those of the input laid over them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz_values import Content

SMALL = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32}
SHAPE = [word for name, value in SMALL.items() for word in ("--set", f"model.{name}={value}")]
TRAIN = ["--max-steps", "1", "--batch-size", "4", "--no-wandb", *SHAPE, "--set", "train.eval_examples=10"]
RATIOS = ["--set", "data.train_ratio=0.9", "--set", "data.val_ratio=0.05"]
RUN, THINKER = "checkpoints/run", "checkpoints/thinker"
# what is there whenever a command is called: a dataset, a run that was trained on it, one that thinks, and files
SETUP = (
    ["gen-data", "--task", "addition,subtraction", "--max-digits", "1", "--num-examples", "90"],
    ["train", *TRAIN, "--max-steps", "2", "--set", "train.save_steps=1", "--output-dir", RUN],
    ["train", *TRAIN, "--recipe", "chain-thoughts", "--max-digits", "3", *RATIOS, "--output-dir", THINKER],
)
# loads and builds what the others need
THINK = ["thoughts", "--checkpoint", THINKER, "--steps", "1", "--examples", "100"]
LOADED = (["train", "--nothing"], ["--help"], ["solve", "1+"], ["study", "study.toml", "--seeds", "x"])
LOADED += (["train", *TRAIN, "--compile", "--output-dir", "compiled"],)
LOADED += tuple([*THINK, "--plot", f"picture.{kind}"] for kind in ("png", "svg", "pdf"))
RECIPE = f"""[model]
size = "nano"
position = "coupled+rope"
{chr(10).join(f"{name} = {value}" for name, value in SMALL.items())}
[data]
max_digits = 1
train_ratio = 0.7
[train]
max_steps = 1
batch_size = 4
eval_examples = 5
"""
STUDY = """recipe = "recipe.toml"
seeds = 1
digits = [1]
examples = 2
settings = ["train.max_steps=1"]
[variants]
rope = ["model.position=rope"]
none = ["model.position=nope", "data.format=plain"]
"""
SUMS = "1+2=3\n5-3=2\n\n7 + 8 = 15\n"
FILES = {
    "recipe.toml": RECIPE,
    "study.toml": STUDY,
    "sums.txt": SUMS,
    "sums.csv": "id,equation\n1,1+2=3\n2,7+8=15\n",
    "sums.jsonl": '{"expression": "1+2", "answer": "3"}\n{"expression": "7+8", "answer": 15}\n',
}


@dataclass(frozen=True)
class Case:
    """A command line, what it reads from stdin, and files that are laid over those of the setup."""

    kind: str
    argv: list[str]
    stdin: bytes = b""
    files: dict[str, Content | None] = field(default_factory=dict)


def prepare(case: Case, there: Path, folder: Path) -> None:
    """A directory like the setup's with the files of the input laid over it."""
    shutil.copytree(there, folder, symlinks=True)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()
    for name, content in case.files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        place(path, content)


def place(path: Path, content: Content | None) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        what, value = content
        if what == "directory":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "link":
            path.symlink_to(value)
        else:
            with path.open("wb") as file:
                file.truncate(value)  # has that size, and takes no room
