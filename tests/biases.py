"""What position schemes add to scores, for the tests of them."""

from __future__ import annotations

from typing import Any

from mathllm.model.positions import Scheme, Where


def bias_of(scheme: Scheme, layer: int, query: Where, key: Where) -> Any:
    """The bias (B, H, T, S) of a layer, for queries that may see all keys where they stand behind them."""
    if scheme.hides:
        query = Where(query.index + len(key.index), query.axes)
    return scheme.bias(layer, scheme.pairs(query, key))
