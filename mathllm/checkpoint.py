"""A checkpoint on disk: a directory that loads with nothing else beside it, and no pickle in it.

    model.safetensors     the weights; tied ones once
    config.json           vocabulary, shape of the model, what it was trained on and in which format
    tokenizer.json        for the Hugging Face `tokenizers` library

What training adds (its settings, its state, the model card) lies beside these and is not needed to load.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mathllm import __version__
from mathllm.config import Config, DataConfig, ModelConfig, build_config, from_saved
from mathllm.errors import CheckpointError, MathLLMError, UsageError, check_at_least, reason
from mathllm.files import read_json, write_bytes, write_json
from mathllm.finding import CONFIG, TOKENIZER, WEIGHTS, find_checkpoint
from mathllm.flags import listed
from mathllm.inference.sampling import GREEDY, SamplingParams
from mathllm.limits import MAX_DOCUMENT, check_range
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.scope import Scope
from mathllm.tokenizer import TOKENS, tokenizer_json

_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}  # of a number, by the names of safetensors
_SMALL = 1 << 22  # parameters of a model that is made without a look at its weights
# of what the names and numbers in a checkpoint mean: raised when weights of old would compute something else
FORMAT, OLDEST = 4, 2
# what tensors were called in the format before, as patterns of names
RENAMED = {
    # the bias over places became one over each of several axes; format 3 names all as 4 does, which only says by how
    # many digits products are (see config.from_saved)
    2: (r"(positions\.(?:schemes\.\d+\.)?)(near|decay|placeless)", r"\1relative.place.\2"),
}


def save_model(directory: Path, model: Transformer, model_config: ModelConfig, data: DataConfig) -> None:
    """Writes weights, config.json and tokenizer.json into an existing directory."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / WEIGHTS, save_tensors(weights, metadata={"format": "pt"}))
    shape = {"model": model_config.to_dict(), "data": asdict(data)}
    about = {"mathllm": __version__, "checkpoint_format": FORMAT, "vocabulary": TOKENS}
    write_json(directory / CONFIG, {**about, **shape})
    write_bytes(directory / TOKENIZER, tokenizer_json().encode())


def load_checkpoint(
    path: str | Path | None = None,
    device: torch.device | None = None,
    *,
    params: SamplingParams = GREEDY,
    seed: int = 0,
) -> MathModel:
    """Loads a checkpoint or the best one of a run; without a path see `find_checkpoint`.

    `params` and `seed` are how it draws tokens. Raises CheckpointError where something is missing, damaged, or made
    with another vocabulary."""
    check_range("seed", seed, 0, 2**63 - 1)
    directory = find_checkpoint(path)
    settings = read_settings(directory)
    with _described(directory):
        # a file may say anything: no model is made that is large, and larger than the weights beside it
        wanted = settings.model.block_parameters
        if wanted > _SMALL and wanted > (
            there := sum(map(math.prod, read_shapes(directory / WEIGHTS).values()))
        ):
            raise UsageError(f"it says {wanted:,} parameters or more, and {WEIGHTS} has {there:,}")
        model = Transformer.from_config(settings.model)
        loaded = MathModel(model, settings.data, directory, params=params, seed=seed)
    model.load_state_dict(read_weights(directory / WEIGHTS, model))
    model.to(device or torch.device("cpu")).eval()
    loaded.check_weights()
    return loaded


def read_settings(directory: Path) -> Config:
    """What a checkpoint says of its model and of the data that it was trained on.

    Raises CheckpointError where that is damaged, or describes no model of this version."""
    config = read_config(directory)
    with _described(directory):
        settings = build_config(from_saved({"model": config["model"], "data": config["data"]}))
        check_at_least("model.max_length", settings.model.max_length, 1)
    return settings


def read_scope(directory: Path) -> Scope:
    """What a checkpoint's model can be asked, without its weights. Raises as `read_settings` does."""
    settings = read_settings(directory)
    with _described(directory):
        return Scope(settings.data, settings.model.max_length)


