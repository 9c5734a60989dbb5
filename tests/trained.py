"""A model that really calculates, trained in two or three seconds, for every test that needs right answers.

    from trained import trained_checkpoint
    solver = Solver(load_checkpoint(trained_checkpoint()))  # column additions of one digit, all 100 right

It is trained once per test process and setting, in plain torch: tests of decoding do not need the trainer.
"""

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mathllm.config import DataConfig, ModelConfig
from mathllm.formats import get_format
from mathllm.model import Transformer
from mathllm.model.checkpoint import save_model
from mathllm.tasks.expressions import parse_expressions

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
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=True)
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
