"""What is learned from problems: one file per objective, and the function that makes the one that settings name.

To add one, write an `Objective` (base.py), and name it in `mathllm.registry`.
"""

from __future__ import annotations

from mathllm.config import ObjectiveConfig
from mathllm.registry import objective_class, own_settings
from mathllm.training.objectives.base import Lesson, Moment, Objective, Room

__all__ = ["Lesson", "Moment", "Objective", "Room", "make_objective"]


def make_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the settings name."""
    kind: type[Objective] = objective_class(config.name)
    return kind(own_settings(kind, config.settings))
