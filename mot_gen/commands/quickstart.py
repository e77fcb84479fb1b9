"""The quickstart: train on the embedded set, generate both ways, measure, write a report with pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import differences, load_recipe


def quickstart(out: str | Path = Path("runs") / "digits", overrides: Sequence[str] = ()) -> dict:
    """Run all of it, by the recipe `digits` with its overrides, in the folder `out`. Returns what `report.json` holds.

    A run that was interrupted goes on; one that is finished is not measured again.
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
    from mot_gen.reports.conclude import all_hooks
    from mot_gen.training.loop import REPORT, train

    task = digits.task()
    print(f"training on {task.what}: {recipe.training.steps} steps, into {folder}", file=sys.stderr, flush=True)
    recipe.evaluation.report = True
    train(recipe, folder, resume, all_hooks(recipe, task))
    return json.loads((folder / REPORT).read_text(encoding="utf-8"))
