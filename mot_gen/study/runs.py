"""The runs of a study, each a training run in a folder of its own, made by worker processes.

Job, with_tokenizers, jobs_of, run_all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals
from mot_gen.recipes.recipe import Recipe, differences, load_recipe, recipe_of
from mot_gen.study.variants import Variant
from mot_gen.study.worker import finished
from mot_gen.training.build import TOKENIZERS, build_tokenizers, load_splits

POLL = 0.5  # seconds between looks at the workers
LOOK = 30.0  # seconds between lines of progress on a pipe
LINES = 2000  # of metrics.jsonl at most
EVALUATIONS = 20  # of the held-out losses along a run, unless the recipe says how often
LOG = "log.txt"


@dataclass(frozen=True, eq=False)
class Job:
    """One run: a variant under one seed."""

    variant: Variant
    seed: int
    recipe: Recipe
    folder: Path


def with_tokenizers(variants: Sequence[Variant], recipe: Recipe, out: Path) -> list[Variant]:
    """The variants with the tokenizers that their recipe trains, trained once for all in `out`."""
    asked = [name for name, section in recipe.tokenizers.items() if section.train is not None]
    if not asked:
        return list(variants)
    build_tokenizers(recipe, load_splits(recipe), out)
    made = {n: {"kind": recipe.tokenizers[n].kind, "path": str((out / TOKENIZERS / n).resolve())} for n in asked}
    raws = [variant.recipe.model_dump(mode="json") for variant in variants]
    recipes = [recipe_of({**raw, "tokenizers": {**raw["tokenizers"], **made}}, raw["name"]) for raw in raws]
    return [replace(variant, recipe=recipe) for variant, recipe in zip(variants, recipes)]


def jobs_of(variants: Sequence[Variant], seeds: int, out: Path) -> list[Job]:
    """Every variant under every seed, seed by seed, so that a study that is stopped has whole comparisons. A seed sets
    the initial weights, the order of the data and its noise, the two latter the same for all variants."""
    jobs = []
    for number in range(seeds):
        for variant in variants:
            recipe = _recipe(variant, variant.recipe.training.seed + number)
            jobs.append(Job(variant, recipe.training.seed, recipe, out / "runs" / recipe.name))
    return jobs


def _recipe(variant: Variant, seed: int) -> Recipe:
    raw = variant.recipe.model_dump(mode="json")
    training, steps = raw["training"], raw["training"]["steps"]
    raw["name"] = f"{variant.name}-seed{seed}"
    raw["evaluation"]["every"] = raw["evaluation"]["every"] or -(-steps // EVALUATIONS)
    checkpoints = min(training["checkpoint_every"], -(-steps // 4))
    raw["training"] = training | {
        "seed": seed,
        "log_every": -(-steps // LINES),
        "checkpoint_every": checkpoints,
        "keep_checkpoints": 1,
        "sample_every": 0,
    }
    return recipe_of(raw, variant.name)


def run_all(jobs: Sequence[Job], at_once: int = 1) -> list[Job]:
    """Run what is not finished, shared out among `at_once` workers. Returns the jobs that failed, their reasons in the
    LOG beside their folders; a worker whose run fails is followed by another for the rest of its share.

    Raises InputError where a folder has a run of another recipe, or a worker refuses its input, and Interrupted when
    stopped by SIGINT or SIGTERM, after the workers have written checkpoints.
    """
    for job in jobs:
        _check_folder(job)
    waiting = [job for job in jobs if finished(job.folder) is None]
    failed: list[Job] = []
    modalities = list(jobs[0].recipe.tokenizers)
    total = sum(job.recipe.training.steps for job in jobs)
    with stop_signals() as stop, Progress(total, modalities, _steps(jobs), interval=LOOK) as bar:
        workers = [_begin(share) for k in range(at_once) if (share := waiting[k::at_once])]
        while workers:
            time.sleep(POLL)
            if stop.requested:
                _end(workers)
                raise Interrupted("stopped; say the same command again to go on")
            for worker in [worker for worker in workers if worker.process.poll() is not None]:
                workers.remove(worker)
                rest = _unfinished(worker)
                if rest:
                    failed.append(rest[0])
                    bar.note(f"{rest[0].recipe.name}: failed, see {_log(rest[0])}")
                if rest[1:]:
                    workers.append(_begin(rest[1:]))
            if workers and (made := _steps(jobs)) != bar.done:
                bar.update(made, **_last(_current(workers[0]))[1])
    return failed


@dataclass(frozen=True)
class _Worker:
    """A process, and its share of the jobs, in order."""

    process: subprocess.Popen
    jobs: list[Job]


def _check_folder(job: Job) -> None:
    path = job.folder / "recipe.yaml"
    if path.exists() and (changed := differences(load_recipe(path), job.recipe)):
        raise InputError(
            f"{job.folder}: was begun with another recipe ({changed[0]}); remove it, or give another --out"
        )


def _begin(jobs: list[Job]) -> _Worker:
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.recipe.save(job.folder / "recipe.yaml")
    command = [sys.executable, "-m", "mot_gen.study.worker", *(str(job.folder) for job in jobs)]
    with open(_log(jobs[0]), "ab") as log:
        # In a session of its own: the terminal's interrupt is the study's to pass on.
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    return _Worker(process, jobs)


def _log(job: Job) -> Path:
    return job.folder.parent / LOG


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.process.wait()


def _unfinished(worker: _Worker) -> list[Job]:
    """The jobs that a worker which has ended left undone, the one that it failed at first."""
    rest = [job for job in worker.jobs if finished(job.folder) is None]
    if rest and worker.process.returncode == 2:
        reason = _log(rest[0]).read_text(encoding="utf-8").strip().splitlines()[-1]
        raise InputError(f"{rest[0].recipe.name}: {reason}")
    return rest


def _current(worker: _Worker) -> Job:
    return next((job for job in worker.jobs if finished(job.folder) is None), worker.jobs[-1])


def _steps(jobs: Sequence[Job]) -> int:
    """Steps that all runs have made together."""
    return sum(_last(job)[0] for job in jobs)


def _last(job: Job) -> tuple[int, dict[str, float]]:
    """The last logged step of a run, and its losses."""
    try:
        with open(job.folder / "metrics.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            entry = json.loads(file.read().splitlines()[-1])
        return entry["step"], entry["losses"]
    except (OSError, ValueError, IndexError, KeyError):
        return 0, {}
