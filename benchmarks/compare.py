"""Ratios of mathllm to other libraries, in one run: `python -m benchmarks.compare`.

Each comparison does the same work both ways, alternating, and tells the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import llama, our_config, padded, x_transformer
from mathllm.bench import Options, about, in_turns, share_of_peak
from mathllm.bench.machine import peak_work, thread_counts
from mathllm.config import Config
from mathllm.data.batches import IGNORED
from mathllm.data.sources import ProblemStream
from mathllm.formats import get_format
from mathllm.inference.engine import decode
from mathllm.model.transformer import Transformer
from mathllm.resolve import resolve
from mathllm.training.optim import make_optimizers
from mathllm.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
STEPS = 8  # of training, timed together
IN_BF16 = "training small, mathllm in bf16"
ROUNDED = {IN_BF16: ("mathllm", "transformers Trainer, bf16=True")}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

Rows = list[dict[str, list[int]]]


def rows_of_step(config: Config, step: int) -> Rows:
    """The rows of a training step as a user of other libraries would hold them."""
    problems = ProblemStream(config.data, config.train.seed).problems(step, config.train.batch_size)
    rendered = get_format(config.data.format).render(problems)
    rows = []
    for ids, length, prompt in zip(rendered.ids, rendered.lengths, rendered.prompt_lengths, strict=True):
        tokens = ids[:length].tolist()
        labels = [IGNORED] * int(prompt) + tokens[int(prompt) :]
        rows.append({"input_ids": tokens, "labels": labels, "attention_mask": [1] * len(tokens)})
    return rows


def check_same_loss(trainer: Trainer, peer: nn.Module, rows: Rows) -> None:
    """Both models give the same mean loss for the tokens of the completion."""
    with torch.no_grad():
        theirs = peer(**padded(rows)).loss.item()
        batch = padded(rows)
        logits = trainer.model(batch["input_ids"][:, :-1]).flatten(0, 1)
        ours = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=IGNORED).item()
    assert abs(ours - theirs) < 1e-3 * abs(ours), f"another model: loss {ours} and {theirs}"


def training(repeats: int) -> list[dict[str, Any]]:
    """Training steps on the default data: our loop, transformers' Trainer, and bare loops around either library; then
    ours and the Trainer with bf16 products."""
    config = resolve(our_config())
    ours, rounded = (
        our_trainer(config),
        our_trainer(replace(config, train=replace(config.train, precision="bf16"))),
    )
    data = [rows_of_step(config, step) for step in range(STEPS)]
    nn.init.normal_(ours.model.head.weight, std=0.02)  # it starts at zero, where every model would agree
    peer, other = llama(ours.model, config), x_transformer(config)
    check_same_loss(ours, peer, data[0])

    def x_loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = other(batch["input_ids"][:, :-1], mask=batch["attention_mask"][:, :-1].bool())
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)

    sections: dict[str, dict[str, Callable[[], object]]] = {
        "training small": {
            "mathllm": our_steps(ours),
            "transformers Trainer": their_trainer(peer, config, data),
            "transformers, bare loop": bare_loop(peer, config, data, lambda batch: peer(**batch).loss),
            "x-transformers, bare loop": bare_loop(other, config, data, x_loss),
        },
        IN_BF16: {
            "mathllm": our_steps(rounded),
            "transformers Trainer, bf16=True": their_trainer(peer, config, data, bf16=True),
            "transformers Trainer, fp32": their_trainer(peer, config, data),
        },
    }
    tokens = sum(len(row["input_ids"]) for rows in data for row in rows)
    found = []
    for what, ways in sections.items():
        precisions = {name: "bf16" if name in ROUNDED.get(what, ()) else "fp32" for name in ways}
        rates, limits = beside_peaks(ways, precisions, repeats, tokens)
        for name, row in rates.items():
            model = {"mathllm": ours.model, "x-transformers, bare loop": other}.get(name, peer)
            row["parameters"], row["precision"] = count(model), precisions[name]
            row |= share_of_peak(6e-9 * row["parameters"] * row["median"], limits[precisions[name]])
        found.append({"what": f"{what}, {STEPS} steps of {config.train.batch_size} rows", "ways": rates})
    return found


def beside_peaks(
    ways: dict[str, Callable[[], object]], precisions: dict[str, str], repeats: int, tokens: int
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Rates by way, and the peak of each precision in GFLOP/s: all measured in turns."""
    threads = thread_counts(CPU)[-1]
    peaks = {name: peak_work(CPU, threads, PRECISIONS[name]) for name in dict.fromkeys(precisions.values())}
    times = in_turns({**ways, **{name: peak.run for name, peak in peaks.items()}}, repeats, CPU)
    limits = {name: peak.gflop / statistics.median(times.pop(name)) for name, peak in peaks.items()}
    return summary(times, tokens, "tokens/s"), limits


