"""Where two tokens nearly tie, company could decide between them; the server must not let it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mathllm.finding import SHIPPED
from mathllm.serve.engine import Engine
from mathllm.serve.jobs import How, Job, Solved
from mathllm.serve.versions import Shelf

PROBLEMS = [f"{a}+{b}" for a in (37, 733) for b in (30, 3, 73, 336, 700, 7)]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A model that can hardly tell 3 from 7."""
    place = tmp_path / "near-ties"
    shutil.copytree(SHIPPED / "addsub-3digit", place)
    weights = load_file(place / "model.safetensors")
    noise = torch.randn(len(weights["head.weight"][0]), generator=torch.Generator().manual_seed(0))
    weights["head.weight"][7] = weights["head.weight"][3] + 1e-7 * noise
    save_file(weights, place / "model.safetensors")
    shelf = Shelf({"near-ties": place}, 2048)
    shelf.load("near-ties")
    return shelf


def answers(shelf: Shelf, companies: list[list[str]], how: How) -> dict[str, Solved]:
    """Of problems that are asked together, company by company."""

    async def ask() -> dict[str, Solved]:
        engine, found = Engine(shelf), {}
        engine.start()
        for company in companies:
            jobs = [Job([problem], how) for problem in company]
            for job in jobs:
                engine.submit(job)
            for problem, job in zip(company, jobs, strict=True):
                (outcome,) = await job.answered
                assert isinstance(outcome, Solved)
                found[problem] = outcome
        engine.stop()
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize("draft", [True, False])
def test_company_does_not_decide_between_two_tokens(shelf: Shelf, draft: bool) -> None:
    how = How(draft=draft, detail=True)
    alone = answers(shelf, [[problem] for problem in PROBLEMS], how)
    together = answers(shelf, [PROBLEMS], how)
    model = shelf.newest[0].model
    for problem in PROBLEMS:
        own = model.solve(problem)
        assert together[problem].solution.text == alone[problem].solution.text == own.text
        shares = together[problem].shares
        assert shares is not None
        assert len(shares) == len(together[problem].ids)
    assert any(not one.solution.correct for one in together.values())
