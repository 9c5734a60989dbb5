"""Dataset directories: train.jsonl, val.jsonl, test.jsonl and metadata.json, which says how they were made.

A row keeps the problem as a person writes it beside its text in the dataset's format:

    {"expression": "658+189", "answer": "847", "text": "658+189=<think>8+9=17 ...</think>847<end>"}

The files are a function of the options alone. Problems are drawn, rendered and written some thousands at a
time, so the texts of a large dataset are never in memory together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mathllm import __version__
from mathllm.config import DataConfig, from_saved
from mathllm.data.importing import read_problems
from mathllm.data.sources import format_of, ratios, sampling
from mathllm.errors import DataError, UsageError, check_at_least
from mathllm.files import read_json, sync
from mathllm.formats import Format
from mathllm.limits import MAX_EXAMPLES, MAX_LENGTH, check_range
from mathllm.locks import check_place, locked
from mathllm.tasks import (
    TASKS,
    Problems,
    Sampling,
    Task,
    answer,
    by_task,
    get_tasks,
    operands_asked,
    readable_beside,
    sample,
    sizes,
    trimmed,
)
from mathllm.tasks.slots import ABSENT, compact, constant, expression_slots, signed_slots, stack
from mathllm.tasks.splits import SPLITS, Dealer, Parts, SplitRatios, hash_problems
from mathllm.tokenizer import SPACE, TOKENS, join_pieces, lines

__all__ = [
    "FILES",
    "METADATA",
    "fingerprint",
    "generate_dataset",
    "import_dataset",
    "places_of",
    "read_metadata",
    "read_problems",
]

FILES = tuple(f"{split}.jsonl" for split in SPLITS)
METADATA = "metadata.json"

Progress = Callable[[int, int], None]  # rows written, rows wanted

_CHUNK_ROWS, _CHUNK_DIGITS, _CHUNK_TOKENS = 1 << 15, 1 << 19, 1 << 21
# when to give up looking for more different problems: when fewer than the second of as many as the first are new
_LOOKED_AT, _WORTHWHILE = 1 << 17, 1 << 7

_UNFINISHED = ".unfinished-"  # what the directory is called in which files become whole

_TOO_FEW = "there are too few different problems of this kind"

# the punctuation of a row, as more tokens: 16 and 17 are the tokenizer's space and line break
_OPEN, _ANSWER, _TEXT = 18, 19, 20
_PUNCTUATION = (" ", '"}\n', '{"expression": "', '", "answer": "', '", "text": "')
_PIECES = tuple(piece.encode() for piece in (*TOKENS, *_PUNCTUATION))


def generate_dataset(
    data: DataConfig,
    num_examples: int,
    seed: int,
    output_dir: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws problems, divides them into the splits and writes the files. Returns the metadata.

    Train has its share of `num_examples` as the sampling gives them, repetitions included; val and test hold
    different problems. Where there are not enough of them, files stay shorter and the metadata's `notes` say
    so. A longer dataset of the same options begins with the shorter one.

    Raises UsageError for values that cannot be used and for a directory that already holds a dataset.
    """
    tasks, how, shares = get_tasks(data.task), sampling(data), ratios(data)
    check_range("the number of examples", num_examples, 1, MAX_EXAMPLES)
    check_at_least("the seed", seed, 0)
    format = format_of(data)
    for task in tasks:
        if task.misfits(task.extreme(how)).any():
            raise UsageError(f"these would be too large to be read again: {task.rule}", "use fewer digits")
    if (longest := format.longest(tasks, how)) > MAX_LENGTH:
        raise UsageError(
            f"texts of up to {longest:,} tokens are too long for a line of a file", "use fewer digits"
        )
    data = replace(data, task=",".join(task.name for task in tasks), format=format.name)
    wanted = _wanted(num_examples, shares)
    parts = _drawn(tasks, how, seed, Dealer(shares, wanted))
    with _replacing(output_dir, overwrite) as folder:
        counts = _write_rows(folder, format, parts, num_examples, progress)
        notes = [
            f"{name} has {made['rows']:,} instead of {asked:,} rows: {_TOO_FEW}"
            for name, made, asked in zip(FILES, counts, wanted, strict=True)
            if made["rows"] < asked
        ]
        notes += [f"{name} is empty" for name, asked in zip(FILES, wanted, strict=True) if not asked]
        options = {"num_examples": num_examples, "seed": seed, **_options(data)}
        return _write_metadata(folder, data, counts, options, {"seed": seed, "notes": notes})


