"""How a run of the command ends: all_hooks, with its measuring at the end, and summary_of, what was measured.

Data whose module has `measure(pipe, data, count)` is measured by that: actions, for example, by its simulator.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

from mot_gen.datasets.task import Task
from mot_gen.files.atomic import write_json
from mot_gen.recipes.implementations import locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.hooks import hooks, pipeline_of
from mot_gen.reports.judge_run import judge, summary, task_of, train_facts
from mot_gen.reports.own_data import own_summary, show
from mot_gen.training.loop import REPORT, Hooks, Run


def all_hooks(recipe: Recipe, task: Task | None = None) -> Hooks:
    """The hooks of a recipe, and at the end figures and a page: by the task where its data has one, else by held-out
    pairs of pictures and captions.

    task: what pictures are judged by; by default that of the recipe's data.
    """
    given = hooks(recipe)
    if not recipe.evaluation.report:
        return given
    source = locate("mot_gen.datasets", recipe.data.source)
    if hasattr(source, "measure"):
        return replace(given, conclude=partial(_measure_acting, source))
    if "image" not in recipe.tokenizers:
        return given
    task = task or task_of(recipe)
    return replace(given, conclude=show if task is None else partial(judge, task=task))


def _measure_acting(source: ModuleType, run: Run) -> None:
    """Write what the data's own module measures of a model that acts."""
    from mot_gen.pipelines.vectors import VectorPipeline

    count = run.recipe.evaluation.samples
    print(f"acting {count} times", file=sys.stderr, flush=True)
    found = source.measure(pipeline_of(run, VectorPipeline), run.recipe.data, count)
    facts = train_facts(run, "samples")
    write_json(run.folder / REPORT, {"train": facts, "acting": found, "model": str(run.folder / "model")})


def summary_of(folder: Path) -> str | None:
    """The figures of a finished run in a few lines, None where nothing was measured."""
    path = folder / REPORT
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if "acting" in found:
        return json.dumps(found["acting"], indent=2)
    return summary(found) if "images" in found else own_summary(found)
