"""The quickstart: train on the embedded set, generate both ways, measure, write a report with pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import differences, load_recipe


def quickstart(out: str | Path = Path("runs") / "digits", overrides: Sequence[str] = ()) -> dict:
    """Run all of it, by the recipe `digits` with its overrides, in the folder `out`. Returns what `report.json` holds.

    A run that was interrupted goes on; one that is finished is measured again.
    """
    folder, recipe = Path(out), load_recipe("digits", list(overrides))
    if recipe.data.source != "digits":
        raise InputError(f"data.source: the quickstart judges digits, not {recipe.data.source}; use mot-gen train")
    earlier = folder / "recipe.yaml"
    resume = (folder / "checkpoints" / "latest").exists()
    if resume and earlier.exists() and (changed := differences(load_recipe(earlier), recipe)):
        raise InputError(f"{folder}: was begun with another recipe ({changed[0]}); remove it, or give another --out")

    # Torch and the rest are imported when all that can be refused has been.
    from mot_gen.datasets import digits
    from mot_gen.reports.hooks import hooks
    from mot_gen.reports.judge_run import judge
    from mot_gen.training.loop import train

    task = digits.task()
    print(f"training on {task.what}: {recipe.training.steps} steps, into {folder}", file=sys.stderr, flush=True)
    return judge(train(recipe, folder, resume, hooks(recipe)), task)
