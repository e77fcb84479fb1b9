"""`mot-gen quickstart`: train on the embedded set, generate both ways, measure, write a report with pictures.

register adds it to the command; quickstart does it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from mot_gen.commands.early import check_run
from mot_gen.commands.options import add_overrides
from mot_gen.errors import InputError
from mot_gen.files.stopping import stopping_at_once


def register(commands) -> None:
    """Add `quickstart` to the commands of mot-gen."""
    command = commands.add_parser("quickstart", help="train on handwritten digits, generate both ways, measure, report")
    add_overrides(command)
    command.add_argument("--out", metavar="DIR", default="runs/digits", help="default: runs/digits")
    command.add_argument("--json", action="store_true", help="print report.json")
    command.set_defaults(func=_quickstart)


def _quickstart(arguments) -> int:
    with stopping_at_once("stopped before anything was done; the same command begins again"):
        found = quickstart(arguments.out, arguments.overrides)
        if arguments.json:
            print(json.dumps(found, indent=2))
            return 0

        from mot_gen.reports.judge_run import summary

        print(summary(found))
        folder = quote(arguments.out)
        print(f"then try  mot-gen generate {folder} --to image --prompt 'a handwritten seven' --out seven.png")
        return 0


def quickstart(out: str | Path = Path("runs") / "digits", overrides: Sequence[str] = ()) -> dict:
    """Run all of it, by the recipe `digits` with its overrides, in the folder `out`. Returns what `report.json` holds.

    A run that was interrupted goes on; one that is finished is not measured again.
    """
    from mot_gen.recipes.recipe import differences, load_recipe

    folder = Path(out)
    recipe = load_recipe("digits", list(overrides), lambda given, check: check_run(given, check, folder))
    if recipe.data.source != "digits":
        raise InputError(f"data.source: the quickstart judges digits, not {recipe.data.source}; use mot-gen train")
    earlier = folder / "recipe.yaml"
    resume = (folder / "checkpoints" / "latest").exists()
    changed = differences(load_recipe(earlier), recipe) if resume and earlier.exists() else []
    if changed:
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