def import_dataset(
    source: Path,
    data: DataConfig,
    output_dir: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    *,
    reversed_digits: bool = False,
) -> dict[str, Any]:
    """Writes the files from a third party's equations (see `read_problems`). Returns the metadata.

    Of `data` only format (empty: the first that reasons about the tasks in the file), zero-padding and ratios count:
    tasks, digits and operands are what the file has. Rows keep its order; a problem that is repeated stays so in
    train, and val and test take it once.

    Raises DataError naming file and line of each row that is refused, and what `generate_dataset` raises.
    """
    shares = ratios(data)
    _check_free(output_dir, overwrite)
    # of tasks whose texts mean the same, so that none is read as something else than it was meant
    known = [task for task in TASKS if not data.format or format_of(data).knows_task(task)]
    if not known:
        format = format_of(data)
        format.check_task(next(task for task in TASKS if task.name in format.thoughts))
    problems = read_problems(source, readable_beside(known[:1]), reversed_digits)
    if len(problems) == 0:
        raise DataError(
            f"there is no problem in {source}", "write one equation a line, for example 951+11=962"
        )
    data = replace(data, task=",".join(task.name for task, _ in by_task(problems)))
    format = format_of(data)
    data = replace(
        data,
        format=format.name,
        max_digits=int(sizes(problems).max()),
        second_digits=_second_digits(problems),
        expression_digits=0,
        expression_numbers=0,
        task_weights="",
        max_operands=int(operands_asked(problems).max()),
        signed=bool(problems.negative.any() or answer(problems).negative.any()),
    )
    with _replacing(output_dir, overwrite) as folder:
        dealer = Dealer(shares, [len(problems)] * len(SPLITS))
        counts = _write_rows(folder, format, _taken(problems, dealer), len(problems), progress)
        notes = [f"{name} is empty" for name, made in zip(FILES, counts, strict=True) if not made["rows"]]
        if dropped := len(problems) - sum(made["rows"] for made in counts):
            notes.append(f"{dropped:,} repeated rows were left out of val.jsonl and test.jsonl")
        kept = ("format", "zero_pad", "thought_length", "train_ratio", "val_ratio")
        options = {"from": source.name, "reversed_digits": reversed_digits}
        options |= {name: _options(data)[name] for name in kept}
        return _write_metadata(folder, data, counts, options, {"from": source.name, "notes": notes})


def places_of(name: str, owner: Path) -> list[Path]:
    """Where the dataset directory may be that a run, or a checkpoint, at `owner` calls by a name: seen from here, else
    from one of the directories above the owner, since a run and its data are often moved or visited together. Others
    of that name may lie there as well: `fingerprint` tells."""
    places: dict[Path, Path] = {}
    for home in (Path(), *owner.absolute().parents[:-1]):
        places.setdefault((home / name).absolute(), home / name)
    return list(places.values())


def fingerprint(*hashes: NDArray[np.uint64]) -> str:
    """What stands for the problems of files, given by their hashes (see `hash_problems`): of those that are trained
    and validated on it is saved with a run."""
    return hashlib.blake2b(b"".join(part.tobytes() for part in hashes), digest_size=16).hexdigest()


