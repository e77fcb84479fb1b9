"""trial: a few steps of a recipe, to see how long one takes and how much memory the process needs."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from mot_gen.recipes.recipe import Recipe
from mot_gen.training.loop import training_step
from mot_gen.training.runs import prepare

WARM = 2  # steps that are not counted: the first ones load kernels and fill caches
COUNTED = 4


def trial(recipe: Recipe) -> dict[str, float | int]:
    """`seconds_a_step` (the median), `training_seconds` of all steps, and `measured_bytes`, the most that this process
    had. Tokenizers that the recipe would train are used untrained; nothing is kept."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe, Path(folder), trained_tokenizers=False)
        try:
            seconds = [_timed(run) for _ in range(WARM + COUNTED)][WARM:]
            read = run.meter.read()
        finally:
            run.close()
    a_step = statistics.median(seconds)
    return {
        "seconds_a_step": a_step,
        "training_seconds": a_step * recipe.training.steps,
        "measured_bytes": read["memory_bytes"],
    }


def _timed(run) -> float:
    started = time.perf_counter()
    training_step(run)
    return time.perf_counter() - started
