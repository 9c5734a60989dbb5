"""benchmarks/: the peer is the same function, and the README has what was measured."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import compare, limits, peers, table
from mathllm.bench import share_of_peak
from mathllm.bench.machine import Work
from mathllm.model.transformer import Transformer

ROOT = Path(__file__).parents[1]


def test_a_llama_with_our_weights_is_our_model() -> None:
    config = peers.our_config("nano", max_length=32)
    ours = Transformer.from_config(config.model).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    ids = torch.randint(16, (3, 20), generator=generator)
    with torch.no_grad():
        theirs = peers.llama(ours, config).eval()(ids).logits
        torch.testing.assert_close(ours(ids), theirs, atol=1e-4, rtol=1e-4)


def test_the_bare_loop_computes_the_token_that_our_model_does() -> None:
    model = Transformer.from_config(peers.our_config("nano", max_length=32).model).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" not in name:  # the bare loop takes their weights for 1
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    ids = torch.randint(10, (3, 9), generator=generator)
    with torch.inference_mode():
        bare = limits.BareLoop(model, ids[:, :8]).token(ids[:, 8])
        torch.testing.assert_close(bare, model(ids)[:, -1], atol=1e-4, rtol=1e-4)


def test_each_precision_has_a_peak_of_its_own_measured_beside_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {
        "mathllm": [1.0, 4.0, 1.0],
        "theirs": [2.0, 8.0, 2.0],
        "fp32": [1.0, 4.0, 1.0],
        "bf16": [0.5, 2.0, 0.5],
    }
    monkeypatch.setattr(compare, "peak_work", lambda *how: Work(lambda: None, 100.0))
    monkeypatch.setattr(compare, "in_turns", lambda works, *how: {name: seconds[name] for name in works})
    ways = dict.fromkeys(("mathllm", "theirs"), lambda: None)
    rates, limits = compare.beside_peaks(ways, {"mathllm": "bf16", "theirs": "fp32"}, 3, 10)
    assert limits == {"bf16": 200, "fp32": 100}
    assert [rates[name]["median"] for name in ways] == [10, 5]
    row = {"precision": "bf16", **share_of_peak(150, limits["bf16"])}
    assert compare.beside_the_peak(row) == "  75% of the bf16 peak"
    row = {"precision": "fp32", **share_of_peak(130, limits["fp32"])}
    assert compare.beside_the_peak(row) == "  (too busy a machine for a share of its peak)"
    assert compare.beside_the_peak({"median": 1.0}) == ""


def test_the_readme_has_the_figures_that_were_measured() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    text = table.table([json.loads(path.read_text()) for path in files])
    assert text in (ROOT / "README.md").read_text(encoding="utf-8")
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter"
    assert table.insert(readme, text) == f"before\n{text}\nafter"
