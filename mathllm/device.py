"""The CUDA / CPU layer: which device, which precision, and what they are called."""

from __future__ import annotations

import contextlib
import os
import platform
from contextlib import AbstractContextManager

import torch

from mathllm.errors import DeviceError, UsageError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises DeviceError for CUDA without CUDA."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", "use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("CUDA was asked for, but this machine or this PyTorch has none", "use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. `auto` is bf16 on CUDA devices that have it, else fp32."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 training needs CUDA", "use --precision bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in `dtype`; nothing at all for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def describe(device: torch.device) -> str:
    """A line for logs: what the work runs on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
