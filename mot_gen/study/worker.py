"""`python -m mot_gen.study.worker [--evaluations N,...] FOLDER ...`: runs of a study, one after the other.

main, run_once, finished_run.

Trains FOLDER/recipe.yaml, from its newest checkpoint where there is one, measures what it learned, and leaves
FOLDER/result.json, which says that the run is finished. Exit codes are those of mot-gen. A process takes several runs
because importing the libraries costs as much as many small steps.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.atomic import write_json

RESULT = "result.json"
SAMPLES = "samples.png"  # of `judge`
PICTURES = 100  # drawn for each number of evaluations
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(arguments: Sequence[str]) -> int:
    """Run each to its end, up to the first that fails; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", default="", metavar="N,...", help="steps in which pictures are also drawn")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    evaluations = [int(number) for number in given.evaluations.split(",") if number]
    _end_with_parent()
    try:
        for folder in given.folders:
            run_once(folder, evaluations)
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except Interrupted:
        return 3
    return 0


def run_once(folder: Path, evaluations: Sequence[int] = ()) -> dict:
    """Train and measure a run's recipe; what RESULT holds. evaluations: numbers of steps in which pictures are drawn
    and judged as well."""
    from mot_gen.recipes.recipe import load_recipe
    from mot_gen.training.loop import train

    recipe = load_recipe(folder / "recipe.yaml")
    resume = (folder / "checkpoints" / "latest").exists()
    if not resume:  # lines of a start that was killed before its first checkpoint
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    run = train(recipe, folder, resume)
    found = {"steps": run.step, "tokens": run.tokens, "flops": run.flops, **_measured(run, evaluations)}
    write_json(folder / RESULT, found)
    return found


def finished_run(folder: Path) -> dict | None:
    """What a finished run found, or None."""
    path = folder / RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _measured(run, evaluations: Sequence[int]) -> dict:
    """Figures of samples and captions, where the data has classes to judge them by."""
    from mot_gen.reports.judge_run import judge, task_of

    task = task_of(run.recipe)
    if task is None:
        return {"quality": {}}
    from mot_gen.reports.evaluations import by_evaluations  # here, since pipelines import most of diffusers
    from mot_gen.reports.measure import judge_of

    network = judge_of(run, task)
    found = judge(run, task, network)
    measured: dict = {"quality": {name: found[name] for name in ("images", "captions", "text")}}
    if evaluations:
        steps = [*evaluations, run.recipe.sampling.num_inference_steps]
        measured["by_evaluations"] = by_evaluations(run, task, network, steps, PICTURES)
    return measured


def _end_with_parent() -> None:
    """Ask Linux to stop this process, with a checkpoint, when the study that began it is killed."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
