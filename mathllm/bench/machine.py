"""What the machine can do: matrix products and memory, with which everything else is compared."""

from __future__ import annotations

import torch

from mathllm.bench import Measurement, Options, rate, seconds_of
from mathllm.config import SIZES
from mathllm.device import pick_device, pick_precision, workers
from mathllm.training.trainer import MICRO_BATCH_TOKENS

LARGE = 2048  # rows and columns of a matrix that no cache holds
SMALL = 512
COPIED = 1 << 28  # bytes


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    found = [peak(options.repeats, device, threads) for threads in thread_counts(device)]
    if device.type == "cpu" or pick_precision("auto", device) == torch.bfloat16:
        found.append(peak(options.repeats, device, thread_counts(device)[-1], torch.bfloat16))
    tokens = min(MICRO_BATCH_TOKENS[device.type], 1 << 14)
    for size in options.sizes:
        shape = tokens, SIZES[size]["hidden"], SIZES[size]["feed_forward"]
        what = f"matrix product of {size}, {' x '.join(map(str, shape))}"
        found.append(product(what, shape, options.repeats, device, thread_counts(device)[-1]))
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = seconds_of(lambda: target.copy_(source), options.repeats, device)
    return [*found, rate("memory, copying (read and written)", 2 * COPIED / 1e9, "GB/s", times)]


def thread_counts(device: torch.device) -> list[int]:
    """One thread, and as many as there are, where that is more."""
    return [1] if device.type == "cuda" else sorted({1, torch.get_num_threads()})


def peak(repeats: int, device: torch.device, threads: int, dtype: torch.dtype = torch.float32) -> Measurement:
    """Products of large matrices, one on each thread."""
    # for bf16 many CPUs take a hundred times as long, and a small one tells that, too
    width = SMALL if device.type == "cpu" and dtype == torch.bfloat16 else LARGE
    name = str(dtype).removeprefix("torch.")
    what = f"matrix product, {width} x {width} x {width}, {name}, {threads} thread{'s' * (threads > 1)}"
    return product(what, (width, width, width), repeats, device, threads, dtype)


def product(
    what: str,
    shape: tuple[int, int, int],
    repeats: int,
    device: torch.device,
    threads: int,
    dtype: torch.dtype = torch.float32,
) -> Measurement:
    """Matrices (n, k) times (k, m), one product after the other on each thread: as training does it."""
    n, k, m = shape
    flops = 2.0 * n * k * m
    left, right = torch.randn(n, k, device=device, dtype=dtype), torch.randn(k, m, device=device, dtype=dtype)
    torch.mm(left, right)
    (once,) = seconds_of(lambda: torch.mm(left, right), 1, device)
    times = max(1, round(0.2 / once))

    def work(_: int = 0) -> None:
        out = torch.empty(n, m, device=device, dtype=dtype)
        for _ in range(times):
            torch.mm(left, right, out=out)

    pool = workers(threads)
    taken = seconds_of(lambda: list(pool.map(work, range(threads))), repeats, device)
    return rate(what, threads * times * flops / 1e9, "GFLOP/s", taken)
