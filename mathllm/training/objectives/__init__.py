"""What is learned from a batch: one file per objective."""

from mathllm.training.objectives.teacher_forcing import teacher_forcing

__all__ = ["teacher_forcing"]
