"""The only training loop. What a step learns is an objective's business, where problems come from a source's.

outcome = Trainer(config, source, validation, total_steps, device).run()

Every step is a pure function of (seed, step) and of the state saved with a checkpoint, so a run that is
stopped and resumed gives the same weights, bit for bit on the CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from mathllm.config import Config
from mathllm.data.batches import shares_by_length
from mathllm.data.sources import Source, draws_of
from mathllm.device import autocast, pick_precision
from mathllm.errors import TrainingError
from mathllm.evaluation.exact_match import judge
from mathllm.formats import get_format
from mathllm.model import Transformer
from mathllm.model.linear import use_bf16
from mathllm.tasks import Problems
from mathllm.training.card import model_card
from mathllm.training.distributed import Processes, wrap
from mathllm.training.loggers import RunLog, check_wandb, start_wandb
from mathllm.training.objectives import Moment, make_objective
from mathllm.training.optim import make_optimizers, make_schedule, move_average
from mathllm.training.replicas import Replicas
from mathllm.training.state import Progress, load_step, mark_best, mend, newest, prune, save_step

# on a CPU a micro-batch of this size keeps its activations in the cache; a GPU wants everything at once
MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 1 << 20}

# what an evaluation can say about how to go on: nothing, or why to end
VERDICTS = ("", "target", "patience")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `finished`, `target`, `patience` or `signal`; exact match is on validation."""

    reason: str
    step: int
    best_step: int
    best_exact_match: float
    seconds: float
    signal: int = 0


