"""A model that really calculates, trained in two or three seconds, for every test that needs right answers.

    from trained import trained_checkpoint
    model = load_checkpoint(trained_checkpoint())  # column additions of one digit, all 100 right

It is trained once per test process and setting, in plain torch: tests of decoding do not need the trainer.
"""

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mathllm.checkpoint import save_model
from mathllm.config import DataConfig, ModelConfig
from mathllm.formats import get_format
from mathllm.math_model import MathModel
from mathllm.model.transformer import Transformer
from mathllm.models import Candidate, Models
from mathllm.tasks.expressions import parse_expressions
from mathllm.tokenizer import VOCAB_SIZE, encode

SURE = 0.02  # the loss of a whole row that is learned: the model gives 98% to all of it


@lru_cache
def trained_checkpoint(
    format: str = "column", task: str = "addition", zero_pad: bool = False, max_length: int = 32
) -> Path:
    """The directory of a model that knows all problems of one digit by heart, but for results below 0."""
    texts = [f"{a}+{b}" for a in range(10) for b in range(10)] if "addition" in task else []
    texts += [f"{a}-{b}" for a in range(10) for b in range(a + 1)] if "subtraction" in task else []
    rendered = get_format(format, zero_pad).render(parse_expressions(texts))
    ids = torch.from_numpy(rendered.ids.astype(np.int64))
    gold = ids.masked_fill(~torch.from_numpy(rendered.loss_mask), -1)[:, 1:]

    torch.set_num_threads(1)
    config = ModelConfig("nano", 1, 64, 4, feed_forward=128, max_length=max_length, position="learned")
    model = Transformer.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.015, weight_decay=0.0, fused=True)
    for _ in range(1000):
        logits = model(ids[:, :-1]).transpose(1, 2)  # (B, V, T)
        loss = F.cross_entropy(logits, gold, ignore_index=-1, reduction="none").sum(1)
        if loss.detach().max() < SURE:
            break
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"{format} {task} was not learned in 1,000 steps")
    # conftest gives each test process a home of its own, and removes it
    directory = Path(tempfile.mkdtemp(prefix=f"{format}-", dir=os.environ.get("HOME")))
    save_model(
        directory, model, config, DataConfig(task=task, format=format, zero_pad=zero_pad, max_digits=1)
    )
    return directory


def alone(model: MathModel) -> Models:
    """A model as the only one that can be chosen."""
    candidate = Candidate(model.path, None)
    candidate.model = model
    return Models([candidate], named=True)


class Parrot(torch.nn.Module):
    """Stands in for a model, and writes one text whatever it is asked: for what no trained model would write.

    `interrupt` raises KeyboardInterrupt at that token, as Ctrl-C would.
    """

    vocab_size = VOCAB_SIZE
    num_parameters, cache_bytes = 0, 1
    axes = ()  # it needs to be told nothing

    def __init__(self, text: str, max_length: int = 100, interrupt: int = -1) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB_SIZE, 1)
        self.script = encode(text).tolist()
        self.max_length, self.interrupt = max_length, interrupt
        self.reach: dict[str, int] = {}  # it looks at everything

    def make_cache(self, batch: int, max_length: int) -> "Parrot.Cursor":
        return Parrot.Cursor()

    def forward(
        self, tokens: torch.Tensor, coordinates: dict, cache: "Parrot.Cursor | None" = None
    ) -> torch.Tensor:
        cache = cache or Parrot.Cursor()
        if cache.written == self.interrupt:
            raise KeyboardInterrupt
        logits = torch.zeros(*tokens.shape, VOCAB_SIZE)
        logits[..., self.script[min(cache.written, len(self.script) - 1)]] = 9.0
        cache.written += 1
        return logits

    class Cursor:
        def __init__(self) -> None:
            self.written, self.length, self.reach = 0, 0, {}

        def keep(self, rows: torch.Tensor) -> None:
            pass


def parrot(text: str, max_length: int = 100, interrupt: int = -1, **data: Any) -> MathModel:
    """A Parrot that is said to be trained on problems like these (see DataConfig)."""
    model: Any = Parrot(text, max_length, interrupt)
    return MathModel(model, DataConfig(**data), Path("parrot"))