@contextmanager
def _described(directory: Path) -> Iterator[None]:
    """Turns what goes wrong with a model's description into a CheckpointError that says so."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, MathLLMError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
        raise CheckpointError(
            f"{directory / CONFIG} does not describe a model of this version: {why}",
            "it has been changed since it was written: use another checkpoint of the run"
            if (writer := read_config(directory).get("mathllm", "unknown")) == __version__
            else f"it was written by mathllm {writer}, this is {__version__}",
        ) from error


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file, of which nothing but the header is read.

    Raises CheckpointError for a damaged one, and for tensors that are no real numbers."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_DOCUMENT:
                raise ValueError("it does not begin like a safetensors file")
            header = json.loads(file.read(length).decode())
        header.pop("__metadata__", None)
        if unreal := sorted({entry["dtype"] for entry in header.values()} - _BYTES.keys()):
            raise ValueError(f"it holds {unreal[0]}, and weights are {listed(_BYTES)}")
        shapes = {name: entry["shape"] for name, entry in header.items()}
        if not all(type(size) is int and size >= 0 for shape in shapes.values() for size in shape):
            raise ValueError("its header has sizes that are none")
        content = sum(_BYTES[entry["dtype"]] * math.prod(shapes[name]) for name, entry in header.items())
        if 8 + length + content != path.stat().st_size:
            raise ValueError("it is longer or shorter than its header says")
        return shapes
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, which are read into memory: see `read_shapes` first. Raises CheckpointError
    for a damaged one."""
    try:
        tensors: dict[str, torch.Tensor] = load_tensors(path.read_bytes())
        return tensors
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, PermissionError):
        hint = f"if it is yours: chmod u+r {path}"
    elif isinstance(error, OSError):
        hint = "use another checkpoint of the run"
    else:
        hint = "it may have been cut off while copying; use another checkpoint of the run"
    return CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", hint)


def read_weights(path: Path, model: Transformer) -> dict[str, torch.Tensor]:
    """The weights in a file of a checkpoint's directory, whatever version wrote it, by their names in this one.

    Raises CheckpointError where they are not those of such a model, before any is read.
    """
    written_in = read_config(path.parent)["checkpoint_format"]

    def name_now(name: str) -> str:
        for version, (pattern, now) in RENAMED.items():
            if written_in <= version:
                name = re.sub(f"^{pattern}$", now, name)
        return name

    shapes = {name_now(name): shape for name, shape in read_shapes(path).items()}
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(shapes.keys() | expected.keys()):
        found, wanted = shapes.get(name, "nothing"), expected.get(name, "nothing")
        if found != wanted:
            problem = f"{name} should be {wanted}, found {found}"
            hint = "the two are not of one checkpoint; use another one"
            raise CheckpointError(f"{path} does not fit its {CONFIG}: {problem}", hint)
    return {name_now(name): tensor for name, tensor in read_tensors(path).items()}


def read_config(directory: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises CheckpointError for a damaged one, for another vocabulary, and for versions
    that cannot be read."""
    path = directory / CONFIG
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(config, dict) or "vocabulary" not in config:
        raise CheckpointError(
            f"{path} does not describe a checkpoint: it names no vocabulary",
            "only checkpoints that mathllm train wrote can be loaded",
        )
    if config["vocabulary"] != list(TOKENS):
        raise CheckpointError(
            f"{directory} was made with another vocabulary than the sixteen tokens of mathllm",
            "only checkpoints that mathllm train wrote can be loaded",
        )
    version = config.get("checkpoint_format", 1)
    if type(version) is not int or version not in range(OLDEST, FORMAT + 1):
        raise CheckpointError(
            f"{directory} has checkpoint format {version}, and this version reads {OLDEST} to {FORMAT}",
            "train it anew, or take another version of mathllm"
            + (f": it was written by {writer}" if (writer := config.get("mathllm")) != __version__ else ""),
        )
    return config
