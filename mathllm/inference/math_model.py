"""A model and the format that it writes: whoever decodes or scores needs both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mathllm.config import DataConfig
from mathllm.formats import Format
from mathllm.inference.engine import allowed_by, generate, places_for
from mathllm.inference.sampling import SamplingParams
from mathllm.model import Transformer
from mathllm.tasks import Problems
from mathllm.tasks.numbers import Digits, Ints
from mathllm.tokenizer import END, Ids


@dataclass(frozen=True)
class Written:
    """Texts of a model: ids uint8 [N, T] of prompt and completion, the stop token included and `<end>` behind
    it, lengths [N], the prompts' lengths [N], why each ended, as an index [N] into inference.engine.REASONS, and the
    log-probabilities of the completions' tokens [N, T'] (0 behind the end)."""

    ids: Ids
    lengths: Ints
    prompt_lengths: Ints
    reasons: Digits
    log_probs: NDArray[np.float32]


@dataclass(frozen=True)
class MathModel:
    """A model, its format, the settings of the data it is for, and where it was loaded from."""

    model: Transformer
    format: Format
    data: DataConfig
    path: Path | None

    def complete(
        self,
        problems: Problems,
        *,
        params: SamplingParams,
        generator: torch.Generator | None = None,
        batch_size: int = 1024,
        max_new_tokens: int | None = None,
    ) -> Written:
        """What the model writes for each problem."""
        prompts, prompt_lengths = self.format.prompts(problems)
        done = generate(
            self.model,
            prompts,
            prompt_lengths,
            max_new_tokens or self.model.max_length,
            params,
            batch_size=batch_size,
            generator=generator,
            places=places_for(self.model, self.format),
            allowed=allowed_by(self.format),
        )
        lengths = prompt_lengths + done.lengths
        ids = np.full((len(lengths), int(lengths.max(initial=0))), END, np.uint8)
        column = np.arange(ids.shape[1])
        prompt = column < prompt_lengths[:, None]
        completion = ~prompt & (column < lengths[:, None])
        ids[prompt] = prompts[np.arange(prompts.shape[1]) < prompt_lengths[:, None]]
        ids[completion] = done.ids[np.arange(done.ids.shape[1]) < done.lengths[:, None]]
        return Written(ids, lengths, prompt_lengths, done.reasons, done.log_probs)
