"""How training is told to learn from rewards: reinforce_hooks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mot_gen.recipes.recipe import Recipe
from mot_gen.reinforce.dpo_steps import DpoStep
from mot_gen.reinforce.grpo_steps import GrpoStep
from mot_gen.reinforce.nft_steps import NftStep
from mot_gen.reinforce.report import conclude
from mot_gen.reinforce.rewards import check_rewards
from mot_gen.training.loop import Hooks

STEPS: dict[str, Any] = {"grpo": GrpoStep, "nft": NftStep, "dpo": DpoStep}


def reinforce_hooks(recipe: Recipe, hooks: Hooks) -> Hooks:
    """Hooks whose steps learn as the recipe's section `reinforce` says; InputError for a reward that cannot be made."""
    assert recipe.reinforce is not None
    check_rewards(recipe)
    step = STEPS[recipe.reinforce.method]()
    if not recipe.evaluation.report:
        return replace(hooks, step=step)
    # The page takes the learner of the steps, whose judges are trained and whose reference is loaded.
    return replace(hooks, step=step, conclude=lambda run: conclude(run, step.learner(run)))
