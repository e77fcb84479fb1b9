"""`mot-gen plan`: parameters, FLOPs, memory and tokens of a recipe, before anything runs; register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.commands.early import check_run
from mot_gen.commands.options import add_overrides, print_facts
from mot_gen.errors import InputError, require

if TYPE_CHECKING:
    from mot_gen.recipes.recipe import Recipe


def register(commands) -> None:
    """Add `plan` to the commands of mot-gen."""
    command = commands.add_parser("plan", help="parameters, FLOPs, memory and tokens of a recipe, before anything runs")
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    add_overrides(command)
    command.add_argument("--processes", type=int, default=1, metavar="N", help="how many train together; default: 1")
    command.add_argument("--machine", type=int, default=8, metavar="N", help="how many share a machine; default: 8")
    command.add_argument("--vocabulary", type=int, metavar="N", help="of text; default: the tokenizer's")
    command.add_argument("--flops", type=float, metavar="F", help="a budget for the whole training, as 1e18")
    command.add_argument(
        "--solve", choices=("steps", "width"), help="what is changed to meet the budget of --flops; default: steps"
    )
    command.add_argument("--time", action="store_true", help="make some steps, to measure seconds and memory")
    command.add_argument("--json", action="store_true", help="print the facts as JSON")
    command.set_defaults(func=_plan)


def _plan(arguments) -> int:
    sizes, budget = _sizes(arguments), arguments.flops
    if budget is not None and not budget > 0:
        raise InputError(f"--flops: must be above 0, got {budget}")
    require(arguments.solve is None or budget is not None, "--solve: needs a budget; give --flops too")
    recipe = _recipe(arguments, sizes)
    facts: dict[str, Any] = {}
    if budget is not None:
        recipe, found = _solve(recipe, budget, arguments.solve or "steps")
        facts |= found
    facts |= _costs(recipe, sizes)
    if arguments.time:
        from mot_gen.training.trial import trial

        facts |= trial(recipe)
    print_facts(facts, arguments.json)
    return 0


def _recipe(arguments, sizes: Mapping[str, int]) -> Recipe:
    """The recipe with a value in the place of every `auto`; InputError for one that cannot be trained."""
    from mot_gen.recipes.recipe import load_recipe

    def first(recipe: Recipe, check: Callable[[], None]) -> None:
        check_run(recipe, check, also=lambda: _check_processes(recipe, sizes))

    recipe = load_recipe(arguments.recipe, arguments.overrides, first)
    return _settle(recipe) if recipe.auto else recipe


def _solve(recipe: Recipe, budget: float, what: str) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that meets a budget of FLOPs by its steps or its width, and the widths that were found."""
    from mot_gen.study.budget import config_of, solve
    from mot_gen.study.workload import Workload

    solved = solve(recipe, budget, what, Workload.of(recipe))
    return solved, _widths(config_of(solved)) if what == "width" else {}


def _costs(recipe: Recipe, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe will cost; of a single process also the memory that it holds beside a step."""
    from mot_gen.study.memory import process_memory
    from mot_gen.study.plan import plan

    facts = plan(recipe, **sizes)
    if sizes["processes"] == 1:
        beside = process_memory(facts["total_parameters"], facts["learned_parameters"], recipe.training)
        together = beside + facts["peak_bytes"] + facts["cached_bytes"]
        facts |= {"process_bytes": beside, "resident_bytes": together}
    return facts


def _sizes(arguments) -> dict[str, Any]:
    """The numbers that a plan is made for; InputError for one that cannot be."""
    sizes = {name: getattr(arguments, name) for name in ("processes", "machine", "vocabulary")}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise InputError(f"--{name}: must be at least 1, got {size}")
    return sizes


def _check_processes(recipe: Recipe, sizes: Mapping[str, int]) -> None:
    """InputError where so many processes cannot share the recipe's batch; imports torch."""
    from mot_gen.training.world import check_size

    check_size(recipe.training, sizes["processes"], sizes["machine"])


def _widths(config: Any) -> dict[str, Any]:
    """What solving for a width found, in the words of a recipe."""
    widths = {name: getattr(config, name, None) for name in ("dim", "ffn_dim", "layers")}
    return {f"backbone.{name}": width for name, width in widths.items() if width is not None}


def _settle(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to the data and the machine, which is said."""
    from mot_gen.training.build import load_splits
    from mot_gen.training.defaults import settle

    return settle(recipe, load_splits(recipe), Path("runs"), lambda line: print(line, file=sys.stderr))
