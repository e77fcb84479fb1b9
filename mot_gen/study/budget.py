"""Widths and steps that meet a budget: solve, solve_width, resize, with_backbone.

The width is changed at the recipe's layers and heads, in steps that heads divide; where the backbone has a feed-forward
its width follows in proportion, and is then set so as to make up what the steps leave over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from mot_gen import backbone as backbones
from mot_gen.backbone.study_shapes import feeds, ffn_step, width_steps
from mot_gen.errors import InputError, require
from mot_gen.recipes.recipe import Recipe, recipe_of
from mot_gen.study.workload import Workload

TOLERANCE = 0.05  # of the budget, beyond which a width does not meet it
LARGEST = 2**17  # the widest model that is looked at
WIDEST = 8  # the widest feed-forward, in widths of the model

Measure = Callable[[Recipe], float]


def solve(recipe: Recipe, flops: float, what: str, workload: Workload) -> Recipe:
    """The recipe whose whole training takes `flops`, by its `steps` or by its `width`."""
    require(flops > 0, f"--flops: must be above 0, got {flops}")
    steps = recipe.training.steps
    if what == "width":
        return solve_width(recipe, flops / steps, lambda each: workload.cost(each).flops, "FLOPs a step")
    a_step = workload.cost(recipe).flops
    steps = round(flops / a_step)
    require(steps >= 1, f"--flops: {flops:.3g} is less than one step of {recipe.name}, which takes {a_step:.3g}")
    return recipe_of(recipe.model_dump(mode="json"), recipe.name, [f"training.steps={steps}"])


def solve_width(recipe: Recipe, budget: float, measure: Measure, what: str) -> Recipe:
    """The recipe with the width at which `measure` comes nearest to `budget`; `what` is measured, for messages.

    Raises InputError where no width comes within 5%, with the nearest ones and what they give.
    """
    config = config_of(recipe)

    def error(each: Recipe) -> float:
        return abs(measure(each) / budget - 1)

    tried: list[Recipe] = []
    for step in width_steps(config):
        tried = _around(recipe, budget, measure, step)
        best = min(tried, key=error)
        if error(best) <= TOLERANCE:
            return best
    given = "; ".join(f"width {config_of(each).dim} gives {measure(each):,.0f}" for each in tried)
    raise InputError(
        f"{recipe.name}: no width of backbone {recipe.backbone.kind} with {config.layers} layers meets {budget:,.0f} "
        f"{what} within {TOLERANCE:.0%}: {given}; give other backbone.layers, or another budget"
    )


def _around(recipe: Recipe, budget: float, measure: Measure, step: int) -> list[Recipe]:
    """The two widths, multiples of `step`, between which a budget lies, their feed-forwards making up the rest."""
    number = _first(lambda k: measure(resize(recipe, k * step)) >= budget, LARGEST // step)
    tried = [resize(recipe, k * step) for k in range(max(1, number - 1), number + 1)]
    if not feeds(config_of(recipe)):
        return tried
    filled: list[Recipe] = []
    for each in tried:
        filled += _with_ffn(each, budget, measure)
    return filled or tried


def resize(recipe: Recipe, dim: int, ffn_dim: int | None = None) -> Recipe:
    """The recipe at another width. A feed-forward keeps its proportion to it, unless `ffn_dim` is given."""
    config, options = config_of(recipe), dict(recipe.backbone.options)
    named_size = options.pop("size", None)
    if named_size:  # which says these too
        options["layers"] = config.layers
        if hasattr(config, "heads"):
            options["heads"] = config.heads
    options["dim"] = dim
    if ffn_dim is None and "ffn_dim" in options:
        step = ffn_step(config)
        ffn_dim = max(1, round(dim * config.ffn_dim / config.dim / step)) * step
    if ffn_dim is not None:
        options["ffn_dim"] = ffn_dim
    return with_backbone(recipe, options)


def with_backbone(recipe: Recipe, options: dict, kind: str | None = None) -> Recipe:
    """The recipe with other options, and perhaps another kind, of backbone; checked as when read."""
    section = recipe.backbone.model_dump(mode="json", exclude=set(recipe.backbone.options))
    backbone = {**section, "kind": kind or recipe.backbone.kind, **options}
    return recipe_of({**recipe.model_dump(mode="json"), "backbone": backbone}, recipe.name)


def config_of(recipe: Recipe) -> Any:
    """The backbone's `Config`; InputError where it has no dim and layers, which are what is solved for."""
    _, config = backbones.load(recipe.backbone.kind, recipe.backbone.options)
    if not (hasattr(config, "dim") and hasattr(config, "layers")):
        raise InputError(f"backbone.kind: {recipe.backbone.kind} has no dim and layers to change for a budget")
    return config


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The least positive integer for which a monotone condition holds, or `most`."""
    high = 1
    while high < most and not holds(high):  # doubled, since a width far beyond the budget is slow to outline
        high *= 2
    return 1 + bisect_left(range(1, min(high, most)), True, key=holds)


def _with_ffn(recipe: Recipe, budget: float, measure: Measure) -> list[Recipe]:
    """The recipe with the feed-forward that makes up the rest of a budget, which is linear in its width; nothing where
    that would be narrower than the model or wider than WIDEST."""
    config = config_of(recipe)
    step = ffn_step(config)
    more = 8 * step
    here = measure(resize(recipe, config.dim, config.ffn_dim))
    there = measure(resize(recipe, config.dim, config.ffn_dim + more))
    wanted = config.ffn_dim + (budget - here) * more / (there - here)
    width = round(wanted / step) * step
    if not config.dim <= width <= WIDEST * config.dim:
        return []
    return [resize(recipe, config.dim, width)]
