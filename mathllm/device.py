"""The CUDA / CPU layer: which device, which precision, and what they are called."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch

from mathllm.errors import DeviceError, UsageError, unknown_choice

# of a training step: adding up the gradients of more copies, or of fewer rows, would cost what they save
MOST, ROWS = 8, 16


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises DeviceError for CUDA without CUDA."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise unknown_choice("device", name, ("auto", "cpu", "cuda", "cuda:N"))
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            here = "this machine or this PyTorch has none"
            raise DeviceError(f"CUDA was asked for, but {here}", "use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise DeviceError(f"there is no {name}: this machine has {count} CUDA device(s)")
    return device


_POOLS: dict[int, ThreadPoolExecutor] = {}
_MAKING = threading.Lock()


def workers(count: int) -> ThreadPoolExecutor:
    """`count` threads that work side by side, each on its own on a CPU: the same ones whenever they are asked for.

    PyTorch's own way, to let threads share every product, makes them wait for each other at each: for products as
    small as ours that costs more than it brings, and on a busy machine almost everything."""
    with _MAKING:
        if count not in _POOLS:
            # OpenMP's number of threads belongs to the thread that sets it, so the caller keeps its own; MKL's belongs
            # to all, and has to stay 1, or the products of these threads would share cores
            pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
            everyone = threading.Barrier(count)
            list(pool.map(lambda _: everyone.wait(), range(count)))
            _POOLS[count] = pool
        return _POOLS[count]


def sensible_threads(rows: int) -> int:
    """How many threads to give a training step of that many rows on this machine."""
    return max(1, min(torch.get_num_threads(), MOST, rows // ROWS))


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products. `auto` is bf16 on CUDA devices that have it, else fp32."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
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
