"""The only training loop. What a step learns is an objective's business, where problems come from a source's, and
what else happens at the moments of a run is that of hooks.

outcome = Trainer(config, source, validation, total_steps=1000, device=device, hooks=[...]).run()

Every step is a pure function of (seed, step) and of the state saved with a checkpoint, so a run that is
stopped and resumed gives the same weights, bit for bit on the CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from mathllm.config import Config
from mathllm.data.batches import shares_by_length
from mathllm.data.sources import Source, draws_of
from mathllm.device import autocast, pick_precision
from mathllm.errors import TrainingError, visible
from mathllm.evaluation.exact_match import Verdicts, judge
from mathllm.math_model import MathModel
from mathllm.model.linear import use_bf16
from mathllm.model.transformer import Transformer
from mathllm.percent import percent
from mathllm.prove.certificate import keep_proof
from mathllm.prove.proof import Proof, check_provable
from mathllm.tasks import Problems, concatenate
from mathllm.tasks.expressions import expressions
from mathllm.training import state
from mathllm.training.card import model_card
from mathllm.training.distributed import Processes
from mathllm.training.hard import HardProblems
from mathllm.training.objectives import Lesson, Moment, Room, make_objective
from mathllm.training.optim import make_optimizers, make_schedule
from mathllm.training.replicas import Replicas
from mathllm.training.window import Window

# on a CPU a micro-batch of this size keeps its activations in the cache; a GPU wants everything at once
MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 1 << 20}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `finished`, `signal`, or what a hook says (`target`, `patience`); exact match is on
    validation."""

    reason: str
    step: int
    best_step: int
    best_exact_match: float
    seconds: float
    signal: int = 0


