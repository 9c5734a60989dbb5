"""Where checkpoints are, and which one is meant: found by their names on disk, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from mathllm.errors import CheckpointError

# in the installed package, or beside it in a checkout
_HOMES = [above / "checkpoints" for above in Path(__file__).parents[:2]]
SHIPPED = next((home for home in _HOMES if home.is_dir()), _HOMES[-1])
# what ships; where none is named the first of these are taken, in this order
TAKEN = ("arithmetic", "add-any-length", "multiply-any-length", "divide-any-length")
SHIPPED_NAMES = (*TAKEN, "addsub-3digit", "own-thoughts")
DEFAULT_ROOT = Path("checkpoints")
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
PROOF = "proof.json"  # that they are right at every length, where that was proved (mathllm.prove)


def find_checkpoint(path: str | Path | None = None) -> Path:
    """The directory of a checkpoint, given as itself, as its model.safetensors, or as the run that holds it; those
    that ship can be given by their names.

    Of a run, the best checkpoint is taken, else the newest. Without a path: of the newest run under
    `checkpoints/`, else the checkpoint that ships with mathllm.
    """
    if path is None:
        return candidates()[0]
    path = Path(path)
    if path.parent in (Path(), DEFAULT_ROOT) and path.name in SHIPPED_NAMES and not path.exists():
        path = SHIPPED / path.name  # wherever mathllm is called from
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte in it
        raise CheckpointError(f"{str(path)[:60]!r} cannot be opened: {error}") from error
    if not there:
        raise CheckpointError(f"there is no checkpoint {path}", "mathllm train writes one under checkpoints/")
    if path.is_file():
        if path.name not in (WEIGHTS, CONFIG):
            raise CheckpointError(f"{path} is not a checkpoint", f"give its directory, or its {WEIGHTS}")
        path = path.parent
    found = _inside(path)
    if found is None:
        raise CheckpointError(f"{path} holds no {WEIGHTS}", "give the directory of a checkpoint or of a run")
    return found


def candidates() -> list[Path]:
    """The checkpoints that are taken where none is named: of the runs under `checkpoints/`, the newest first, then
    those that ship with mathllm and calculate in integers. Raises CheckpointError where there is none."""
    ours = {(SHIPPED / name).resolve() for name in SHIPPED_NAMES}
    runs = [run for run in DEFAULT_ROOT.glob("[!.]*") if run.is_dir() and run.resolve() not in ours]
    found = [inside for run in runs if (inside := _inside(run)) is not None]
    found.sort(key=lambda inside: (inside / WEIGHTS).stat().st_mtime_ns, reverse=True)
    found += [SHIPPED / name for name in TAKEN if (SHIPPED / name / WEIGHTS).is_file()]
    if not found:
        raise CheckpointError("there is no checkpoint under checkpoints/", "train one: mathllm train")
    return found


def _inside(directory: Path) -> Path | None:
    """The directory itself if it is a checkpoint, else the best or the newest one in it."""
    if (directory / WEIGHTS).is_file():
        return directory
    if (directory / "best" / WEIGHTS).is_file():
        return directory / "best"
    steps = step_checkpoints(directory)
    return steps[-1] if steps else None


def step_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints `checkpoint-N` of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name[11:].isdecimal() and (p / WEIGHTS).is_file()]
    return sorted(found, key=lambda p: int(p.name[11:]))
