"""The state of a run on disk: step checkpoints that resume exactly, the best one, and how many are kept.

RUN/checkpoint-500/          a whole checkpoint, and training_state.* beside the model
RUN/best -> checkpoint-500
RUN/metrics.jsonl, RUN/logs/training.log, RUN/training_config.json, RUN/test_results.json
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as save_tensors

from mathllm import files
from mathllm.checkpoint import (
    load_checkpoint,
    read_config,
    read_settings,
    read_shapes,
    read_tensors,
    read_weights,
    save_model,
)
from mathllm.config import Config, ModelConfig
from mathllm.errors import CheckpointError, UsageError
from mathllm.finding import CONFIG, PROOF, TOKENIZER, WEIGHTS, step_checkpoints
from mathllm.limits import MAX_STEPS
from mathllm.model.transformer import Transformer

STATE_TENSORS, STATE = "training_state.safetensors", "training_state.json"
TRAINED = "training_weights.safetensors"  # where the checkpoint's own weights are an average of them
SETTINGS, RESULTS = "training_config.json", "test_results.json"
METRICS, LOG = "metrics.jsonl", "logs/training.log"
CARD, BEST = "README.md", "best"
_CHECKPOINT = r"checkpoint-\d+"
IN_CHECKPOINT = {WEIGHTS, CONFIG, TOKENIZER, PROOF, TRAINED, SETTINGS, CARD, STATE_TENSORS, STATE}


@dataclass
class Progress:
    """What a run knows about itself besides weights and optimizer state; `rows` is how many it has seen, and `data`
    stands for the problems of its files (nothing: those of a stream, or an earlier version did not say). `hard` are
    problems that were hard when last searched for, one a line."""

    step: int = 0
    rows: int = 0
    best_exact_match: float = -1.0
    best_correct: int = 0
    validation_examples: int = 0
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0
    data: str = ""
    hard: str = ""


class Parts(NamedTuple):
    """What changes in training: the `model`, the one that is `kept` (the same, or an average), and what moves it."""

    model: Transformer
    kept: Transformer
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler


def save_step(run: Path, config: Config, parts: Parts, *, progress: Progress, card: str) -> Path:
    """Writes `checkpoint-STEP` with all that is needed to load it and to go on from it.

    It loads the `kept` model; where that is another one than the `model` in training, its weights lie beside it.
    """
    model, kept, optimizers, scaler = parts
    path = run / f"checkpoint-{progress.step}"
    refuse_strange(path)
    with files.new_directory(path) as directory:
        save_model(directory, kept, config.model, config.data)
        if kept is not model:
            _write_tensors(directory / TRAINED, model.state_dict())
        files.write_json(directory / SETTINGS, config.to_dict())
        files.write_bytes(directory / CARD, card.encode(errors="backslashreplace"))
        _write_tensors(directory / STATE_TENSORS, _optimizer_tensors(optimizers))
        files.write_json(directory / STATE, {**asdict(progress), "scaler": scaler.state_dict()})
    return path


def load_step(path: Path, config: ModelConfig, parts: Parts) -> Progress:
    """Puts models, optimizers and scaler into the state saved at `path`.

    Raises UsageError for a model or an optimizer of another kind than was saved, CheckpointError for damage.
    """
    model, kept, optimizers, scaler = parts
    hint = "leave that out, or start anew in another --output-dir"
    check_same_model(path, config, "this run's model", "it cannot go on as another one", hint)
    if (path / TRAINED).is_file() != (kept is not model):
        raise UsageError(
            "this run was started with an average of its weights, or without one, and cannot change that",
            "leave out optim.ema_decay as it was, or start anew in another --output-dir",
        )
    found = {WEIGHTS: kept, **({TRAINED: model} if kept is not model else {})}
    weights = {name: read_weights(path / name, each) for name, each in found.items()}
    progress, scaler_state = read_progress(path)
    _load_optimizers(path, optimizers)
    for name, each in found.items():
        each.load_state_dict(weights[name])
    if scaler_state:
        scaler.load_state_dict(scaler_state)
    return progress


def load_initial(name: str, config: ModelConfig, model: Transformer) -> None:
    """Puts the weights of a checkpoint (a path, a run, a name that ships) into a new model.

    Raises UsageError where it is a model of another shape.
    """
    loaded = load_checkpoint(name)
    hint = f"the shape of {name} is in its {CONFIG}; --set model.KEY=VALUE gives it to this run"
    but = "a run begins with weights of its own shape"
    check_same_model(loaded.path, config, f"the model of train.init, {name},", but, hint)
    model.load_state_dict(loaded.model.state_dict())


def read_progress(path: Path) -> tuple[Progress, dict[str, Any]]:
    """The progress saved with a checkpoint, and the state of the gradient scaler."""
    try:
        content: dict[str, Any] = files.read_json(path / STATE)
        scaler_state: dict[str, Any] = content.pop("scaler")
        progress = Progress(**content)
        for name, value in asdict(progress).items():
            kind = type(getattr(Progress, name))
            if type(value) not in (kind, *([int] if kind is float else [])) or (
                kind is not str and not (-1 if kind is float else 0) <= value <= MAX_STEPS * 2**20
            ):
                raise ValueError(f"{name} is {str(value)[:40]!r}")
        if not isinstance(scaler_state, dict):
            raise ValueError("scaler is no object")
        return progress, scaler_state
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / STATE} cannot be read: {error}", "delete that checkpoint") from error


def check_same_model(path: Path, config: ModelConfig, whose: str, but: str, hint: str) -> None:
    """Raises UsageError where the checkpoint at `path` is of a model with other settings.

    Shapes alone would not tell: another activation or number of heads has the same weights.
    """
    saved = read_config(path).get("model")
    # a setting that the checkpoint did not know yet was at its default
    defaults = ModelConfig(position=config.position).to_dict()
    for name, value in config.to_dict().items():
        before = saved.get(name, defaults[name]) if isinstance(saved, dict) else value
        if before != value:
            raise UsageError(f"{whose} has {name} {before!r}, not {value!r}: {but}", hint)


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, save_tensors(content))


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """All state tensors by name: `<optimizer>.<parameter>.<key>`, as in `Muon.3.momentum_buffer`."""
    return {
        f"{type(optimizer).__name__}.{parameter}.{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def _load_optimizers(path: Path, optimizers: list[torch.optim.Optimizer]) -> None:
    file, named = path / STATE_TENSORS, {type(optimizer).__name__: optimizer for optimizer in optimizers}
    shapes = read_shapes(file)
    saved_by = {name.partition(".")[0] for name in shapes}
    if saved_by != named.keys():
        saved, wanted = (" and ".join(sorted(names)) for names in (saved_by, named))
        raise UsageError(
            f"this run was optimized by {saved or 'nothing'}: it cannot go on with {wanted}",
            "leave out --optimizer, or start anew in another --output-dir",
        )
    # a number for a parameter, or one for each of its weights
    right: dict[str, tuple[list[int], list[int]]] = {
        f"{name}.{index}": ([], list(parameter.shape))
        for name, optimizer in named.items()
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    for name, shape in shapes.items():
        if shape not in right.get(name.rpartition(".")[0], ()):
            problem = f"{name} of shape {shape} is no state of this model's optimizers"
            raise CheckpointError(f"{file} cannot be used: {problem}", "delete that checkpoint")
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for name, tensor in read_tensors(file).items():
        optimizer_name, parameter, key = name.split(".")
        states.setdefault(optimizer_name, {}).setdefault(int(parameter), {})[key] = tensor
    for name, optimizer in named.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name], "param_groups": groups})


def note(run: Path, text: str) -> None:
    """A line of the run's logs/training.log."""
    path = run / LOG
    with files.explained(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n".encode("utf-8", "surrogateescape"))


def newest(run: Path) -> Path | None:
    """The newest step checkpoint of a run, None if there is none yet."""
    return next(reversed(step_checkpoints(run)), None)


def newest_whole(run: Path, averaged: bool) -> tuple[Path | None, list[CheckpointError]]:
    """The newest step checkpoint from which a run, `averaged` or not, can go on (None if there is no checkpoint yet),
    and what is wrong with each newer one. Raises the first of these errors where none is left, and the error for one
    that may not be read, which may be whole."""
    wrong: list[CheckpointError] = []
    for path in reversed(step_checkpoints(run)):
        try:
            read_settings(path)
            for name in (WEIGHTS, STATE_TENSORS, TRAINED):
                if name != TRAINED or averaged or (path / name).exists():
                    read_shapes(path / name)
            read_progress(path)
            return path, wrong
        except CheckpointError as error:
            if isinstance(error.__cause__, PermissionError):
                hint = f"if it is yours: chmod -R u+rwX {path}"
                raise CheckpointError(error.message, hint) from error
            wrong.append(error)
    if wrong:
        hint = "no checkpoint of this run can be read: --overwrite starts anew"
        raise CheckpointError(wrong[0].message, hint)
    return None, []


def mark_best(run: Path, checkpoint: Path) -> None:
    """Points RUN/best at a checkpoint, in one step that cannot be half done."""
    best, temporary = run / BEST, run / f".{BEST}.tmp-{os.getpid()}"
    refuse_strange(best)
    with files.explained(f"write {best}"):
        if best.is_dir() and not best.is_symlink():
            files.remove_directory(best)  # what copying a run with all links followed makes of it
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(checkpoint.name)
        os.replace(temporary, best)


def prune(run: Path, step: int, keep: int) -> None:
    """Deletes the oldest checkpoints of a run that has come to `step`, beyond `keep`, never the best one.

    One past that step is damaged, or the run would have gone on from there: it does not count, and is written anew.
    """
    best = (run / BEST).resolve()
    for path in [path for path in step_checkpoints(run) if step_of(path) <= step][:-keep]:
        if path.resolve() != best and not strange(path):
            files.remove_directory(path)


def mend(run: Path, progress: Progress, keep: int) -> None:
    """Puts right what a kill may have left in the directory of a run that is taken up at `progress`."""
    files.remove_leftovers(run, _is_ours)
    best = run / f"checkpoint-{progress.best_step}"
    if (best / WEIGHTS).is_file():  # it was saved, but perhaps not yet marked
        mark_best(run, best)
    elif (
        (run / BEST).is_symlink()
        and not strange(run / BEST)
        and step_of((run / BEST).readlink()) > progress.step
    ):
        (run / BEST).unlink()  # it is damaged (see `prune`), and the one before is gone
    prune(run, progress.step, keep)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def strange(path: Path) -> str:
    """Why what lies at the name of a checkpoint, or of RUN/best, was not written by a run, or nothing if it was, or
    nothing lies there."""
    if path.is_symlink():
        to = os.readlink(path)
        return "" if path.name == BEST and re.fullmatch(_CHECKPOINT, to) else f"{path} is a link to {to}"
    if not path.is_dir():
        return f"{path} is a file" if path.exists() else ""
    if path.name == BEST and not (path / WEIGHTS).is_file():
        return f"{path} holds no {WEIGHTS}"
    names = sorted(entry.name for entry in path.iterdir())
    others = [name for name in names if (files.leftover_of(name) or name) not in IN_CHECKPOINT]
    return f"{path} holds {others[0]}" if others else ""


def refuse_strange(*paths: Path) -> None:
    """Raises UsageError for the first of these names of checkpoints at which something strange lies."""
    for path in paths:
        if why := strange(path):
            hint = "move it elsewhere, or choose another --output-dir"
            raise UsageError(f"{why}: no run has written that, and it would be deleted", hint)


def refuse_what_is_in_the_way(run: Path, step: int) -> None:
    """Raises UsageError where a run that goes on from `step` would replace what no run has written."""
    checkpoints = [path for path in run.glob("checkpoint-*") if re.fullmatch(_CHECKPOINT, path.name)]
    refuse_strange(run / BEST, *(path for path in sorted(checkpoints) if step_of(path) > step))


def run_files(run: Path) -> list[Path]:
    """What a run has written into its directory."""
    found = [run / name for name in (METRICS, LOG, SETTINGS, RESULTS) if (run / name).is_file()]
    if run.is_dir():
        found += [path for path in run.iterdir() if _is_checkpoint(path)]
    return found


def clear_run(run: Path) -> None:
    """Deletes what an earlier run has written, and nothing else."""
    files.remove_leftovers(run, _is_ours)
    # the settings, which show that a run has been here, last
    for path in sorted(run_files(run), key=lambda path: path.name == SETTINGS):
        if path.is_dir() and not path.is_symlink():
            files.remove_directory(path)
        else:
            path.unlink()
    with suppress(OSError):  # somebody else's files are in it
        (run / LOG).parent.rmdir()


def _is_checkpoint(path: Path) -> bool:
    if path.name == BEST:
        return path.is_symlink() or (path / WEIGHTS).is_file()
    return re.fullmatch(_CHECKPOINT, path.name) is not None and path.is_dir()


def _is_ours(name: str) -> bool:
    return name in (BEST, METRICS, SETTINGS, RESULTS) or re.fullmatch(_CHECKPOINT, name) is not None
