"""Training steps of every size at several lengths: real tokens a second, and how near to the machine's limit."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import NamedTuple

from mathllm.bench import Measurement, Options, in_turns, rate, share_of_peak
from mathllm.bench.machine import peak_work, thread_counts
from mathllm.config import SIZES, Config, build_config
from mathllm.device import pick_device, pick_precision
from mathllm.evaluation.lengths import RANDOM, draw_length
from mathllm.resolve import resolve
from mathllm.tasks import TASKS, Problems
from mathllm.training.trainer import Trainer

# digits of the operands of `reversed` sums, by the tokens of their texts
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
    found = []
    for size in options.sizes or SIZES:
        first = 0.0  # seconds a FLOP at the shortest length
        for length in DIGITS:
            steps = training_step(size, length, options)
            shape = steps.config.model
            # scores and mixtures of a row of this length, forward and backward, half of them masked
            per_token = steps.parameters * 6 + 6.0 * shape.layers * shape.hidden * length
            measured = rate(f"{size}, {length} tokens a row", steps.tokens, "tokens/s", steps.times)
            cost = 1 / (measured.value * per_token)
            first = first or cost
            share = share_of_peak(6e-9 * steps.parameters * measured.value, steps.peak)
            found.append(replace(measured, more={**share, "cost_per_flop": cost / first}))
    return found


class Steps(NamedTuple):
    """Timed training steps: the model and its size, tokens of each step, and seconds of each; and the machine's peak
    between them, in GFLOP/s."""

    config: Config
    parameters: int
    tokens: float
    times: list[float]
    peak: float


def training_step(size: str, length: int, options: Options) -> Steps:
    model, data = {"size": size}, {"format": "reversed", "max_digits": DIGITS[length]}
    train = {"batch_size": TOKENS[size] // length, "output_dir": "unused", "wandb": "off"}
    config = build_config({"model": model, "data": data, "train": {**train, "device": options.device}})
    config, device = resolve(config), pick_device(options.device)
    source = SameLength(DIGITS[length])
    trainer = Trainer(config, source, source.problems(0, 1), total_steps=1000, device=device)
    done: list[int] = []
    limit = peak_work(device, thread_counts(device)[-1], pick_precision("auto", device))
    works = {"step": lambda: done.append(trainer.train_step(len(done))[1]), "peak": limit.run}
    times = in_turns(works, options.repeats, device)
    fastest = limit.gflop / statistics.median(times["peak"])
    return Steps(config, trainer.model.num_parameters, statistics.mean(done), times["step"], fastest)
