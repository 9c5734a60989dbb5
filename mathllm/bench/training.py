"""Training steps of every size at several lengths: real tokens a second, and how near to the machine's limit."""

from __future__ import annotations

import statistics

from mathllm.bench.machine import peak, thread_counts
from mathllm.bench.measure import Measurement, Options, rate, seconds_of
from mathllm.config import Config, build_config
from mathllm.device import pick_device, pick_precision
from mathllm.evaluation.lengths import RANDOM, draw_length
from mathllm.resolve import resolve
from mathllm.tasks import TASKS, Problems
from mathllm.training.trainer import Trainer

# digits of the operands of `reversed` sums that take so many tokens
DIGITS = {16: 4, 64: 20, 256: 84}
# tokens of a step: about a second each on two slow cores
TOKENS = {"nano": 1 << 15, "small": 1 << 13, "medium": 1 << 12, "large": 1 << 12}


class SameLength:
    """A source of sums whose operands have one number of digits."""

    def __init__(self, digits: int) -> None:
        self.digits = digits

    def problems(self, step: int, n: int) -> Problems:
        return draw_length(TASKS[0], self.digits, RANDOM, n, seed=step)


def measure(options: Options) -> list[Measurement]:
    device = pick_device(options.device)
    dtype = pick_precision("auto", device)
    limit = 1e9 * peak(options.repeats, device, thread_counts(device)[-1], dtype).value
    found = []
    for size in options.sizes:
        first = 0.0  # seconds a FLOP at the shortest length
        for length in DIGITS:
            steps = training_step(size, length, options)
            per_token = steps.parameters * 6 + attention_flops(steps.config, length)
            measured = rate(f"{size}, {length} tokens a row", steps.tokens, "tokens/s", steps.times)
            cost = 1 / (measured.value * per_token)
            first = first or cost
            more: dict[str, float | str] = {
                "share_of_peak": 6 * steps.parameters * measured.value / limit,
                "cost_per_flop": cost / first,
            }
            found.append(Measurement(**{**vars(measured), "more": more}))
    return found


class Steps:
    """Timed training steps: tokens of each, seconds of each, and the model."""

    def __init__(self, trainer: Trainer, repeats: int) -> None:
        self.config, self.parameters = trainer.config, trainer.model.num_parameters
        done: list[int] = []

        def step() -> None:
            done.append(trainer.train_step(len(done))[1])

        self.times = seconds_of(step, repeats, trainer.device)
        self.tokens = statistics.mean(done)


def training_step(size: str, length: int, options: Options) -> Steps:
    digits = DIGITS[length]
    data = {"format": "reversed", "max_digits": digits}
    train = {"batch_size": TOKENS[size] // length, "output_dir": "unused", "wandb": "off"}
    model = {"size": size}
    config = resolve(
        build_config({"model": model, "data": data, "train": {**train, "device": options.device}})
    )
    source = SameLength(digits)
    device = pick_device(options.device)
    trainer = Trainer(config, source, source.problems(0, 1), total_steps=1000, device=device)
    return Steps(trainer, options.repeats)


def attention_flops(config: Config, length: int) -> float:
    """FLOPs of scores and mixtures for a token of a row of this length, forward and backward, half of them masked."""
    return 6.0 * config.model.layers * config.model.hidden * length
