"""`mathllm doctor`: what there is on this machine, ready for a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from mathllm import __version__
from mathllm.cli import options
from mathllm.cli.output import Output, tell
from mathllm.errors import MathLLMError

PACKAGES = ("torch", "numpy", "safetensors", "typer", "rich", "wandb")
# what each extra brings
EXTRAS = {"plots": "matplotlib", "serve": "fastapi"}


def doctor(*, checkpoint: options.Checkpoint = None, as_json: options.Json = False) -> None:
    """Say what there is: versions, devices, threads, checkpoints and data, ready for a bug report.

    Nothing is written or sent anywhere.

    \b
    mathllm doctor
    mathllm doctor --checkpoint checkpoints/mine
    mathllm doctor --json
    """
    found = {
        "versions": versions(),
        "devices": devices(),
        "checkpoints": checkpoints(checkpoint),
        "data": data(),
        "extras": {
            extra: "installed" if find_spec(package) else f"not installed: pip install 'mathllm[{extra}]'"
            for extra, package in EXTRAS.items()
        },
    }
    Output(as_json).give(found, lambda console: show(console, found))


def versions() -> dict[str, str]:
    """Of mathllm, of what it stands on, and of the system."""
    found = {"mathllm": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "system": platform.platform()}


def devices() -> dict[str, Any]:
    """What training and decoding can run on, and in which precision it is fast."""
    import torch

    from mathllm.device import describe, pick_device

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    capability = torch.backends.cpu.get_cpu_capability()
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    variables = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    return {
        "used": describe(pick_device()),
        "cuda": ", ".join(cuda) or "none",
        "cpu": f"{capability}, {'with' if amx else 'without'} AMX for bf16",
        **variables,
    }


def checkpoints(asked: str | None) -> dict[str, str]:
    """The runs under checkpoints/, and which checkpoint a command takes without a word, or for the one asked."""
    from mathllm.finding import DEFAULT_ROOT, find_checkpoint

    found = {str(run): about(run) for run in sorted(DEFAULT_ROOT.glob("[!.]*")) if run.is_dir()}
    try:
        taken = find_checkpoint(asked)
        return {**found, "taken": f"{taken}: {about(taken)}"}
    except MathLLMError as error:
        return {**found, "taken": f"none: {error.message}"}


def about(path: Path) -> str:
    """What a checkpoint says of itself, or what is wrong with it."""
    from mathllm.checkpoint import read_config
    from mathllm.finding import find_checkpoint

    try:
        config = read_config(find_checkpoint(path))
        model, data = config["model"], config["data"]
        digits = f"up to {data['max_digits']} digits"
        return f"{model['size']}, {model['position']}, {data['task']} {digits}, format {data['format']}"
    except MathLLMError as error:
        return error.message
    except (KeyError, TypeError) as error:
        return f"its settings lack {error}"


def data() -> dict[str, str]:
    """The data directory that training takes without a word."""
    from mathllm.data.files import METADATA, read_metadata

    if not Path("data", METADATA).is_file():
        return {"data": "none: mathllm train makes problems as it goes"}
    try:
        metadata = read_metadata(Path("data"))
        rows = sum(split["rows"] for split in metadata["counts"].values())
    except MathLLMError as error:
        return {"data": error.message}
    except (KeyError, TypeError) as error:
        return {"data": f"its metadata lack {error}"}
    return {"data": f"{rows:,} rows: {metadata.get('command')}"}


def show(console: Console, found: dict[str, dict[str, Any]]) -> None:
    """Plain lines, a block for each part."""
    width = max(len(name) for part in found.values() for name in part) + 2
    for title, part in found.items():
        console.print(title, markup=False)
        for name, value in part.items():
            tell(console, f"  {name:<{width}}{value}")
