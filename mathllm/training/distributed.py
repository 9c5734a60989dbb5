"""Several processes, one model: what `torchrun` sets up, and nothing at all without it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mathllm.errors import DeviceError, MathLLMError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's rank among `world` ones."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def _reduced(self, value: Tensor | float, dtype: torch.dtype, operation: Any) -> Tensor | float:
        if self.world == 1:
            return value
        # numbers that processes exchange have to be where their backend is
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        result = torch.as_tensor(value, dtype=dtype, device=device)
        dist.all_reduce(result, op=operation)
        return result

    def highest(self, value: int) -> int:
        """The highest of all processes' numbers. All of them have to ask."""
        return int(self._reduced(value, torch.int64, dist.ReduceOp.MAX))

    def sum(self, value: Tensor | float) -> float:
        """The sum of a number over all processes. All of them have to ask."""
        return float(self._reduced(value, torch.float32, dist.ReduceOp.SUM))

    def agree(self, find: Callable[[], T]) -> T:
        """What the main process finds, or the MathLLMError that it meets, in every process. All of them have to ask."""
        found: list[Any] = [None, None]
        if self.main:
            try:
                found[0] = find()
            except MathLLMError as error:
                found[1] = error
        if self.world > 1:
            dist.broadcast_object_list(found)
        if found[1] is not None:
            raise found[1]
        said: T = found[0]
        return said

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


def is_main() -> bool:
    """Is this the only process, or the first of those that `torchrun` started?"""
    return os.environ.get("RANK", "0") == "0"


def join(device: torch.device) -> tuple[Processes, torch.device]:
    """Joins the processes that `torchrun` started; each takes its own CUDA device where there is CUDA."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(), device
    if device.type == "cuda":
        local_rank, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= devices:
            raise DeviceError(
                f"there are more processes than this machine's {devices} CUDA device(s)",
                f"torchrun --nproc-per-node {devices}, or --device cpu",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size()), device


def leave() -> None:
    """Ends the process group, if there is one."""
    if dist.is_initialized():
        # gloo's thread takes Python's lock to let go of the last tensors, and whoever frees the group's last owner
        # (in an error, at once) waits for that thread with the lock held, for ever: so the thread goes first
        time.sleep(0.2)
        dist.destroy_process_group()
