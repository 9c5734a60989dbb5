"""What hangs at the moments of every run: reports, to metrics.jsonl and logs/training.log always, the terminal, and W&B
when it is on; an average of the weights; and reasons to stop early."""

from __future__ import annotations

import copy
import json
import netrc
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mathllm.config import Config
from mathllm.errors import MathLLMError, UsageError, reason
from mathllm.evaluation.exact_match import Verdicts
from mathllm.files import explained, write_bytes
from mathllm.percent import percent
from mathllm.training.state import METRICS, note
from mathllm.training.trainer import Hook, Trainer


class Average(Hook):
    """Keeps an exponential moving average of the weights, in place of those in training.

    At first it forgets faster, or it would hold on to the untrained weights."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def built(self, trainer: Trainer) -> None:
        trainer.kept = copy.deepcopy(trainer.model)

    @torch.no_grad()
    def stepped(self, trainer: Trainer) -> None:
        step = trainer.progress.step  # from 1
        share = 1 - min(self.decay, step / (9 + step))
        torch._foreach_lerp_([*trainer.kept.parameters()], [*trainer.model.parameters()], share)


class EarlyStopping(Hook):
    """Ends a run at a share of validation that is right (0: never), or after `patience` evaluations without a better
    one (0: never)."""

    def __init__(self, target: float, patience: int) -> None:
        self.target, self.patience = target, patience

    def evaluated(self, trainer: Trainer, verdicts: Verdicts) -> str:
        if self.target and verdicts.answer_correct.mean() >= self.target:
            return "target"
        if self.patience and trainer.progress.evaluations_since_best >= self.patience:
            return "patience"
        return ""


def standard_hooks(config: Config) -> list[Hook]:
    """Those of a run that the settings describe."""
    train = config.train
    stopping = EarlyStopping(train.target_exact_match, train.patience)
    hooks: list[Hook] = [RunFiles(), ProgressBar(), WandB(train.wandb), stopping]
    return hooks + ([Average(config.optim.ema_decay)] if config.optim.ema_decay else [])


class RunFiles(Hook):
    """metrics.jsonl, and the same numbers in logs/training.log."""

    def started(self, trainer: Trainer) -> None:
        run = trainer.run_dir
        with explained(f"write the logs of {run}"):
            _forget_after(run / METRICS, trainer.progress.step)
            # without a buffer, so that no line is left to fail at the end
            self.metrics = open(run / METRICS, "ab", buffering=0)  # noqa: SIM115 (closed in `ended`)

    def logged(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        step = trainer.progress.step
        with explained(f"write {trainer.run_dir / METRICS}"):
            self.metrics.write(json.dumps({"step": step, **values}).encode() + b"\n")
        shown = " ".join(f"{name}={value:.6g}" for name, value in values.items())
        note(trainer.run_dir, f"step {step} {shown}")

    def ended(self, trainer: Trainer, error: BaseException | None) -> None:
        self.metrics.close()
        if error is not None:
            with suppress(MathLLMError):  # the disk may be what is wrong
                note(trainer.run_dir, f"{type(error).__name__}: {reason(error)}")


class ProgressBar(Hook):
    """The steps, and the latest numbers, on a terminal."""

    def started(self, trainer: Trainer) -> None:
        self.latest: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[shown]}"),
            console=trainer.console,
            disable=not trainer.console.is_terminal,
        )
        done, of = trainer.progress.step, trainer.total_steps
        self.bar = self.progress.add_task("train", total=of, completed=done, shown="")
        self.progress.start()

    def logged(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        self.latest.update(values)
        self.progress.update(self.bar, completed=trainer.progress.step, shown=shown(self.latest))

    def ended(self, trainer: Trainer, error: BaseException | None) -> None:
        self.progress.stop()


def shown(latest: Mapping[str, float]) -> str:
    """The numbers of a run, short, so that a terminal of 80 columns has room for them."""
    known: dict[str, Callable[[float], str]] = {
        "train/loss": lambda value: f"loss {value:.4f}",
        "val/exact_match": lambda value: f"match {percent(value)}",
        "train/learning_rate": lambda value: f"lr {value:.0e}",
        "perf/tokens_per_second": lambda value: f"{value / 1000:,.0f}k tok/s",
    }
    parts = [write(latest[name]) for name, write in known.items() if name in latest]
    # what an objective reports of its own
    own = [name for name in latest if name.startswith("train/") and name not in known]
    return " ".join(parts + [f"{name.removeprefix('train/')} {latest[name]:.3g}" for name in own])


class WandB(Hook):
    """Weights & Biases, where it is wanted and possible. Raises UsageError at once for `on` where it is not."""

    def __init__(self, setting: str) -> None:
        check_wandb(setting)
        self.setting = setting

    def started(self, trainer: Trainer) -> None:
        self.run, line = start_wandb(self.setting, trainer.run_dir, trainer.config.to_dict())
        trainer.say(line)

    def logged(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        if self.run is not None:
            self.run.log(dict(values), step=trainer.progress.step)

    def ended(self, trainer: Trainer, error: BaseException | None) -> None:
        if self.run is not None:
            self.run.finish(exit_code=0 if error is None else 1)


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
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut short
    write_bytes(path, "".join(line + "\n" for line in kept).encode())