class Trainer:
    """One run: makes the model, or takes up the one at `resume`, and trains it to the end."""

    def __init__(
        self,
        config: Config,
        source: Source,
        validation: Problems,
        total_steps: int,
        device: torch.device,
        processes: Processes | None = None,
        console: Console | None = None,
        resume: Path | None = None,
    ) -> None:
        self.config, self.source, self.validation = config, source, validation
        self.total_steps, self.device = total_steps, device
        self.processes = processes or Processes()
        self.console = console or Console(stderr=True)
        self.run_dir = Path(config.train.output_dir)
        self.notation = get_format(config.data.format, config.data.zero_pad, config.data.thought_length)
        self.objective = make_objective(config.objective)
        self.model = Transformer.from_config(config.model, config.train.seed).to(device)
        optim = config.optim
        self.optimizers = make_optimizers(
            self.model, optim.optimizer, optim.learning_rate, optim.muon_learning_rate, optim.weight_decay
        )
        self.schedule = make_schedule(optim.schedule, optim.warmup_steps, total_steps)
        self.base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.dtype = pick_precision(config.train.precision, device)  # of autocast
        if device.type == "cpu" and self.dtype == torch.bfloat16:
            use_bf16(self.model)
            self.dtype = torch.float32
        check_wandb(config.train.wandb)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        self.average = copy.deepcopy(self.model) if optim.ema_decay else None
        if resume is not None:
            state = self.model, self.optimizers, self.scaler
            self.progress = load_step(resume, config.model, *state, self.average)
        self.shared = wrap(self.model, self.processes, device)
        # evaluation goes on with the plain model: a compiled one would be made anew for each width of a cache
        self.trained = cast(nn.Module, torch.compile(self.shared)) if config.train.compile else self.shared
        alone = self.processes.world == 1 and device.type == "cpu" and not config.train.compile
        self.replicas = Replicas(self.trained, max(1, config.train.threads) if alone else 1)
        self.stop_signal = 0
        self.saved_step = self.progress.step if resume is not None else -1

    def run(self) -> Outcome:
        """Trains to the last step, the target, the end of patience, or a signal; saves before it returns."""
        reason, progress = "", self.progress
        if self.processes.main:
            mend(self.run_dir, progress, self.config.train.keep)
        with self._log() as log, self._signals():
            self.window = Window(progress.seconds)
            while progress.step < self.total_steps and not reason:
                self.window.add(*self.train_step(progress.step))
                progress.step += 1
                progress.rows += self.rows_in_all
                progress.seconds = self.window.seconds()
                reason = self._after_step(log)
            self._save(log)
        return Outcome(
            reason or "finished",
            progress.step,
            progress.best_step,
            max(0.0, progress.best_exact_match),
            progress.seconds,
            self.stop_signal,
        )

    @property
    def rows_in_all(self) -> int:
        """Rows of a step, over all processes."""
        return self.config.train.batch_size * self.config.train.grad_accumulation * self.processes.world

    def train_step(self, step: int) -> tuple[Tensor, int]:
        """One optimizer step. Returns this process's part of the mean loss (nats/token) and all rows' tokens.

        Every process makes the whole batch and takes every world-th row, so that the parts add up to what one
        process with all rows would compute.
        """
        rendered = self.notation.render(self.source.problems(step, self.rows_in_all))
        told = self.notation.coordinates(rendered.ids, self.model.axes)
        draws = draws_of(self.config.train.seed, step)
        coordinates = told | self.model.positions.draw(told, rendered.ids.shape, draws)
        counted = int(self.objective.scored(rendered).sum())
        rows = np.arange(self.processes.rank, self.rows_in_all, self.processes.world)
        shares = shares_by_length(rendered.lengths[rows], len(self.replicas.models))
        most = self.config.train.batch_size, MICRO_BATCH_TOKENS[self.device.type]

        def learn(model: nn.Module, number: int) -> Tensor:
            own = rows[shares[number]]
            batches = list(self.objective.batches(rendered, own, *most, self.device, coordinates))
            seed = [self.config.train.seed, step, self.processes.rank, number]
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            moment = Moment(step, step / self.total_steps, generator)
            total = torch.zeros((), device=self.device)
            for index, batch in enumerate(batches):
                with self._gradients_shared(index == len(batches) - 1):
                    with autocast(self.device, self.dtype):
                        loss = self.objective.loss(model, batch, moment) / counted
                    # processes average their gradients, but the parts of the loss add up
                    self.scaler.scale(loss * self.processes.world).backward()
                total += loss.detach()
            return total

        total = torch.stack(self.replicas.run(learn)).sum()
        self._update(step)
        return total, int(rendered.lengths.sum())

    def _update(self, step: int) -> None:
        """Clips the gradients and moves the weights at this step's learning rate."""
        factor = self.schedule(step)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            self.scaler.unscale_(optimizer)
        clip = self.config.optim.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        # one overflow in fp16 spoils the norm, and with it all gradients: then neither optimizer may move
        if not self.scaler.is_enabled() or norm.isfinite():
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.average is not None:
            move_average(self.average, self.model, self.config.optim.ema_decay, step)

    def _after_step(self, log: RunLog | None) -> str:
        """Logs, evaluates and saves where it is time to. Returns why the run should end, or nothing.

        All processes come to the same decisions here, or they would wait for each other for ever.
        """
        train, step = self.config.train, self.progress.step
        # a signal may have reached only one of them, and one that comes while they confer must not be lost
        stop = self.processes.highest(self.stop_signal)
        if stop:
            self.stop_signal = stop
        evaluate = step % train.eval_steps == 0 or step == self.total_steps
        save = step % train.save_steps == 0
        if step % train.logging_steps == 0 or evaluate or save or stop:
            self._report(log)
        verdict = ""
        if evaluate:
            own = self._evaluate(log) if log else ""
            verdict = VERDICTS[self.processes.highest(VERDICTS.index(own))]
        if save:
            self._save(log)
        if evaluate or save:
            self.window.restart()  # evaluating and saving are not training
        return "signal" if stop else verdict

    def _report(self, log: RunLog | None) -> None:
        """Logs the loss since the last report. Raises TrainingError where it, or a weight, is not finite."""
        loss = self.processes.sum(self.window.loss / self.window.steps)
        if not (math.isfinite(loss) and torch.nn.utils.get_total_norm(self.model.parameters()).isfinite()):
            self._give_up(loss)
        if log:
            rate = self.optimizers[-1].param_groups[0]["lr"]
            speed = {"perf/tokens_per_second": self.window.tokens_per_second()}
            log.log(self.progress.step, {"train/loss": loss, "train/learning_rate": rate, **speed})
        self.window.restart()

    def _give_up(self, loss: float) -> NoReturn:
        problem = "some weights are not numbers" if math.isfinite(loss) else f"the loss is {loss}"
        # none is written without a look at the weights
        good = newest(self.run_dir)
        where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        raise TrainingError(
            f"{problem} at step {self.progress.step}: {where}",
            "lower --learning-rate (or --set optim.muon_learning_rate=...), or lengthen --warmup-steps",
        )

    def _evaluate(self, log: RunLog) -> str:
        """Exact match on validation; keeps the checkpoint if none was better. Returns one of VERDICTS."""
        train, progress = self.config.train, self.progress
        model = self.average or self.model
        verdicts = judge(model, self.notation, self.validation, train.eval_batch_size)
        exact_match = float(verdicts.answer_correct.mean())
        token_accuracy = float(verdicts.token_hits.sum() / verdicts.token_counts.sum())
        values = {"val/exact_match": exact_match, "val/token_accuracy": token_accuracy}
        log.log(progress.step, {**values, "perf/seconds": progress.seconds})
        if exact_match >= progress.best_exact_match:  # of equals the later: it has seen more
            better = exact_match > progress.best_exact_match
            progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
            progress.best_exact_match, progress.best_step = exact_match, progress.step
            progress.best_correct = int(verdicts.answer_correct.sum())
            progress.validation_examples = len(verdicts)
            self._save(log)
            mark_best(self.run_dir, self.run_dir / f"checkpoint-{progress.step}")
            prune(self.run_dir, train.keep)
        else:
            progress.evaluations_since_best += 1
        right = f"{int(verdicts.answer_correct.sum()):,} of {len(verdicts):,}"
        log.say(f"step {progress.step}: exact match {exact_match:.2%} ({right}) on validation")
        if train.target_exact_match and exact_match >= train.target_exact_match:
            return "target"
        if train.patience and progress.evaluations_since_best >= train.patience:
            return "patience"
        return ""

    def _save(self, log: RunLog | None) -> None:
        if log is None or self.saved_step == self.progress.step:
            return
        card = model_card(self.config, self.model.num_parameters, self.progress)
        state = self.model, self.optimizers, self.scaler, self.progress
        save_step(self.run_dir, self.config, *state, card, self.average)
        self.saved_step = self.progress.step
        prune(self.run_dir, self.config.train.keep)

    @contextlib.contextmanager
    def _log(self) -> Iterator[RunLog | None]:
        """The run's log in the main process, None in the others."""
        if not self.processes.main:
            yield None
            return
        wandb_run, line = start_wandb(self.config.train.wandb, self.run_dir, self.config.to_dict())
        with RunLog(self.run_dir, self.total_steps, self.progress.step, self.console, wandb_run) as log:
            log.say(line)
            yield log

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Lets a step finish on Ctrl-C or SIGTERM, so that it can be saved; a second signal ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.stop_signal = number
            signal.signal(number, before[number])

        before = {int(number): signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _gradients_shared(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once a step, with the last micro-batch."""
        if last or not isinstance(self.shared, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.shared.no_sync()


class Window:
    """Loss, tokens and time since the last report, and the time of the whole run."""

    def __init__(self, seconds_before: float) -> None:
        self.run_started = time.perf_counter() - seconds_before
        self.restart()

    def restart(self) -> None:
        self.loss: Tensor | float = 0.0
        self.tokens, self.steps, self.started = 0, 0, time.perf_counter()

    def add(self, loss: Tensor, tokens: int) -> None:
        # added up where it is: reading it would make a GPU wait at every step
        self.loss, self.tokens, self.steps = loss + self.loss, self.tokens + tokens, self.steps + 1

    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, time.perf_counter() - self.started)

    def seconds(self) -> float:
        return time.perf_counter() - self.run_started
