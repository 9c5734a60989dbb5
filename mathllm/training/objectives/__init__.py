"""What is learned from problems: one file per objective, and the function that chooses one.

To add one, write a class with what `Objective` (base.py) asks for, and name it in OBJECTIVES (config.py) and here.
"""

from __future__ import annotations

from mathllm.config import ObjectiveConfig
from mathllm.errors import unknown_choice
from mathllm.training.objectives.base import Lesson, Moment, Objective
from mathllm.training.objectives.gumbel import GumbelThoughts
from mathllm.training.objectives.rejection_sampling import RejectionSampling
from mathllm.training.objectives.teacher_forcing import TeacherForcing

__all__ = ["Lesson", "Moment", "Objective", "make_objective"]


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the settings name."""
    if config.name == "teacher-forcing":
        return TeacherForcing()
    if config.name == "gumbel":
        return GumbelThoughts(config)
    if config.name == "rejection-sampling":
        return RejectionSampling(config)
    raise unknown_choice("objective", config.name, ())
