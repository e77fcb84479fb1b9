"""What a study of objectives compares: objective_variants, each objective's recipe at equal training FLOPs.

An objective is found by its name, as recipes name it: a module of `mot_gen.objectives`, or a dotted path. What it needs
beside its name (a tokenizer of discrete tokens, a weight, how it is sampled) is taken from the shipped recipe that has
it on the same data; where there is none, from the recipe itself. Data, backbone, batch and schedule are the recipe's.

The steps differ: all have the FLOPs of the recipe's own training. Those of tokenizers are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mot_gen.errors import InputError, require
from mot_gen.recipes.recipe import Recipe, load_recipe, recipe_of, shipped_recipes
from mot_gen.study.variants import Variant, check_names, kind_in
from mot_gen.study.workload import Workload


def objective_variants(
    recipe: Recipe, names: Sequence[str], options: Mapping[str, Sequence[str]], modality: str, workload: Workload
) -> list[Variant]:
    """A variant for each objective of `modality`, in order.

    options: name -> KEY=VALUE, of the objective (`weight=2.0`) or, with a section's name before it, of the recipe
    (`tokenizers.image.entries=32`). workload: the recipe's own, which sets the FLOPs.
    Raises InputError for what cannot be compared.
    """
    check_names("objectives", names, options)
    budget = recipe.training.steps * workload.cost(recipe).flops
    recipes = {name: recipe_of_objective(recipe, name, options.get(name, ()), modality) for name in names}
    return [_at(given, name, budget) for name, given in recipes.items()]


def recipe_of_objective(recipe: Recipe, name: str, options: Sequence[str], modality: str) -> Recipe:
    """The recipe with another objective of a modality, and what that needs beside it.

    InputError where the recipe has no such modality.
    """
    has = ", ".join(recipe.objectives)
    require(modality in recipe.objectives, f"--objectives: are those of {modality}, and {recipe.name} has {has} alone")
    kind = kind_in(options) or name
    pattern = _pattern(recipe, kind, modality)
    raw = recipe.model_dump(mode="json")
    if pattern is not None:
        taken = pattern.model_dump(mode="json")
        raw["tokenizers"][modality] = taken["tokenizers"][modality]
        raw["objectives"][modality] = taken["objectives"][modality]
        raw["sampling"] = taken["sampling"]
    elif kind != recipe.objectives[modality].kind:
        raw["objectives"][modality] = {"kind": kind, "weight": recipe.objectives[modality].weight}
    return recipe_of(raw, name, [_dotted(text, modality) for text in options])


def _at(recipe: Recipe, name: str, budget: int) -> Variant:
    """The recipe with as many steps as the budget of FLOPs pays for."""
    workload = Workload.of(recipe)
    cost = workload.cost(recipe)
    steps = round(budget / cost.flops)
    if steps <= recipe.training.warmup_steps:
        raise InputError(f"{name}: {budget:.3g} FLOPs are {steps} steps, which do not go past the warm-up; give more")
    return Variant(name, recipe_of(recipe.model_dump(mode="json"), name, [f"training.steps={steps}"]), cost)


def _pattern(recipe: Recipe, kind: str, modality: str) -> Recipe | None:
    """The shipped recipe that learns this modality by this objective from the same source; None where the recipe does
    so itself, or none is shipped."""
    if kind == recipe.objectives[modality].kind:
        return None
    for found in map(load_recipe, shipped_recipes()):
        learned = found.objectives.get(modality)
        if learned and (learned.kind, found.data.source) == (kind, recipe.data.source):
            return found
    return None


def _dotted(text: str, modality: str) -> str:
    """KEY=VALUE of an objective, or of a section, as an override of the recipe."""
    section, dot, _ = text.partition("=")[0].partition(".")
    of_recipe = bool(dot) and section in Recipe.model_fields
    return text if of_recipe else f"objectives.{modality}.{text}"


def setting_of(variant: Variant, modality: str) -> dict[str, Any]:
    """What sets a variant apart, for the study's JSON."""
    raw = variant.recipe.model_dump(mode="json")
    return {
        "objective": raw["objectives"][modality],
        "tokenizer": raw["tokenizers"][modality],
        "sampling": raw["sampling"],
    }
