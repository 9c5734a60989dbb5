"""benchmarks/: the peer is the same function, and the README has what was measured."""

import json
from pathlib import Path

import pytest
import torch

from mathllm.model import Transformer

ROOT = Path(__file__).parents[1]
peers = pytest.importorskip("benchmarks.peers")
table = pytest.importorskip("benchmarks.table")


def test_a_llama_with_our_weights_is_our_model() -> None:
    pytest.importorskip("transformers", reason="of the extra benchmarks")
    config = peers.our_config("nano", max_length=32)
    ours = Transformer.from_config(config.model).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    ids = torch.randint(16, (3, 20), generator=generator)
    with torch.no_grad():
        theirs = peers.llama(ours, config).eval()(ids).logits
        torch.testing.assert_close(ours(ids), theirs, atol=1e-4, rtol=1e-4)


def test_the_readme_has_the_figures_that_were_measured() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    text = table.table([json.loads(path.read_text()) for path in files])
    assert text in (ROOT / "README.md").read_text(encoding="utf-8")
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter"
    assert table.insert(readme, text) == f"before\n{text}\nafter"
