"""`mot-gen train`: train a recipe, shipped or of your own; register."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from mot_gen.checkpoints.folders import refuse_foreign
from mot_gen.commands.early import check_run
from mot_gen.commands.options import add_overrides
from mot_gen.errors import InputError
from mot_gen.files.stopping import stopping_at_once
from mot_gen.recipes.yaml_files import shipped_recipes
from mot_gen.training.checkpoint_folders import has_begun

if TYPE_CHECKING:
    from mot_gen.recipes.recipe import Recipe


def register(commands) -> None:
    """Add `train` to the commands of mot-gen."""
    command = commands.add_parser("train", help="train a recipe, shipped or of your own")
    shipped = ", ".join(shipped_recipes())
    command.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or a shipped recipe: {shipped}")
    add_overrides(command)
    command.add_argument("--out", metavar="DIR", help="default: runs/ and the recipe's name")
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint, or begin where there is none"
    )
    command.set_defaults(func=_train)


def _train(arguments) -> int:
    with stopping_at_once("stopped before anything was done; the same command begins again"):
        return _train_run(arguments)


def _train_run(arguments) -> int:
    from mot_gen.recipes.recipe import load_recipe

    def folder_of(recipe: Recipe) -> Path:
        return Path(arguments.out or Path("runs") / recipe.name)

    def first(recipe: Recipe, check: Callable[[], None]) -> None:
        has_begun(folder_of(recipe), arguments.resume)
        check_run(recipe, check, folder_of(recipe))

    recipe = load_recipe(arguments.recipe, arguments.overrides, first)
    folder = folder_of(recipe)

    from mot_gen.reports.conclude import all_hooks, summary_of
    from mot_gen.training.loop import train

    hooks = all_hooks(recipe)
    if recipe.reinforce:
        from mot_gen.reinforce.hooks import reinforce_hooks
        from mot_gen.reinforce.report import summary as summary_of

        hooks = reinforce_hooks(recipe, hooks)
    run = train(recipe, folder, arguments.resume, hooks)
    if not run.world.first:
        return 0
    summary = summary_of(folder)
    if summary:
        print(summary)
    print(f"{folder / 'model'} is trained; {_next_command(recipe, folder)}")
    return 0


def _next_command(recipe: Recipe, folder: Path) -> str:
    """How to generate with the model that was trained: pictures where it knows them."""
    makes = {"image": "picture.png", "speech": "sound.wav", "vector": "numbers.json"}
    kinds = [kind for kind in makes if kind in recipe.tokenizers]
    out = f"--to {kinds[0]} --prompt '...' --out {makes[kinds[0]]}" if kinds else "--to text --prompt '...'"
    return f"mot-gen generate {quote(str(folder))} {out}{_permission_for(folder / 'model')}"


def _permission_for(model: Path) -> str:
    """The option without which a model of a user's own modules is not loaded; "" for any other."""
    try:
        refuse_foreign(model)
    except InputError:
        return " --trust-remote-code"
    return ""
