"""mathllm: train tiny transformers to calculate, exactly, and watch them reason.

import mathllm
model = mathllm.load("checkpoints/addsub-3digit")
print(model.solve("658+189").answer)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mathllm.errors import MathLLMError

__version__ = "0.1.0"
__all__ = ["MathLLMError", "__version__", "evaluate", "generate_data", "load", "train"]

if TYPE_CHECKING:
    from mathllm.api import evaluate, generate_data, load, train


def __getattr__(name: str) -> Any:
    # torch takes a second to import: only those who ask for it wait for it
    if name in __all__:
        from mathllm import api

        return getattr(api, name)
    raise AttributeError(f"module 'mathllm' has no attribute {name!r}")
