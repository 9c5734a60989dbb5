"""The decoder-only transformer, its position schemes and its key/value cache."""

from mathllm.model.cache import KeyValueCache
from mathllm.model.transformer import Transformer

__all__ = ["KeyValueCache", "Transformer"]
