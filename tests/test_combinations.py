"""Every task with every format, padding, position and objective works, or is refused in a sentence."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from mathllm.config import Config, build_config
from mathllm.data.sources import ProblemStream
from mathllm.errors import UsageError
from mathllm.formats import FORMATS, Rendered
from mathllm.inference.engine import ENDED
from mathllm.inference.texts import Written
from mathllm.math_model import MathModel
from mathllm.registry import OBJECTIVES, POSITIONS
from mathllm.resolve import resolve
from mathllm.tasks import TASK_NAMES, answer
from mathllm.training.trainer import Trainer

ALL = list(product(TASK_NAMES, FORMATS, (False, True), POSITIONS, OBJECTIVES))
FIRST = next(iter(OBJECTIVES))
SENTENCE = re.compile(r"[a-z'].{20,}[^.]", re.DOTALL)  # messages follow `error: ` and have no full stop


def configured(task: str, format: str, zero_pad: bool, position: str, objective: str) -> Config:
    data = {"task": task, "format": format, "zero_pad": zero_pad, "max_digits": 2}
    model = {"layers": 1, "hidden": 8, "heads": 2, "feed_forward": 8, "position": position}
    train = {"batch_size": 4, "threads": 1, "output_dir": "unused", "device": "cpu"}
    settings: dict[str, Any] = {"data": data, "model": model, "train": train}
    return resolve(build_config({**settings, "objective": {"name": objective}}))


class Knowing(MathModel):
    """Writes the true texts, whatever it is asked to write."""

    def complete(self, texts: Rendered, **_: Any) -> Written:
        reasons = np.full(len(texts), ENDED, np.uint8)
        none = np.zeros((len(texts), 0), np.float32)
        return Written(texts.problems, texts.ids, texts.lengths, texts.prompt_lengths, reasons, none)


def works(config: Config) -> None:
    """Renders and reads back, takes a step of training, decodes three tokens (with the first objective)."""
    source = ProblemStream(config.data, seed=0)
    problems = source.problems(0, 4)
    trainer = Trainer(config, source, problems, total_steps=1, device=torch.device("cpu"))
    model = MathModel(trainer.model, config.data)
    gold = model.render(problems)
    # an untrained model is never right, and whoever learns from what is right would learn nothing
    trainer.writer = Knowing(trainer.model, config.data)
    parsed = model.format.parse(gold.ids)
    assert parsed.well_formed.all()
    assert parsed.ended.all()
    assert parsed.answer.same(answer(problems)).all()
    report, _ = trainer.train_step(0)
    assert all(np.isfinite(float(value)) for value in report.values())
    assert float(report["loss"]) > 0
    if config.objective.name != FIRST:
        return  # the same model decodes the same texts
    written = model.complete(gold, limits=np.full(len(problems), 3))
    assert (written.lengths - gold.prompt_lengths >= 1).all()
    assert (written.lengths - gold.prompt_lengths <= 3).all()


@pytest.mark.parametrize("position", POSITIONS)
def test_every_combination_works_or_is_refused_in_a_sentence(position: str) -> None:
    for combination in (one for one in ALL if one[3] == position):
        try:
            config = configured(*combination)
        except UsageError as error:
            assert SENTENCE.fullmatch(error.message), combination  # noqa: PT017
            assert error.hint, combination  # noqa: PT017
        else:
            # what one learns from its own answers differs by task and format; all positions decode the same
            if config.objective.name != "rejection-sampling" or position == next(iter(POSITIONS)):
                works(config)


def test_how_many_combinations_are_allowed() -> None:
    """A change of this count is a change of what people can do: of README's table too."""
    counts: Counter[str] = Counter()
    for combination in ALL:
        try:
            configured(*combination)
            counts[combination[-1]] += 1
        except UsageError:
            pass
    assert counts == {"teacher-forcing": 672, "rejection-sampling": 672, "gumbel": 61}
    assert len(ALL) == 5082
