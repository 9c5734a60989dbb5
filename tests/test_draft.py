"""The true text as a draft: what is accepted is what greedy decoding writes, with the same probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mathllm.checkpoint import load_checkpoint
from mathllm.finding import SHIPPED
from mathllm.inference.texts import most_tokens
from mathllm.math_model import MathModel
from mathllm.tasks.expressions import parse_expressions

PROBLEMS = {
    "addsub-3digit": ["658+189", "7-12", "0+0", "999-1", "870+70", "5+5"],
    "arithmetic": ["12*34", "98/12", "2+3*4-50", "5+7", "998-999", "17%5"],
    "add-any-length": ["658+189", "99999999999+1", "0+0"],
    "own-thoughts": ["3+4*7-2", "8", "9*9"],
}


def compare(model: MathModel, problems: list[str]) -> np.ndarray:
    """What was accepted [N] of the gold completions, and how many tokens these have [N]."""
    gold = model.render(parse_expressions(problems, model.readable))
    found, written = model.draft(gold), model.complete(gold, limits=most_tokens(gold))
    log_probs = torch.from_numpy(found.logits).log_softmax(-1).numpy()
    completion = gold.lengths - gold.prompt_lengths
    for row, accepted in enumerate(found.accepted.tolist()):
        start = int(gold.prompt_lengths[row])
        ids = gold.ids[row, start : start + accepted]
        assert (written.ids[row, start : start + accepted] == ids).all()
        own = log_probs[row, np.arange(accepted), ids]
        assert np.allclose(own, written.log_probs[row, :accepted], atol=1e-5)
        if accepted < completion[row]:  # and the model's next token is another one, or as good as
            behind = found.logits[row, accepted]
            assert behind.max() - behind[gold.ids[row, start + accepted]] >= -1e-3
    return np.stack([found.accepted, completion], 1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_accepted_is_what_is_written(name: str) -> None:
    accepted, of = compare(load_checkpoint(SHIPPED / name), PROBLEMS[name]).T
    assert (accepted == of).mean() > 0.6


def test_a_model_that_errs_is_followed_up_to_its_first_mistake() -> None:
    model = load_checkpoint(SHIPPED / "addsub-3digit")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += (
                0.3 * parameter.std(unbiased=False) * torch.randn(parameter.shape, generator=generator)
            )
    rng = np.random.default_rng(0)
    accepted, of = compare(model, [f"{a}+{b}" for a, b in rng.integers(0, 1000, (40, 2))]).T
    assert len(set(accepted[accepted < of].tolist())) > 2
