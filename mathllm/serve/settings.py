"""How a server runs. Nothing here needs PyTorch, so that the command is quick to begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True)
class Settings:
    """How a server runs; see `mathllm serve --help`."""

    models: Mapping[str, Path]
    max_queue: int = 128
    max_queue_tokens: int = 131_072
    max_tokens: int = 2048
    deadline: float = 30.0
    drain_timeout: float = 30.0
    threads: int = 1
    keys: Sequence[str] = ()
    admin_key: str = ""
    hosts: Sequence[str] = LOOPBACK
    origins: Sequence[str] = ()
    rate: float = 0.0
    log_problems: bool = False
    watch: bool = False
