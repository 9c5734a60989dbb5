"""The bare equation, as a person writes it: `3+5=8<end>`."""

from mathllm.formats.base import Format

PLAIN = Format("plain", "the bare equation, no thought")
