"""The learning rate by step."""

from __future__ import annotations

import math

from mot_gen.recipes.sections import Training


def learning_rate(step: int, training: Training) -> float:
    """The learning rate of a step, counted from 0: linear warm-up to lr, then a cosine to min_lr at the last step."""
    if step < training.warmup_steps:
        return training.lr * (step + 1) / training.warmup_steps
    decaying = max(1, training.steps - training.warmup_steps)
    done = min((step - training.warmup_steps) / decaying, 1.0)
    return training.min_lr + (training.lr - training.min_lr) * (1 + math.cos(math.pi * done)) / 2
