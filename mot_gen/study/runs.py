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
from functools import partial
from pathlib import Path

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals
from mot_gen.recipes.recipe import Recipe, differences, load_recipe, recipe_of
from mot_gen.study.variants import Variant
from mot_gen.study.worker import finished_run
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


def with_tokenizers(variants: Sequence[Variant], out: Path) -> list[Variant]:
    """The variants with the tokenizers that their recipes train, in `out`. Variants that ask for the same ones share
    them, so each is trained once."""
    trained: dict[str, Path] = {}
    return [replace(variant, recipe=_with_tokenizers(variant, out, trained)) for variant in variants]


def _with_tokenizers(variant: Variant, out: Path, trained: dict[str, Path]) -> Recipe:
    """trained: the folders of earlier variants, by what they asked for."""
    recipe = variant.recipe
    asked = {name: section for name, section in recipe.tokenizers.items() if section.train is not None}
    if not asked:
        return recipe
    wanted = json.dumps({name: section.model_dump(mode="json") for name, section in asked.items()}, sort_keys=True)
    if wanted not in trained:
        folder = out / variant.name if trained else out
        build_tokenizers(recipe, load_splits(recipe), folder)
        trained[wanted] = folder
    raw = recipe.model_dump(mode="json")
    for name, section in asked.items():
        path = trained[wanted] / TOKENIZERS / name
        raw["tokenizers"][name] = {"kind": section.kind, "path": str(path.resolve())}
    return recipe_of(raw, recipe.name)


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


def run_all(jobs: Sequence[Job], at_once: int = 1, evaluations: Sequence[int] = ()) -> list[Job]:
    """Run what is not finished, shared out among `at_once` workers. Returns the jobs that failed, their reasons in the
    LOG beside their folders; a worker whose run fails is followed by another for the rest of its share.
    evaluations: numbers of steps in which each run's pictures are drawn and judged as well.

    Raises InputError where a folder has a run of another recipe, or a worker refuses its input, and Interrupted when
    stopped by SIGINT or SIGTERM, after the workers have written checkpoints.
    """
    for job in jobs:
        _check_folder(job)
    waiting = [job for job in jobs if finished_run(job.folder) is None]
    begin = partial(_begin, evaluations=evaluations)
    failed: list[Job] = []
    total = sum(job.recipe.training.steps for job in jobs)
    with stop_signals() as stop, Progress(total, list(jobs[0].recipe.tokenizers), _steps(jobs), interval=LOOK) as bar:
        shares = [waiting[number::at_once] for number in range(at_once)]
        workers = [begin(share) for share in shares if share]
        while workers:
            time.sleep(POLL)
            if stop.requested:
                _end(workers)
                raise Interrupted("stopped; say the same command again to go on")
            ended = [worker for worker in workers if worker.process.poll() is not None]
            for worker in ended:
                workers.remove(worker)
                left = _left_by(worker, failed, bar)
                if left:
                    workers.append(begin(left))
            _show(workers, jobs, bar)
    return failed


@dataclass(frozen=True)
class _Worker:
    """A process, and its share of the jobs, in order."""

    process: subprocess.Popen
    jobs: list[Job]

    @property
    def unfinished(self) -> list[Job]:
        """The first of them is the one that it is at, or failed at."""
        return [job for job in self.jobs if finished_run(job.folder) is None]


def _left_by(worker: _Worker, failed: list[Job], bar: Progress) -> list[Job]:
    """What is left for a worker to follow one that has ended. The job that it failed at is added to `failed`;
    InputError where it refused its input."""
    rest = worker.unfinished
    if not rest:
        return []
    first = rest[0]
    if worker.process.returncode == 2:
        reason = _log(first).read_text(encoding="utf-8").strip().splitlines()[-1]
        raise InputError(f"{first.recipe.name}: {reason}")
    failed.append(first)
    bar.note(f"{first.recipe.name}: failed, see {_log(first)}")
    return rest[1:]


def _show(workers: Sequence[_Worker], jobs: Sequence[Job], bar: Progress) -> None:
    """All steps, and the losses of the run that the first worker is at."""
    made = _steps(jobs)
    if workers and made != bar.done:
        at = workers[0].unfinished or workers[0].jobs[-1:]
        _, losses = _last(at[0])
        bar.update(made, **losses)


def _check_folder(job: Job) -> None:
    """InputError where the folder has a run of another recipe."""
    path = job.folder / "recipe.yaml"
    changed = differences(load_recipe(path), job.recipe) if path.exists() else []
    if changed:
        raise InputError(
            f"{job.folder}: was begun with another recipe ({changed[0]}); remove it, or give another --out"
        )


def _begin(jobs: list[Job], evaluations: Sequence[int]) -> _Worker:
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.recipe.save(job.folder / "recipe.yaml")
    command = [sys.executable, "-m", "mot_gen.study.worker", "--evaluations", ",".join(map(str, evaluations))]
    command += [str(job.folder) for job in jobs]
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
