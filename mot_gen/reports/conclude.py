"""How a run of the command ends: all_hooks, with its measuring at the end, and summary_of, what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mot_gen.datasets.task import Task
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.hooks import hooks
from mot_gen.reports.judge_run import judge, summary, task_of
from mot_gen.reports.own_data import own_summary, show
from mot_gen.training.loop import REPORT, Hooks, Run


def all_hooks(recipe: Recipe, task: Task | None = None) -> Hooks:
    """The hooks of a recipe, and at the end figures and a page: by the task where its data has one, else by held-out
    pairs of pictures and captions.

    task: what pictures are judged by; by default that of the recipe's data.
    """
    task = task or task_of(recipe)
    given = hooks(recipe)
    if not recipe.evaluation.report or "image" not in recipe.tokenizers:
        return given

    def conclude(run: Run) -> None:
        if task is None:
            show(run)
        else:
            judge(run, task)

    return replace(given, conclude=conclude)


def summary_of(folder: Path) -> str | None:
    """The figures of a finished run in a few lines, None where nothing was measured."""
    path = folder / REPORT
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return summary(found) if "images" in found else own_summary(found)