class Hook:
    """The moments of a run, at each of which something else may happen: a hook overrides those that it is for.

    All but `built` come in the main process alone, which is the one that evaluates and writes.
    """

    def built(self, trainer: Trainer) -> None:
        """Model and optimizers are made, in every process; what a checkpoint holds is loaded after this."""

    def started(self, trainer: Trainer) -> None:
        """Before the first step. A hook that has got here gets to `ended` too, whatever happens."""

    def stepped(self, trainer: Trainer) -> None:
        """The weights have moved, and `trainer.progress` counts the step."""

    def logged(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """There are numbers, named like `train/loss`."""

    def evaluated(self, trainer: Trainer, verdicts: Verdicts) -> str:
        """Validation is judged, and the checkpoint kept if none was better. Returns why to end, or nothing."""
        return ""

    def saved(self, trainer: Trainer, checkpoint: Path) -> None:
        """A step checkpoint is whole on disk."""

    def ended(self, trainer: Trainer, error: BaseException | None) -> None:
        """After the last step and its checkpoint, or because of an error."""


class Trainer:
    """One run: makes the model, or takes up the one at `resume`, and trains it to the end.

    `kept` is the model that is evaluated and that checkpoints load: the trained one, unless a hook puts another
    there."""

    def __init__(
        self,
        config: Config,
        source: Source,
        validation: Problems,
        *,
        total_steps: int,
        device: torch.device,
        processes: Processes | None = None,
        console: Console | None = None,
        resume: Path | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.config, self.source, self.validation = config, source, validation
        self.total_steps, self.device = total_steps, device
        self.processes = processes or Processes()
        self.console = console or Console(stderr=True)
        self.run_dir = Path(config.train.output_dir)
        self.objective = make_objective(config.objective)
        self.model = self.kept = Transformer.from_config(config.model, config.train.seed).to(device)
        self.writer = MathModel(self.model, config.data)  # the one in training, with its format
        if config.train.init and resume is None:
            state.load_initial(config.train.init, config.model, self.model)
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
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        for hook in hooks:
            hook.built(self)
        self.parts = state.Parts(self.model, self.kept, self.optimizers, self.scaler)
        self.hooks = hooks if self.processes.main else ()
        self.progress = state.Progress()
        if resume is not None:
            self.progress = state.load_step(resume, config.model, self.parts)
        self.hard = HardProblems(config, source, self.progress.hard)
        if config.train.until_proved:
            check_provable(self.writer)
        self.shared: nn.Module = self.model  # with gradients averaged over all processes
        if self.processes.world > 1:
            devices = [device] if device.type == "cuda" else None
            self.shared = nn.parallel.DistributedDataParallel(self.model, device_ids=devices)
        # evaluation goes on with the plain model: a compiled one would be made anew for each width of a cache
        self.trained = compiled(self.shared) if config.train.compile else self.shared
        alone = self.processes.world == 1 and device.type == "cpu" and not config.train.compile
        self.replicas = Replicas(self.trained, max(1, config.train.threads) if alone else 1)
        self.stop_signal = 0
        self.saved_step = self.progress.step if resume is not None else -1
        self.proof: Proof | None = None  # of the weights as they are: then the run ends

    def run(self) -> Outcome:
        """Trains to the last step, a signal, or a hook's end; saves before it returns."""
        reason, progress = "", self.progress
        if self.processes.main:
            state.mend(self.run_dir, progress, self.config.train.keep)
        with self._hooked(), self._signals():
            if self.config.train.compile and self.processes.main:
                self.say("compiling: the first steps take long (on a CPU of two cores 12 to 95 seconds)")
            self.window = Window(progress.seconds)
            while progress.step < self.total_steps and not reason:
                self.window.add(*self.train_step(progress.step))
                progress.step += 1
                progress.rows += self.rows_in_all
                progress.seconds = self.window.seconds()
                for hook in self.hooks:
                    hook.stepped(self)
                reason = self._after_step()
            self._save()
        ended, best = reason or "finished", max(0.0, progress.best_exact_match)
        return Outcome(ended, progress.step, progress.best_step, best, progress.seconds, self.stop_signal)

    @property
    def rows_in_all(self) -> int:
        """Problems of a step, over all processes."""
        return self.config.train.batch_size * self.config.train.grad_accumulation * self.processes.world

    def train_step(self, step: int) -> tuple[dict[str, Tensor | float], int]:
        """One optimizer step, or none where the objective finds nothing to learn from.

        Returns this process's part of what there is to report, by name (`loss` in nats/token), and all texts' tokens.
        Every process prepares the whole batch and takes every world-th text, so that the parts add up to what one
        process with all of them would compute.
        """
        problems = self.hard.problems(step, self.rows_in_all)
        lesson = self.objective.prepare(self.writer, problems, self._moment(step, 0, 0, 1))
        report: dict[str, Tensor | float] = {}
        if counted := int(self.objective.scored(lesson.rendered).sum()):
            report |= self._learn(step, lesson, counted)
            self._update(step)
        # what is known of the whole batch is the same in every process
        report |= {name: value / self.processes.world for name, value in lesson.metrics.items()}
        return report, int(lesson.rendered.lengths.sum())

    def _learn(self, step: int, lesson: Lesson, counted: float) -> dict[str, Tensor]:
        """Gradients of a step's texts. Returns this process's part of the objective's sums, for each token counted."""
        rendered, world = lesson.rendered, self.processes.world
        told = self.writer.format.coordinates(rendered.problems, rendered.ids, self.model.axes)
        drawn = self.model.positions.draw(told, rendered.ids.shape, draws_of(self.config.train.seed, step))
        lesson = replace(lesson, coordinates={**told, **drawn})
        rows = np.arange(self.processes.rank, len(rendered), world)
        if len(rows) == 0:  # the others wait for its gradients: it gives zeros
            rows, counted = np.arange(1), math.inf
        shares = shares_by_length(rendered.lengths[rows], len(self.replicas.models))
        room = Room(self.config.train.batch_size, MICRO_BATCH_TOKENS[self.device.type], self.device)

        def learn(model: nn.Module, number: int) -> dict[str, Tensor]:
            batches = list(self.objective.batches(lesson, rows[shares[number]], room))
            moment = self._moment(step, self.processes.rank, number)
            totals = {"loss": torch.zeros((), device=self.device)}
            for index, batch in enumerate(batches):
                with self._gradients_shared(index == len(batches) - 1):
                    with autocast(self.device, self.dtype):
                        sums = self.objective.loss(model, batch, moment)
                        parts = {name: value / counted for name, value in sums.items()}
                    # processes average their gradients, but the parts of the loss add up
                    self.scaler.scale(parts["loss"] * world).backward()
                for name, part in parts.items():
                    totals[name] = totals.get(name, 0) + part.detach()
            return totals

        found = self.replicas.run(learn)
        names = {name: None for totals in found for name in totals}
        return {name: torch.stack([each[name] for each in found if name in each]).sum() for name in names}

    def _moment(self, step: int, *who: int) -> Moment:
        """The step for a process and a thread of it, or for all of them together, with random numbers of its own."""
        seeds = np.random.SeedSequence([self.config.train.seed, step, *who])
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        return Moment(step, step / self.total_steps, generator)

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

    def _after_step(self) -> str:
        """Reports, evaluates and saves where it is time to. Returns why the run should end, or nothing.

        All processes come to the same decisions here, or they would wait for each other for ever.
        """
        train, step = self.config.train, self.progress.step
        # a signal may have reached only one of them, and one that comes while they confer must not be lost
        stop = self.processes.highest(self.stop_signal)
        if stop:
            self.stop_signal = stop
        evaluate = step % train.eval_steps == 0 or step == self.total_steps
        save = step % train.save_steps == 0
        hunt = train.hunt_steps and step % train.hunt_steps == 0 and step >= self.config.data.curriculum_steps
        if step % train.logging_steps == 0 or evaluate or save or hunt or stop:
            self._report()
        proved = ""
        if hunt:  # first, as what it finds is saved
            self.progress.hard, proved = self.processes.agree(self._hunt)
            self.hard.learn(self.progress.hard)
            evaluate |= bool(proved)
        reason = ""
        if evaluate:
            reason = self.processes.agree(self._evaluate)
        if save:
            self._save()
        if evaluate or save or hunt:
            self.window.restart()  # evaluating and saving are not training
        return "signal" if stop else proved or reason

    def _report(self) -> None:
        """Logs means since the last report. Raises TrainingError where the loss, or a weight, is not finite."""
        means = {name: self.processes.sum(mean) for name, mean in self.window.means().items()}
        loss = means.get("loss", 0.0)
        if not (math.isfinite(loss) and torch.nn.utils.get_total_norm(self.model.parameters()).isfinite()):
            problem = "some weights are not numbers" if math.isfinite(loss) else f"the loss is {loss}"
            # none is written without a look at the weights
            good = state.newest(self.run_dir)
            where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            raise TrainingError(
                f"{problem} at step {self.progress.step}: {where}",
                "lower --learning-rate (or --set optim.muon_learning_rate=...), or lengthen --warmup-steps",
            )
        rate = self.optimizers[-1].param_groups[0]["lr"]
        speed = self.window.tokens_per_second()
        values = {f"train/{name}": mean for name, mean in means.items()}
        self.log({**values, "train/learning_rate": rate, "perf/tokens_per_second": speed})
        self.window.restart()

    def _evaluate(self) -> str:
        """Exact match on validation; keeps the checkpoint if none was better. Returns why to end, or nothing."""
        progress = self.progress
        model = MathModel(self.kept, self.config.data)
        verdicts = judge(model, self.validation, batch_size=self.config.train.eval_batch_size)
        correct = int(verdicts.answer_correct.sum())
        exact_match = float(verdicts.answer_correct.mean())
        token_accuracy = float(verdicts.token_hits.sum() / verdicts.token_counts.sum())
        values = {"val/exact_match": exact_match, "val/token_accuracy": token_accuracy}
        self.log({**values, "perf/seconds": progress.seconds})
        better = exact_match > progress.best_exact_match
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        if exact_match >= progress.best_exact_match:  # of equals the later: it has seen more
            progress.best_exact_match, progress.best_step = exact_match, progress.step
            progress.best_correct, progress.validation_examples = correct, len(verdicts)
            self._save()
            state.mark_best(self.run_dir, self.run_dir / f"checkpoint-{progress.step}")
            state.prune(self.run_dir, progress.step, self.config.train.keep)
        right = f"{correct:,} of {len(verdicts):,}"
        self.say(f"step {progress.step}: exact match {percent(exact_match)} ({right}) on validation")
        reasons = [hook.evaluated(self, verdicts) for hook in self.hooks]
        return next(filter(None, reasons), "")

    def _hunt(self) -> tuple[str, str]:
        """Problems that the model gets wrong, or nearly, one a line; and why to end, or nothing."""
        model = MathModel(self.kept, self.config.data)
        found = self.hard.search(model, self.progress.step)
        wrong, hard = int((found.leads <= 0).sum()), found.problems
        self.log({"hunt/wrong": float(wrong), "hunt/lead": float(found.leads[0])})
        if self.config.train.until_proved and not wrong:
            proof, weak = self.hard.prove(model)
            if proof is not None and proof.holds:
                self.proof = proof
                cases = f"{proof.configurations:,} local configurations right"
                self.say(f"step {self.progress.step}: proved, {cases}, smallest lead {proof.lead:.2f} logits")
                return "\n".join(expressions(hard)), "proved"
            self.say(
                f"step {self.progress.step}: not proved, {proof.obstacle if proof else 'some cases are wrong'}"
            )
            hard = concatenate([hard, weak])
        return "\n".join(expressions(hard)), ""

    def _save(self) -> None:
        if not self.processes.main or self.saved_step == self.progress.step:
            return
        card = model_card(self.config, self.model.num_parameters, self.progress)
        path = state.save_step(self.run_dir, self.config, self.parts, progress=self.progress, card=card)
        if self.proof is not None:
            keep_proof(MathModel(self.kept, self.config.data, path), self.proof)
        self.saved_step = self.progress.step
        state.prune(self.run_dir, self.progress.step, self.config.train.keep)
        for hook in self.hooks:
            hook.saved(self, path)

    def say(self, text: str) -> None:
        """A line for people, on the terminal and in the run's log."""
        text = visible(text)
        state.note(self.run_dir, text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def log(self, values: Mapping[str, float]) -> None:
        """Numbers of this step, named like `train/loss`, for whoever keeps or shows them."""
        for hook in self.hooks:
            hook.logged(self, values)

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        """The hooks' first moment, and the last for all that had the first."""
        started: list[Hook] = []
        error: BaseException | None = None
        try:
            for hook in self.hooks:
                hook.started(self)
                started.append(hook)
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            for hook in started:
                hook.ended(self, error)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Lets a step finish on Ctrl-C or SIGTERM, so that it can be saved; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.stop_signal = number
            # a second SIGTERM waits for nothing, not even for the operation that Python is in
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else before[number])
            if self.processes.main:
                with contextlib.suppress(RuntimeError):  # it has come in the middle of another line
                    self.console.print("stopping after this step; again to stop now", highlight=False)

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


def compiled(model: nn.Module) -> nn.Module:
    """The model by torch.compile, which warns of every turn in the complex plane that it leaves as it is."""
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    return cast(nn.Module, torch.compile(model))
