"""Whether a run's blocks are compiled: is_compiled."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from mot_gen.model import MultimodalModel
from mot_gen.objectives import mean_flow
from mot_gen.recipes.recipe import Recipe


def is_compiled(recipe: Recipe, model: MultimodalModel, device: torch.device) -> bool:
    """Whether to compile, as `training.compile` says.

    "auto" compiles on a GPU if PyTorch has its compiler for one (Triton) and one program serves all batches. It does if
    tokens choose neither experts nor layers, nothing listens to single layers, and no derivative is taken forwards.
    """
    asked = recipe.training.compile
    if asked != "auto":
        return asked
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    listened = recipe.training.teacher is not None or recipe.training.consistency > 0
    forwards = any(isinstance(objective, mean_flow.Objective) for objective in model.objectives.values())
    return getattr(model.backbone, "repeats", False) and not listened and not forwards
