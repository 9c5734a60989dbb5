"""What a proof is about: which weights, by which version."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mathllm import __version__
from mathllm.checkpoint import read_settings, save_model
from mathllm.config import ModelConfig
from mathllm.errors import UsageError
from mathllm.files import explained, new_directory, write_json
from mathllm.finding import CONFIG, PROOF, WEIGHTS
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.prove.proof import Proof


def certificate(model: MathModel, kind: str, window: str | None = None) -> dict[str, Any]:
    """What a result of some kind (proof, hunt, exhaustive) is about: the checkpoint's files by their hashes, the
    versions of what was used, and the `window` that the model was given without being written."""
    files = {
        f"{name}_sha256": hashlib.sha256((model.path / file).read_bytes()).hexdigest()
        for name, file in (("weights", WEIGHTS), ("config", CONFIG))
    }
    about = {"schema": f"mathllm.{kind}/1", "checkpoint": model.path.name, **files}
    given = {} if window is None else {"given_window": window}
    return {**about, **given, "mathllm": __version__, "torch": torch.__version__}


def keep_proof(model: MathModel, proof: Proof) -> None:
    """Writes a proof that holds beside the weights that it is about."""
    write_json(model.path / PROOF, {**certificate(model, "proof"), **proof.to_dict()})


def with_window(model: MathModel, window: str) -> tuple[MathModel, ModelConfig]:
    """The same weights in a model whose layers look no further (see model.bias_window), and its settings. Raises
    UsageError for a model whose positions know no window."""
    settings = read_settings(model.path).model
    if "bias_window" not in settings.position_settings:
        raise UsageError(
            f"position {settings.position!r} knows no window", "coupled-bias does; --hunt needs none"
        )
    narrow = replace(settings, position_settings={**settings.position_settings, "bias_window": window})
    made = Transformer.from_config(narrow)
    made.load_state_dict(model.model.state_dict())
    return MathModel(made.to(model.device).eval(), model.data, model.path), narrow


def write(model: MathModel, settings: ModelConfig, directory: Path) -> MathModel:
    """The model, written as a checkpoint into a new directory. Raises UsageError where that is there already."""
    if directory.exists():
        raise UsageError(f"{directory} is there already", "choose another --output-dir")
    with explained(f"write {directory}"), new_directory(directory) as place:
        save_model(place, model.model, settings, model.data)
    return MathModel(model.model, model.data, directory)
