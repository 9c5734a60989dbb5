"""Where a run reports to: metrics.jsonl and logs/training.log always, the terminal, and W&B when it is on."""

from __future__ import annotations

import json
import netrc
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mathllm.errors import MathLLMError, UsageError
from mathllm.files import explained, write_bytes
from mathllm.training.state import LOG, METRICS


class RunLog:
    """Everything that a run says, to all places at once. Use it as a context manager."""

    def __init__(
        self, run: Path, total_steps: int, start_step: int, console: Console, wandb_run: Any = None
    ) -> None:
        self.run, self.console, self.wandb_run = run, console, wandb_run
        with explained(f"write the logs of {run}"):
            _forget_after(run / METRICS, start_step)
            # without a buffer, so that no line is left to fail at the end
            self.metrics = open(run / METRICS, "ab", buffering=0)  # noqa: SIM115 (closed in __exit__)
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[shown]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task("train", total=total_steps, completed=start_step, shown="")
        self.latest: dict[str, float] = {}

    def __enter__(self) -> RunLog:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.metrics.close()
        if value is not None:
            with suppress(MathLLMError):  # the disk may be what is wrong
                note(self.run, f"{type(value).__name__}: {value}")
        if self.wandb_run is not None:
            self.wandb_run.finish(exit_code=0 if kind is None else 1)

    def say(self, text: str) -> None:
        """A line for people."""
        note(self.run, text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Numbers, named like `train/loss`."""
        with explained(f"write {self.run / METRICS}"):
            self.metrics.write(json.dumps({"step": step, **values}).encode() + b"\n")
        note(self.run, f"step {step} " + " ".join(f"{name}={value:.6g}" for name, value in values.items()))
        if self.wandb_run is not None:
            self.wandb_run.log(values, step=step)
        self.latest.update(values)
        self.progress.update(self.bar, completed=step, shown=self._shown())

    def _shown(self) -> str:
        # short, so that a terminal of 80 columns has room for it
        known = (
            ("train/loss", "loss {:.4f}", 1),
            ("val/exact_match", "match {:.2%}", 1),
            ("train/learning_rate", "lr {:.0e}", 1),
            ("perf/tokens_per_second", "{:,.0f}k tok/s", 1000),
        )
        return " ".join(
            text.format(self.latest[name] / unit) for name, text, unit in known if name in self.latest
        )


def note(run: Path, text: str) -> None:
    """A line of the run's logs/training.log."""
    path = run / LOG
    with explained(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n".encode())


def check_wandb(setting: str) -> str:
    """Why W&B stays off, or nothing if it is to be on. Never asks anything.

    `auto` uses W&B where an API key is at hand. Raises UsageError for `on` without one.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if setting == "off":
        return "W&B is off"
    if mode == "disabled":
        reason, hint = "W&B is switched off by WANDB_MODE=disabled", "unset WANDB_MODE"
    elif mode == "offline" or os.environ.get("WANDB_API_KEY") or _has_netrc_entry():
        return ""
    else:
        reason, hint = "W&B is not logged in", "wandb login, or set WANDB_API_KEY or WANDB_MODE=offline"
    if setting == "on":
        raise UsageError(reason, hint)
    return f"W&B is off ({reason.removeprefix('W&B is ')})"


def start_wandb(setting: str, run: Path, config: dict[str, Any]) -> tuple[Any, str]:
    """A W&B run if it is wanted and possible, and the line that says so."""
    off = check_wandb(setting)
    if off:
        return None, off
    import wandb

    try:
        wandb_run = wandb.init(project="mathllm", name=run.name, config=config, dir=str(run))
    except Exception as error:  # the network, the service, a key that is no longer valid: anything
        if setting == "on":
            raise MathLLMError(f"W&B cannot be used: {error}", "go on without it: --no-wandb") from error
        return None, f"W&B is off ({error})"
    return wandb_run, f"W&B logs to {wandb_run.url or run / 'wandb'}"


def _has_netrc_entry() -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _forget_after(path: Path, step: int) -> None:
    """Drops records past `step`: a resumed run goes through those steps again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut short
    write_bytes(path, "".join(line + "\n" for line in kept).encode())
