"""How near to the limit mathllm is, for docs/performance.md: `python -m benchmarks.limits`.

Training: what a step's time goes to, on one thread. Decoding: the products of a token alone, and the fewest PyTorch
calls that compute one, beside ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare import CPU, our_trainer
from benchmarks.peers import our_config
from mathllm.bench import in_turns
from mathllm.config import build_config
from mathllm.data.batches import micro_batches, shares_by_length
from mathllm.evaluation.lengths import RANDOM, draw_length
from mathllm.formats import Walk, get_format
from mathllm.inference.engine import decode
from mathllm.model.transformer import Transformer
from mathllm.resolve import resolve
from mathllm.tasks import get_tasks
from mathllm.training.trainer import MICRO_BATCH_TOKENS

STEPS = 6
PROMPT, WRITTEN = 8, 32  # tokens
AGAIN = 20  # times that a token is computed in one timing
# events of PyTorch's profiler; those of a norm are counted with all that they call
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "norms": ("_RMSNorm", "_RMSNormBackward"),
}


def training() -> None:
    """Shares of the time of steps of `small` on the default data, with AdamW, and of padding."""
    train = {"batch_size": 128, "output_dir": "unused", "wandb": "off", "threads": 1}
    trainer = our_trainer(resolve(build_config({"train": train, "optim": {"optimizer": "adamw"}})))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer.train_step(0)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for step in range(1, STEPS):
            trainer.train_step(step)
    torch.set_num_threads(threads)
    events = {event.key: event for event in profiled.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values())
    print(f"training small on one thread, {STEPS - 1} steps")
    for kind, names in KINDS.items():
        timed = [events[name] for name in names if name in events]
        taken = sum(event.cpu_time_total if kind == "norms" else event.self_cpu_time_total for event in timed)
        print(f"  {kind:<20}{taken / total:>6.1%} of the time")
    real, computed = 0, 0
    for step in range(STEPS):
        problems = trainer.source.problems(step, trainer.rows_in_all)
        rendered = get_format(trainer.config.data.format).render(problems)
        for share in shares_by_length(rendered.lengths, threads):
            batches = micro_batches(
                rendered, share, len(rendered), MICRO_BATCH_TOKENS["cpu"], torch.device("cpu")
            )
            computed += sum(batch.inputs.numel() for batch in batches)
        real += int((rendered.lengths - 1).sum())
    print(f"  {'padding':<20}{1 - real / computed:>6.1%} of the tokens, on {threads} threads")


class BareLoop:
    """A token behind those of a cache, by the fewest calls: no modules, no sampling, no choice of anything.

    For models of `our_config`, whose norms' weights are still 1.
    """

    def __init__(self, model: Transformer, prompts: Tensor) -> None:
        self.model, (batch, self.past) = model, prompts.shape
        cache = model.make_cache(batch, self.past + 1)
        model(prompts, cache=cache)
        self.keys, self.values = cache.keys, cache.values
        self.weights = []
        for block in model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            inner = torch.cat([feed_forward.up.weight, feed_forward.gate.weight])
            maps = (attention.qkv.weight, attention.out.weight, inner, feed_forward.down.weight)
            self.weights.append(tuple(weight.t() for weight in maps))
        self.turns = model.positions.table[self.past]

    def products(self, ids: Tensor) -> Tensor:
        """The products alone: the numbers mean nothing."""
        x = self.model.embedding.weight[ids]
        width = x.shape[1]
        for qkv, out, inner, down in self.weights:
            x = torch.mm(torch.mm(x, qkv)[:, :width], out)
            x = torch.mm(torch.mm(x, inner)[:, : down.shape[0]], down)
        return x

    def token(self, ids: Tensor) -> Tensor:
        """Logits (B, V) behind ids (B)."""
        x = self.model.embedding.weight[ids]
        batch, width = x.shape
        heads, shape = self.model.heads, (width,)
        for layer, (qkv, out, inner, down) in enumerate(self.weights):
            mixed = torch.mm(F.rms_norm(x, shape), qkv).view(batch, 3 * heads, -1)
            pairs = torch.view_as_complex(mixed[:, : 2 * heads].unflatten(-1, (-1, 2)))
            turned = torch.view_as_real(pairs * self.turns).flatten(-2)
            keys, values = self.keys[layer], self.values[layer]
            keys[:, :, self.past], values[:, :, self.past] = turned[:, heads:], mixed[:, 2 * heads :]
            seen = F.scaled_dot_product_attention(turned[:, :heads, None], keys, values)
            x = torch.addmm(x, seen.reshape(batch, width), out)
            up, gate = torch.mm(F.rms_norm(x, shape), inner).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * up, down)
        return F.rms_norm(x, shape) @ self.model.head.weight.t()


def decoding(batch: int, repeats: int) -> None:
    """Milliseconds a token of `small`, in the middle of what `benchmarks.compare` has it write."""
    model = Transformer.from_config(our_config().model).eval()
    prompts = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (batch, PROMPT)))
    middle = prompts.repeat(1, 1 + WRITTEN // (2 * PROMPT))
    ids = prompts[:, 0]
    with torch.inference_mode():
        bare = BareLoop(model, middle)

        def again(work: Callable[[Tensor], Tensor]) -> Callable[[], None]:
            def run() -> None:
                for _ in range(AGAIN):
                    work(ids)

            return run

        ways: dict[str, Callable[[], object]] = {
            "products alone": again(bare.products),
            "bare loop": again(bare.token),
            "mathllm": lambda: list(decode(model, prompts, WRITTEN, stop=-1)),
        }
        times = in_turns(ways, repeats, CPU)
    print(f"decoding with small, batch {batch}, ms a token")
    for name, seconds in times.items():
        tokens = WRITTEN if name == "mathllm" else AGAIN
        print(
            f"  {name:<20}{1e3 * statistics.median(seconds) / tokens:>7.2f}  (least {1e3 * min(seconds) / tokens:.2f})"
        )


def following(rows: int = 256, digits: int = 512) -> None:
    """What a token costs beside the model: its coordinates, and what may follow it, at the end of long texts."""
    (addition,) = get_tasks("addition")
    problems = draw_length(addition, digits, RANDOM, rows)
    for name, zero_pad in (("reversed", False), ("column", False), ("slots", True)):
        format = get_format(name, zero_pad)
        ids = format.render(problems).ids
        walk = Walk(format, problems, ("place", "segment"))
        walk.read(ids[:, :-AGAIN])
        times = []
        for column in range(ids.shape[1] - AGAIN, ids.shape[1]):
            started = time.perf_counter()
            walk.push(ids[:, column])
            walk.allowed()
            times.append(time.perf_counter() - started)
        taken = 1e3 * statistics.median(times)
        print(f"following {rows} texts of {ids.shape[1]:,} tokens, {name}: {taken:.3f} ms a token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    following()
    training()
    decoding(1, options.repeats)
    decoding(256, options.repeats)


if __name__ == "__main__":
    main()
