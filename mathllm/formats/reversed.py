"""Operands and answer least significant digit first, no thought: `99+12=021<end>` for 99 + 21 = 120."""

from mathllm.formats.base import Format

REVERSED = Format(
    "reversed", "all numbers least significant digit first, no thought", least_significant_first=True
)
