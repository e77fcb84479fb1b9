"""`python -m mot_gen.study.worker FOLDER ...`: runs of a study, one after the other; main, run_once, finished.

Trains FOLDER/recipe.yaml, from its newest checkpoint where there is one, measures what it learned, and leaves
FOLDER/result.json, which says that the run is finished. Exit codes are those of mot-gen. A process takes several runs
because importing the libraries costs as much as many small steps.
"""

from __future__ import annotations

import ctypes
import json
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.whole import write_json

RESULT = "result.json"
SAMPLES = "samples.png"  # of `judge`
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(folders: Sequence[str]) -> int:
    """Run each to its end, up to the first that fails; returns the exit code."""
    _end_with_parent()
    try:
        for folder in folders:
            run_once(Path(folder))
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except Interrupted:
        return 3
    return 0


def run_once(folder: Path) -> dict:
    """Train and measure a run's recipe; what RESULT holds."""
    from mot_gen.recipes.recipe import load_recipe
    from mot_gen.training.loop import train

    recipe = load_recipe(folder / "recipe.yaml")
    resume = (folder / "checkpoints" / "latest").exists()
    if not resume:  # lines of a start that was killed before its first checkpoint
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    run = train(recipe, folder, resume)
    found = {"steps": run.step, "tokens": run.tokens, "flops": run.flops, "quality": _quality(run)}
    write_json(folder / RESULT, found)
    return found


def finished(folder: Path) -> dict | None:
    """What a finished run found, or None."""
    path = folder / RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _quality(run) -> dict:
    """Figures of samples and captions, where the data has classes to judge them by."""
    from mot_gen.reports.judge_run import judge, task_of

    task = task_of(run.recipe)
    if task is None:
        return {}
    found = judge(run, task)
    return {name: found[name] for name in ("images", "captions", "text")}


def _end_with_parent() -> None:
    """Ask Linux to stop this process, with a checkpoint, when the study that began it is killed."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
