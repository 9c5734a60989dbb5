"""What hangs at the moments of every run: reports, an average of the weights, and reasons to stop early."""

from __future__ import annotations

import copy

from mathllm.config import Config
from mathllm.evaluation.exact_match import Verdicts
from mathllm.training.loggers import ProgressBar, RunFiles, WandB
from mathllm.training.optim import move_average
from mathllm.training.trainer import Hook, Trainer


class Average(Hook):
    """Keeps an exponential moving average of the weights, in place of those in training."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def built(self, trainer: Trainer) -> None:
        trainer.kept = copy.deepcopy(trainer.model)

    def stepped(self, trainer: Trainer) -> None:
        move_average(trainer.kept, trainer.model, self.decay, trainer.progress.step - 1)


class EarlyStopping(Hook):
    """Ends a run at a share of validation that is right (0: never), or after so many evaluations without a better one
    (0: never)."""

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