def read_metadata(data_dir: Path) -> dict[str, Any]:
    """What metadata.json says; its `data` are fields of a DataConfig.

    Raises DataError where there is no dataset, and for a file that is damaged or from another version.
    """
    path = data_dir / METADATA
    make = "make one: mathllm gen-data"
    if data_dir != Path("data"):
        make += f" --output-dir {shlex.quote(str(data_dir))}"
    if not data_dir.is_dir():
        raise DataError(f"there is no directory {data_dir}", make)
    if not path.is_file():
        raise DataError(f"{data_dir} holds no dataset: it has no {METADATA}", make)
    try:
        metadata = read_json(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", f"{make} --overwrite") from error
    required = ("data", "counts")
    missing = [key for key in required if not isinstance(metadata, dict) or key not in metadata]
    if missing or not isinstance(metadata["data"], dict) or not isinstance(metadata["counts"], dict):
        lacking = ", ".join(map(repr, missing or required))
        raise DataError(f"{path} does not describe a dataset: it lacks {lacking}", f"{make} --overwrite")
    unknown = sorted(set(metadata["data"]) - {f.name for f in fields(DataConfig)})
    if unknown:
        raise DataError(f"{path} has settings that this version does not know: {', '.join(unknown)}")
    result: dict[str, Any] = metadata
    if "from" not in metadata:  # a third party's problems are what they are
        result["data"] = from_saved({"data": metadata["data"]})["data"]
    return result


def _second_digits(problems: Problems) -> int:
    """What `--second-digits` would be of these problems, which bounds nothing where it is 0."""
    parts = [(task, problems[rows].lengths) for task, rows in by_task(problems)]
    most = max((int(lengths[:, 1:].max()) for task, lengths in parts if task.second), default=0)
    return most if most < problems.widths.max() else 0


def _wanted(num_examples: int, shares: SplitRatios) -> list[int]:
    """Rows of each split."""
    train = min(round(num_examples * shares.train), num_examples)
    rest = num_examples - train
    val = min(round(rest * shares.val / max(1 - shares.train, 1e-9)), rest)
    return [train, val, rest - val]


def _drawn(tasks: Sequence[Task], how: Sampling, seed: int, dealer: Dealer) -> Parts:
    """As many problems as each split wants, or as long as next to none of them is new."""
    rows = _chunk_rows(how.widest, how.most)
    looked_at, missing = 0, sum(dealer.missing)
    for index in count():
        # every chunk has random numbers of its own, so the first ones do not depend on how many follow
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        yield from dealer.deal(sample(rng, rows, tasks, how))
        looked_at += rows
        if not any(dealer.missing):
            return
        if looked_at >= _LOOKED_AT:
            if missing - sum(dealer.missing) < _WORTHWHILE:
                return
            looked_at, missing = 0, sum(dealer.missing)


def _taken(problems: Problems, dealer: Dealer) -> Parts:
    """All the problems by split, in their order."""
    rows = _chunk_rows(problems.operands.shape[2], problems.operands.shape[1])
    for start in range(0, len(problems), rows):
        yield from dealer.deal(trimmed(problems[start : start + rows]))


def _chunk_rows(digits: int, operands: int) -> int:
    """Problems to work on at a time, fewer where they are long."""
    # the format has no say: the same options give the same problems in any of them
    return max(1, min(_CHUNK_ROWS, _CHUNK_DIGITS // (digits * operands)))


def _write_rows(
    folder: Path, format: Format, parts: Parts, total: int, progress: Progress | None
) -> list[dict[str, int]]:
    """Writes the files. Returns how many rows each of them has, and how many different problems."""
    hashes: list[list[NDArray[np.uint64]]] = [[np.zeros(0, np.uint64)] for _ in SPLITS]
    done = 0
    with ExitStack() as opened:
        files = [opened.enter_context((folder / name).open("wb")) for name in FILES]
        for split, problems in parts:
            hashes[split].append(hash_problems(problems))
            # a long working has many times the digits of its problem
            rows = max(1, _CHUNK_TOKENS // int(format.estimates(problems).max(initial=1)))
            for start in range(0, len(problems), rows):
                some = problems[start : start + rows]
                files[split].write(_json_rows(some, format))
                done += len(some)
                if progress:
                    progress(done, total)
    whole = map(np.concatenate, hashes)
    return [{"rows": len(part), "distinct_problems": len(np.unique(part))} for part in whole]


def _json_rows(problems: Problems, format: Format) -> bytes:
    """The lines of a file."""
    n, rendered = len(problems), format.render(problems)
    beyond = np.arange(rendered.ids.shape[1]) >= rendered.lengths[:, None]
    row = [
        constant(n, _OPEN),
        expression_slots(problems),
        constant(n, _ANSWER),
        signed_slots(answer(problems), None, least_significant_first=False),
        constant(n, _TEXT),
        np.where(beyond, np.uint8(ABSENT), rendered.ids).T,
    ]
    ids, lengths = compact(stack(row))
    flat, starts = lines(ids, lengths), format.step_starts(problems, rendered.ids)
    if starts is not None:
        rows, columns = np.nonzero(starts)
        ends = np.cumsum(lengths + 1) - 1  # of the texts, which come last in their rows
        flat = np.insert(flat, (ends - rendered.lengths)[rows] + columns, SPACE)
    return join_pieces(flat, _PIECES)


# settings that say nothing where they are 0 or empty
_AS_ELSEWHERE = (
    *("thought_length", "second_digits", "expression_digits", "expression_numbers"),
    "task_weights",
)
_OF_TRAINING = ("data_dir", "num_examples", "curriculum_steps", "curriculum_start")


def _options(data: DataConfig) -> dict[str, Any]:
    """The settings that say what is in the files."""
    # where they are, and which of their rows a training run takes when, is not their business
    return {name: value for name, value in asdict(data).items() if name not in _OF_TRAINING}


def _write_metadata(
    folder: Path,
    data: DataConfig,
    counts: list[dict[str, int]],
    options: dict[str, Any],
    more: dict[str, Any],
) -> dict[str, Any]:
    words = ["mathllm", "gen-data"]
    for name, value in options.items():
        if value is not False and (value or name not in _AS_ELSEWHERE):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    metadata = {
        "mathllm": __version__,
        "command": shlex.join(words),
        "data": _options(data),
        "counts": dict(zip(SPLITS, counts, strict=True)),
        **more,
    }
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    return metadata


def _check_free(output_dir: Path, overwrite: bool) -> None:
    check_place(output_dir)
    for name in (*FILES, METADATA):
        if (output_dir / name).is_dir():  # no file could take its place
            raise UsageError(f"{output_dir / name} is a directory", "choose another --output-dir")
    present = [name for name in (*FILES, METADATA) if (output_dir / name).exists()]
    killed = any((left / METADATA).is_file() for left in output_dir.glob(_UNFINISHED + "*"))
    if present and not overwrite and (METADATA in present or not killed):
        hint = "--overwrite replaces them, or choose another --output-dir"
        raise UsageError(f"{output_dir} already holds {', '.join(present)}", hint)
    # of a whole dataset metadata.json may be damaged, which a new one mends
    whole = all(name in present for name in FILES)
    for name in present:
        if not _looks_ours(output_dir / name) and not (name == METADATA and whole):
            hint = "move it elsewhere, or choose another --output-dir"
            raise UsageError(f"{output_dir / name} is no file of a dataset: it would be deleted", hint)


def _clear(output_dir: Path) -> None:
    """Removes what killed processes left: files that were not whole, and a dataset of which some were replaced."""
    for left in output_dir.glob(_UNFINISHED + "*"):
        if left.is_dir() and {path.name for path in left.iterdir()} <= {*FILES, METADATA}:
            if (left / METADATA).is_file() and not (output_dir / METADATA).exists():
                for name in FILES:
                    (output_dir / name).unlink(missing_ok=True)
            shutil.rmtree(left)


def _looks_ours(path: Path) -> bool:
    """Does a file begin like those of a dataset?"""
    if not path.is_file():
        return False
    start = b'{\n  "mathllm": ' if path.name == METADATA else _PIECES[_OPEN]
    with path.open("rb") as file:
        return file.read(len(start)) in (start, b"")


@contextmanager
def _replacing(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """A new directory for the files, which are moved to `output_dir` when all of them are on the disk.

    A dataset is there if and only if its metadata.json is: that one goes first and comes last. Files of other
    names are left alone, and so is everything if something goes wrong before the end.
    """
    try:
        with locked(output_dir, "mathllm gen-data"):
            _check_free(output_dir, overwrite)
            _clear(output_dir)
            # inside, not beside: `output_dir` may be a link or a mount, and nothing can be moved between disks
            folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=output_dir))
            try:
                yield folder
                sync(*(folder / name for name in (*FILES, METADATA)))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            # from here on the folder tells whose files are there without metadata
            (output_dir / METADATA).unlink(missing_ok=True)
            sync(output_dir)
            for name in FILES:
                os.replace(folder / name, output_dir / name)
            sync(output_dir)
            os.replace(folder / METADATA, output_dir / METADATA)
            sync(output_dir)
            folder.rmdir()
    except OSError as error:
        message = f"cannot write the dataset to {output_dir}: {error.strerror or error}"
        raise DataError(message, "choose another --output-dir, or make room there") from error
