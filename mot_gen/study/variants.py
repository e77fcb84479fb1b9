"""What a study of backbones compares: Variant, variants, each backbone's recipe at the budget of the recipe's own.

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
from mot_gen.backbone.study_shapes import SPARSE, shape_like
from mot_gen.errors import InputError, nearest, require
from mot_gen.recipes.recipe import Recipe, recipe_of
from mot_gen.study.budget import config_of, solve_width, with_backbone
from mot_gen.study.relatives import RELATIVES
from mot_gen.study.workload import Cost, Workload

MATCHES = {"active-flops": "FLOPs a step", "total-params": "parameters in total"}
CONTROL = "dense-total"  # a dense model with the Mixture-of-Transformers' total parameters: the paper has none
CLOSE = 0.01  # of the budget, within which the recipe's own width is kept
LEAKS = "sees later tokens while it learns: its likelihoods are not comparable"


@dataclass(frozen=True)
class Variant:
    """One side of a study. recipe: with it, at the budget. note: what is to be said of it, or nothing."""

    name: str
    recipe: Recipe
    cost: Cost
    note: str = ""


@dataclass(frozen=True)
class _Budget:
    """What all variants are to have alike. match: of MATCHES; amount: how much of it."""

    match: str
    amount: int
    workload: Workload

    def of(self, recipe: Recipe) -> int:
        """How much a recipe takes."""
        cost = self.workload.cost(recipe)
        return cost.flops if self.match == "active-flops" else cost.total

    def met_by(self, recipe: Recipe) -> bool:
        return abs(self.of(recipe) / self.amount - 1) <= CLOSE

    def solve(self, recipe: Recipe) -> Recipe:
        """The recipe at the width that meets the budget."""
        return solve_width(recipe, self.amount, self.of, MATCHES[self.match])


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
    check_comparable(recipe, names, options)
    if match not in MATCHES:
        raise InputError(f"match: {match!r} is not known" + nearest(match, MATCHES))
    own = _Budget(match, 1, workload).of(recipe)
    budget = _Budget(match, own, workload)
    found: list[Variant] = []
    for name in names:
        found.append(_variant(recipe, name, options.get(name, ()), budget))
    if control and match == "active-flops":
        found += _control(found, workload)
    return found


def check_comparable(recipe: Recipe, names: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
    """InputError for names or a recipe of which no study can be made, before any backbone is looked at."""
    check_names("backbones", names, options)
    if recipe.backbone.frozen or recipe.backbone.lr_factors:
        raise InputError(
            "backbone.frozen, backbone.lr_factors: a study compares backbones that all learn alike; drop it"
        )


def check_names(what: str, names: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
    """InputError for a name that is given twice, and for options of one that is not compared."""
    for name in names:
        require(names.count(name) <= 1, f"{what}: {name!r} is given twice")
    for name, given in options.items():
        if name not in names:
            raise InputError(f"{name}:{given[0]}: {name!r} is not among the {what}{nearest(name, names)}")


def kind_in(options: Sequence[str]) -> str | None:
    """The KIND of an option kind=KIND, or None."""
    for text in options:
        if text.startswith("kind="):
            return text.removeprefix("kind=")
    return None


def _variant(recipe: Recipe, name: str, options: Sequence[str], budget: _Budget) -> Variant:
    given = recipe_of_backbone(recipe, name, options)
    stated = {text.partition("=")[0] for text in (*RELATIVES.get(name, ()), *options)}
    free = not stated & {"dim", "layers", "size"}
    if free and not budget.met_by(given):
        given = budget.solve(given)
    cost = budget.workload.cost(given)
    warning = "" if cost.causal else LEAKS
    return Variant(name, given, cost, warning)


def recipe_of_backbone(recipe: Recipe, name: str, options: Sequence[str]) -> Recipe:
    """The recipe with a backbone of the kind that a name stands for, of the shape of the recipe's own. options: of the
    backbone, beside those that the name stands for."""
    options = [*RELATIVES.get(name, ()), *options]
    usual = "mot" if name in RELATIVES else name
    kind = kind_in(options) or usual
    if kind == recipe.backbone.kind:
        given = recipe.backbone.options
    else:
        given = _in_shape(recipe, backbones.module_of(kind).Config)
    changed = with_backbone(recipe, given, kind)
    return recipe_of(changed.model_dump(mode="json"), name, [f"backbone.{text}" for text in options])


def _in_shape(recipe: Recipe, wanted: type) -> dict[str, Any]:
    """The options with which another kind of backbone has the shape of the recipe's own: those that both know, but for
    what is sparse, and its size."""
    known = inspect.signature(wanted).parameters.keys() - SPARSE - {"size"}
    own = {name: value for name, value in recipe.backbone.options.items() if name in known}
    return own | shape_like(wanted, config_of(recipe))


def _control(found: Sequence[Variant], workload: Workload) -> list[Variant]:
    """A dense model with the total parameters of the sparse one; none where nothing is larger than a dense one."""
    by_name = {variant.name: variant for variant in found}
    largest = max(found, key=lambda variant: variant.cost.total)
    dense = by_name.get("dense")
    if dense is None or largest.cost.total <= (1 + CLOSE) * dense.cost.total:
        return []
    sparse = by_name.get("mot", largest)
    given = _Budget("total-params", sparse.cost.total, workload).solve(dense.recipe)
    note = f"the control: dense, with the total parameters of {sparse.name}"
    return [Variant(CONTROL, given, workload.cost(given), note)]
