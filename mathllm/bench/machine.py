"""What the machine can do: matrix products and memory, with which everything else is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from mathllm.bench import Measurement, Options, rate, seconds_of
from mathllm.config import SIZES
from mathllm.device import pick_device, pick_precision, workers
from mathllm.training.trainer import MICRO_BATCH_TOKENS

LARGE = 2048  # rows and columns of a matrix that no cache holds
SMALL = 512
COPIED = 1 << 28  # bytes
TIMED = 0.2  # seconds of products that are timed together


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    found = [peak(options.repeats, device, threads) for threads in thread_counts(device)]
    if device.type == "cpu" or pick_precision("auto", device) == torch.bfloat16:
        found.append(peak(options.repeats, device, thread_counts(device)[-1], torch.bfloat16))
    tokens = min(MICRO_BATCH_TOKENS[device.type], 1 << 14)
    for size in options.sizes or SIZES:
        shape = tokens, SIZES[size]["hidden"], SIZES[size]["feed_forward"]
        what = f"matrix product of {size}, {' x '.join(map(str, shape))}"
        work = products(shape, device, thread_counts(device)[-1], torch.float32)
        found.append(rate(what, work.gflop, "GFLOP/s", seconds_of(work.run, options.repeats, device)))
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = seconds_of(lambda: target.copy_(source), options.repeats, device)
    return [*found, rate("memory, copying (read and written)", 2 * COPIED / 1e9, "GB/s", times)]


def thread_counts(device: torch.device) -> list[int]:
    """One thread, and as many as there are, where that is more."""
    return [1] if device.type == "cuda" else sorted({1, torch.get_num_threads()})


class Work(NamedTuple):
    """Something to time, and how many GFLOP it is."""

    run: Callable[[], object]
    gflop: float


def peak(repeats: int, device: torch.device, threads: int, dtype: torch.dtype = torch.float32) -> Measurement:
    """Products of large matrices, one on each thread."""
    width = peak_width(device, dtype)
    name = str(dtype).removeprefix("torch.")
    what = f"matrix product, {width} x {width} x {width}, {name}, {threads} thread{'s' * (threads > 1)}"
    work = peak_work(device, threads, dtype)
    return rate(what, work.gflop, "GFLOP/s", seconds_of(work.run, repeats, device))


def peak_width(device: torch.device, dtype: torch.dtype) -> int:
    """Rows and columns of the matrices that tell the peak."""
    # for bf16 many CPUs take a hundred times as long, and a small one tells that, too
    return SMALL if device.type == "cpu" and dtype == torch.bfloat16 else LARGE


def peak_work(device: torch.device, threads: int, dtype: torch.dtype) -> Work:
    """What tells the peak, to be timed in turns with what is compared with it."""
    width = peak_width(device, dtype)
    return products((width, width, width), device, threads, dtype)


def products(shape: tuple[int, int, int], device: torch.device, threads: int, dtype: torch.dtype) -> Work:
    """Matrices (n, k) times (k, m), one product after the other on each thread, as training does it."""
    n, k, m = shape
    left, right = torch.randn(n, k, device=device, dtype=dtype), torch.randn(k, m, device=device, dtype=dtype)
    torch.mm(left, right)
    (once,) = seconds_of(lambda: torch.mm(left, right), 1, device)
    times = max(1, round(TIMED / once))

    def work(_: int = 0) -> None:
        out = torch.empty(n, m, device=device, dtype=dtype)
        for _ in range(times):
            torch.mm(left, right, out=out)

    pool = workers(threads)
    return Work(lambda: list(pool.map(work, range(threads))), threads * times * 2e-9 * n * k * m)
