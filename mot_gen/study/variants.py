"""What a study compares: Variant, variants, each backbone's recipe at the budget of the recipe's own.

A name is a kind of backbone (dense, mot, ...), one of `relatives.RELATIVES`, or any other word whose kind is given as
an option, so that ablations are variants too: `ffn:kind=mot ffn:untied=[ffn,ffn_norm]`. Data, order, batch, schedule
and noise are the recipe's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mot_gen import backbone as backbones
from mot_gen.backbone.comparison import SPARSE, shape_like
from mot_gen.errors import InputError, nearest
from mot_gen.recipes.recipe import Recipe, recipe_of
from mot_gen.study.budget import config_of, solve_width, with_backbone
from mot_gen.study.relatives import RELATIVES
from mot_gen.study.workload import Cost, Workload

MATCHES = {"active-flops": "FLOPs a step", "total-params": "parameters in total"}
CONTROL = "dense-total"  # a dense model with the Mixture-of-Transformers' total parameters: the paper has none
CLOSE = 0.01  # of the budget, within which the recipe's own width is kept


@dataclass(frozen=True)
class Variant:
    """One backbone of a study. recipe: with it, at the budget. note: what is to be said of it, or nothing."""

    name: str
    recipe: Recipe
    cost: Cost
    note: str = ""


def variants(
    recipe: Recipe,
    names: Sequence[str],
    options: Mapping[str, Sequence[str]],
    match: str,
    workload: Workload,
    control: bool = True,
) -> list[Variant]:
    """The backbones of a study, all at the FLOPs a step, or the total parameters, of the recipe's own.

    options: name -> KEY=VALUE of that backbone. control: whether to add CONTROL where something unties parameters.
    Raises InputError for what cannot be compared: an unknown name, one given twice, a budget that no width meets.
    """
    _check_names(names, options)
    if recipe.backbone.frozen or recipe.backbone.lr_factors:
        raise InputError(
            "backbone.frozen, backbone.lr_factors: a study compares backbones that all learn alike; drop it"
        )
    if match not in MATCHES:
        raise InputError(f"match: {match!r} is not known" + nearest(match, MATCHES))
    budget = _amount(workload.cost(recipe), match)
    stated = {name: [*RELATIVES.get(name, ()), *options.get(name, ())] for name in names}
    found = [_variant(recipe, name, stated[name], match, budget, workload) for name in names]
    largest = max(found, key=lambda v: v.cost.total)
    dense = next((v for v in found if v.name == "dense"), None)
    if control and match == "active-flops" and dense and largest.cost.total > (1 + CLOSE) * dense.cost.total:
        sparse = next((v for v in found if v.name == "mot"), largest)
        found.append(_control(dense.recipe, sparse, workload))
    return found


def _check_names(names: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"backbones: {name!r} is given twice")
        known = name in backbones.PRESETS or name in RELATIVES
        if not known and not any(text.startswith("kind=") for text in options.get(name, ())):
            raise InputError(f"backbones: {name!r} is not a backbone{nearest(name, [*backbones.PRESETS, *RELATIVES])}")
    for name in options:
        if name not in names:
            raise InputError(f"{name}:{options[name][0]}: {name!r} is not among the backbones{nearest(name, names)}")


def _amount(cost: Cost, match: str) -> int:
    return cost.flops if match == "active-flops" else cost.total


def _variant(recipe: Recipe, name: str, options: Sequence[str], match: str, budget: int, workload: Workload) -> Variant:
    given = _of_kind(recipe, name, options)
    fixed = {text.partition("=")[0] for text in options} & {"dim", "layers", "size"}
    cost = workload.cost(given)
    if abs(_amount(cost, match) / budget - 1) > CLOSE and not fixed:
        given = solve_width(given, budget, lambda r: _amount(workload.cost(r), match), MATCHES[match])
        cost = workload.cost(given)
    note = "" if cost.causal else "sees later tokens while it learns: its likelihoods are not comparable"
    return Variant(name, given, cost, note)


def _of_kind(recipe: Recipe, name: str, options: Sequence[str]) -> Recipe:
    """The recipe with a backbone of the kind that a name stands for, of the shape of the recipe's own."""
    usual = "mot" if name in RELATIVES else name
    kind = next((text.partition("=")[2] for text in options if text.startswith("kind=")), usual)
    section = recipe.backbone
    same = kind == section.kind
    given = section.options if same else _in_shape(recipe, backbones.module_of(kind).Config)
    changed = with_backbone(recipe, given, kind)
    return recipe_of(changed.model_dump(mode="json"), name, [f"backbone.{text}" for text in options])


def _in_shape(recipe: Recipe, wanted: type) -> dict[str, Any]:
    """The options with which another kind of backbone has the shape of the recipe's own: those that both know, but for
    what is sparse, and its size."""
    known = inspect.signature(wanted).parameters.keys() - SPARSE - {"size"}
    own = {name: value for name, value in recipe.backbone.options.items() if name in known}
    return own | shape_like(wanted, config_of(recipe))


def _control(dense: Recipe, sparse: Variant, workload: Workload) -> Variant:
    given = solve_width(dense, sparse.cost.total, lambda r: workload.cost(r).total, MATCHES["total-params"])
    return Variant(
        CONTROL, given, workload.cost(given), f"the control: dense, with the total parameters of {sparse.name}"
    )
