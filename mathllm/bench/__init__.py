"""How fast is this machine, and how close to its limits does mathllm get? One file per section.

A section runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from mathllm import __version__
from mathllm.device import describe, pick_device
from mathllm.errors import MathLLMError, TrainingError

ALWAYS = ("machine", "data", "training", "decoding", "evaluation")
# where sizes and recipes count
OF_SIZES, OF_RECIPES = ("machine", "training", "decoding"), ("target",)
SECTIONS = (*ALWAYS, "target")  # the last one trains for minutes: only when it is asked for


@dataclass(frozen=True)
class Options:
    """What to measure on. `sizes` empty are those that a section has of its own; `repeats` is how often each piece of
    work is timed, after one run that is not."""

    device: str = "auto"
    sizes: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ("demo",)
    repeats: int = 5


@dataclass(frozen=True)
class Measurement:
    """The median of repeated runs, the lowest and the highest of them, and what else is to be said."""

    what: str
    value: float
    unit: str
    low: float
    high: float
    repeats: int
    more: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class SectionResult:
    """The measurements of one section and the most memory that it took, in bytes: of the process, or of the GPU."""

    section: str
    measurements: list[Measurement]
    peak_bytes: int
    seconds: float


def seconds_of(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Wall-clock seconds of each run of some work, after one run that is not timed."""
    return in_turns({"": work}, repeats, device)[""]


def in_turns(
    works: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Wall-clock seconds of each run of several pieces of work, after one round that is not timed. They take turns,
    so that what else the machine is busy with slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            wait_for(device)
            started = time.perf_counter()
            work()
            wait_for(device)
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def share_of_peak(speed: float, peak: float) -> dict[str, float | str]:
    """What there is to say of a speed beside the highest that there can be, as remarks of a measurement. None is above
    that, so one that seems to be tells of a machine that was busy with something else."""
    return (
        {"share_of_peak": speed / peak}
        if speed <= peak
        else {"peak": "too busy a machine for a share of its peak"}
    )


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(what: str, amount: float, unit: str, times: Sequence[float], **more: float | str) -> Measurement:
    """So much work in each of these times, as a rate a second."""
    rates = [amount / seconds for seconds in times]
    return Measurement(what, statistics.median(rates), unit, min(rates), max(rates), len(times), dict(more))


def run_section(section: str, options: Options) -> SectionResult:
    """Measures one section in a new process. Raises what went wrong there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(section, options, there))
    process.start()
    there.close()
    try:
        result: SectionResult | MathLLMError = here.recv()
    except EOFError:
        process.join()
        raise TrainingError(
            f"the measurement of {section} ended with code {process.exitcode}", "was there enough memory?"
        ) from None
    finally:
        process.join(1)
        if process.is_alive():
            process.terminate()
            process.join(10)
            process.kill()
    if isinstance(result, MathLLMError):
        raise result
    return result


def _work(section: str, options: Options, pipe: Connection) -> None:
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that temporary files go
    try:
        measure: Callable[[Options], list[Measurement]] = import_module(f"mathllm.bench.{section}").measure
        measurements = measure(options)
        pipe.send(SectionResult(section, measurements, _peak_bytes(options), time.perf_counter() - started))
    except MathLLMError as error:
        pipe.send(error)
    except (KeyboardInterrupt, SystemExit):  # the parent has been told, too
        pass
    except Exception as error:
        pipe.send(TrainingError(f"the measurement of {section} failed: {error!r}"))


def _peak_bytes(options: Options) -> int:
    device = pick_device(options.device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def about(options: Options) -> dict[str, str | int | None]:
    """What was measured on: machine, versions, threads, commit."""
    return {
        "machine": describe(pick_device(options.device)),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mathllm": __version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """Of the checkout that this package lies in, with a + where files have changed since; None outside of one."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
