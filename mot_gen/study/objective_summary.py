"""What a study of objectives found, from the files of its runs: objective_summary, objective_table.

Losses of different objectives cannot be compared; pictures can. Per objective: its cost, what a judge says of its
pictures, its captions, and how many evaluations and seconds a picture takes, at its own setting and at others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter

from mot_gen.study.figures import mean_and_sd, over
from mot_gen.study.objective_variants import setting_of
from mot_gen.study.runs import Job
from mot_gen.study.summary import costs, counts, finished_runs, quality, table_of
from mot_gen.study.worker import finished_run


def objective_summary(jobs: Sequence[Job], modality: str) -> dict:
    """The study's JSON: `objectives`, in order, each with every seed's figures. Runs that are not finished are left
    out, and counted."""
    runs = finished_runs(jobs)
    return {
        "modality": modality,
        **counts(jobs),
        "objectives": [_objective(own, modality) for own in runs.values() if own],
    }


def _objective(jobs: Sequence[Job], modality: str) -> dict:
    variant = jobs[0].variant
    training, sampling = variant.recipe.training, variant.recipe.sampling
    return {
        "name": variant.name,
        **setting_of(variant, modality),
        **costs(jobs),
        "steps": training.steps,
        "flops": training.steps * variant.cost.flops,
        "quality": quality(jobs),
        "by_evaluations": _by_evaluations(jobs),
        "own_steps": sampling.num_inference_steps,
    }


def _by_evaluations(jobs: Sequence[Job]) -> list[dict]:
    """A row for each number of steps, with the spread of its figures over seeds."""
    by_steps: defaultdict[int, list[dict]] = defaultdict(list)
    for job in jobs:
        result = finished_run(job.folder) or {}
        for row in result.get("by_evaluations", []):
            by_steps[row["steps"]].append(row)
    return [_over_seeds(by_steps[steps]) for steps in sorted(by_steps)]


def _over_seeds(rows: Sequence[dict]) -> dict:
    """One row of those at one number of steps."""
    return {
        "steps": rows[0]["steps"],
        "passes": rows[0]["passes"],
        "n": rows[0]["n"],
        "class_accuracy": over(rows, itemgetter("class_accuracy")),
        "cpu_seconds": over(rows, itemgetter("cpu_seconds")),
    }


def own_row(each: dict) -> dict | None:
    """The row at the objective's own number of steps, or at the largest below it that makes a difference."""
    rows = [row for row in each["by_evaluations"] if row["steps"] <= each["own_steps"]]
    return rows[-1] if rows else None


# What a column of the table says of an objective.
COLUMNS: dict[str, Callable[[dict], str]] = {
    "objective": lambda each: each["name"],
    "tokens": lambda each: each["tokenizer"]["kind"],
    "steps": lambda each: str(each["steps"]),
    "TFLOPs": lambda each: f"{each['flops'] / 1e12:.2f}",
    "CPU s/step": lambda each: f"{each['cpu_seconds_a_step']['mean']:.3f}",
    "class accuracy": lambda each: mean_and_sd(each["quality"].get("class_accuracy")),
    "Frechet": lambda each: mean_and_sd(each["quality"].get("frechet"), 2),
    "captions": lambda each: mean_and_sd(each["quality"].get("caption_accuracy")),
    "evaluations": lambda each: _of_own(each, lambda row: str(row["passes"])),
    "CPU ms/picture": lambda each: _of_own(each, lambda row: f"{1000 * row['cpu_seconds']['mean']:.1f}"),
}


def _of_own(each: dict, cell: Callable[[dict], str]) -> str:
    row = own_row(each)
    return "-" if row is None else cell(row)


def objective_table(found: dict) -> list[list[str]]:
    """Header and rows: what training took, the samples at the objective's own setting, and what a picture takes."""
    return table_of(COLUMNS, found["objectives"])


def evaluations_table(found: dict) -> list[list[str]]:
    """Header and rows: pictures by the number of evaluations, a row for each objective and number."""
    rows = [["objective", "evaluations", "class accuracy", "CPU ms/picture"]]
    for each in found["objectives"]:
        for row in each["by_evaluations"]:
            took = f"{1000 * row['cpu_seconds']['mean']:.1f}"
            rows.append([each["name"], str(row["passes"]), mean_and_sd(row["class_accuracy"]), took])
    return rows
