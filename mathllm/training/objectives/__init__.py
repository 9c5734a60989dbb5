"""What is learned from a batch: one file per objective, and the registry that names them."""

from mathllm.training.objectives.teacher_forcing import teacher_forcing

OBJECTIVES = {"teacher-forcing": teacher_forcing}

__all__ = ["OBJECTIVES", "teacher_forcing"]