def our_trainer(config: Config) -> Trainer:
    source = ProblemStream(config.data, config.train.seed)
    return Trainer(config, source, source.problems(0, 1), total_steps=10_000, device=CPU)


def our_steps(trainer: Trainer) -> Callable[[], None]:
    def run() -> None:
        for step in range(STEPS):
            trainer.train_step(step)

    return run


def their_trainer(
    peer: nn.Module, config: Config, data: list[Rows], bf16: bool = False
) -> Callable[[], None]:
    from transformers import Trainer as PeerTrainer
    from transformers import TrainingArguments

    def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            arguments = TrainingArguments(
                output_dir=directory,
                per_device_train_batch_size=config.train.batch_size,
                max_steps=STEPS,
                learning_rate=config.optim.learning_rate,
                bf16=bf16,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_strategy="no",
            )
            flat = [row for rows in data for row in rows]
            PeerTrainer(model=peer, args=arguments, train_dataset=flat, data_collator=padded).train()

    return run


def bare_loop(
    model: nn.Module,
    config: Config,
    data: list[Rows],
    loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
) -> Callable[[], None]:
    (optimizer,) = make_optimizers(model, "adamw", config.optim.learning_rate, 0.0, 0.0)

    def run() -> None:
        model.train()
        for rows in data:
            loss_of(padded(rows)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def decoding(batch: int, repeats: int, written: int = 32) -> dict[str, Any]:
    """Greedy decoding with a cache, the same weights and prompts; the tokens must be equal."""
    config = our_config()
    ours = Transformer.from_config(config.model).eval()
    nn.init.normal_(ours.head.weight, std=1.0)
    peer = llama(ours, config).eval()
    prompts = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (batch, 8)))
    texts: dict[str, torch.Tensor] = {}

    def with_ours() -> None:
        steps = [step.ids for step in decode(ours, prompts, written, stop=-1)]
        texts["mathllm"] = torch.stack(steps, 1)

    def with_theirs() -> None:
        mask = torch.ones_like(prompts)
        with torch.inference_mode():
            out = peer.generate(prompts, attention_mask=mask, max_new_tokens=written, do_sample=False)
        texts["transformers generate()"] = out[:, prompts.shape[1] :]

    times = in_turns({"mathllm": with_ours, "transformers generate()": with_theirs}, repeats, CPU)
    same = (texts["mathllm"] == texts["transformers generate()"]).all(1)
    # where two tokens all but tie, sums in another order choose another one
    assert same.float().mean() > 0.98, f"{int((~same).sum())} of {batch} texts differ"
    found = summary(times, batch * written, "tokens/s")
    found["mathllm"]["equal_texts"] = f"{int(same.sum())} of {batch}"
    return {"what": f"decoding with small, batch {batch}, {written} tokens", "ways": found}


def summary(times: dict[str, list[float]], amount: float, unit: str) -> dict[str, dict[str, Any]]:
    """Rates by way, and how many times as fast ours is as each."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        name: {
            "median": amount / medians[name],
            "low": amount / max(seconds),
            "high": amount / min(seconds),
            "unit": unit,
            "mathllm_times": medians[name] / medians["mathllm"],
        }
        for name, seconds in times.items()
    }


def beside_the_peak(row: dict[str, Any]) -> str:
    """The share of its precision's peak, or why there is none."""
    if "precision" not in row:
        return ""
    share = row.get("share_of_peak")
    return f"  {share:.0%} of the {row['precision']} peak" if share else f"  ({row['peak']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output-file", type=Path, default=RESULTS / "cpu.json")
    options = parser.parse_args()
    sections = [*training(options.repeats), decoding(1, options.repeats), decoding(256, options.repeats)]
    for section in sections:
        print(f"\n{section['what']}")
        for name, row in section["ways"].items():
            print(
                f"  {name:<32}{row['median']:>12,.0f} {row['unit']}  ({row['low']:,.0f} to {row['high']:,.0f})"
                f"  mathllm is {row['mathllm_times']:.2f} times as fast{beside_the_peak(row)}"
            )
    versions = {name: version(name) for name in ("transformers", "x-transformers", "accelerate")}
    document = {**about(Options()), **versions, "sections": sections}
    options.output_file.parent.mkdir(parents=True, exist_ok=True)
    options.output_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"\n{options.output_file}")


if __name__ == "__main__":
    main()
