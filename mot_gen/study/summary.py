"""What a study of backbones found, from the files of its runs: summary, table.

Per backbone: its cost, the losses at the end by modality over its seeds, figures of its samples, and how its losses
match the reference's by step, seed by seed. Spreads are standard deviations over seeds.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from mot_gen.reports.curves import SMOOTHING, SPLITS, Curve, curve, entries, width_of
from mot_gen.study.figures import mean_and_sd, millions, over, spread
from mot_gen.study.runs import Job
from mot_gen.study.step_matching import match
from mot_gen.study.variants import CONTROL
from mot_gen.study.worker import finished_run

# Figures of samples, and where report.json has them.
QUALITY = {
    "class_accuracy": ("images", "class_accuracy"),
    "frechet": ("images", "frechet"),
    "caption_accuracy": ("captions", "accuracy"),
    "bits_per_byte": ("text", "bits_per_byte"),
}


def summary(jobs: Sequence[Job], reference: str, modalities: Sequence[str], matched_by: str) -> dict:
    """The study's JSON: `backbones`, in order, and what they were compared by. Runs that are not finished are left
    out, and counted."""
    runs = finished_runs(jobs)
    training = jobs[0].recipe.training
    compared = [_backbone(own, runs[reference], modalities) for own in runs.values() if own]
    return {
        "match": matched_by,
        "reference": reference,
        "modalities": list(modalities),
        "steps": training.steps,
        "warmup_steps": training.warmup_steps,
        "smoothing": SMOOTHING,
        **counts(jobs),
        "control": CONTROL if CONTROL in runs else None,
        "backbones": compared,
    }


def finished_runs(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """The finished runs of every variant, by its name and in order."""
    runs: dict[str, list[Job]] = {job.variant.name: [] for job in jobs}
    for job in jobs:
        if finished_run(job.folder):
            runs[job.variant.name].append(job)
    return runs


def counts(jobs: Sequence[Job]) -> dict:
    """Which seeds there are, how many runs are finished, and on what machine."""
    machine = {"processor": platform.processor() or platform.machine(), "cores_seen": os.cpu_count()}
    done = sum(finished_run(job.folder) is not None for job in jobs)
    return {"seeds": sorted({job.seed for job in jobs}), "finished": done, "runs": len(jobs), "machine": machine}


def costs(jobs: Sequence[Job]) -> dict:
    """What a variant is and what its steps took, over its seeds."""
    variant = jobs[0].variant
    steps = variant.recipe.training.steps
    last = [entries(job.folder)[-1] for job in jobs]
    return {
        "active_parameters": variant.cost.active,
        "total_parameters": variant.cost.total,
        "flops_a_step": variant.cost.flops,
        "executed_flops_a_step": variant.cost.executed,
        "seeds": [job.seed for job in jobs],
        "seconds_a_step": over(last, lambda line: line["seconds"] / steps),
        "cpu_seconds_a_step": over(last, lambda line: line["cpu_seconds"] / steps),
    }


def _backbone(jobs: Sequence[Job], reference: Sequence[Job], modalities: Sequence[str]) -> dict:
    variant = jobs[0].variant
    found = {
        "name": variant.name,
        "kind": variant.recipe.backbone.kind,
        "options": variant.recipe.backbone.options,
        "note": variant.note,
        "causal": variant.cost.causal,
        **costs(jobs),
        "losses": _by_split(modalities, lambda name, split: end_losses(jobs, name, split)),
        "quality": quality(jobs),
    }
    if reference and variant.name != reference[0].variant.name:
        ratio = variant.cost.flops / reference[0].variant.cost.flops
        found["flops_over_reference"] = ratio
        found["matching"] = _by_split(modalities, lambda name, split: _matching(jobs, reference, name, split, ratio))
    return found


def _by_split(modalities: Sequence[str], figure: Callable[[str, str], dict]) -> dict:
    """modality -> split -> figure."""
    found: dict[str, dict] = {}
    for name in modalities:
        found[name] = {split: figure(name, split) for split in SPLITS}
    return found


def end_losses(jobs: Sequence[Job], modality: str, split: str) -> dict:
    """The loss at the end, over seeds."""
    return over(jobs, lambda job: final(curve(entries(job.folder), modality, split)))


def final(points: Curve) -> float:
    """The mean of a curve's last points, as many as are smoothed together; of a held-out curve, which is smooth, the
    last."""
    return statistics.fmean(loss for _, loss in points[-width_of(points) :])


def _matching(jobs: Sequence[Job], reference: Sequence[Job], modality: str, split: str, flops_ratio: float) -> dict:
    """Step matching of each seed both have, and the slopes' mean and spread, in steps and in FLOPs."""
    theirs = {job.seed: job for job in reference}
    both = [(theirs[job.seed], job) for job in jobs if job.seed in theirs]
    by_seed = {own.seed: _matched(first, own, modality, split) for first, own in both}
    whole = [matched for matched in by_seed.values() if matched is not None]
    if not whole:
        return {"by_seed": by_seed, "slope": None}
    return {
        "by_seed": by_seed,
        "slope": over(whole, itemgetter("slope")),
        "slope_in_flops": over(whole, lambda matched: matched["slope"] * flops_ratio),
        "end_point_ratio": over(whole, itemgetter("end_point_ratio")),
        "matched_share": over(whole, itemgetter("matched_share")),
    }


def _matched(reference: Job, job: Job, modality: str, split: str) -> dict | None:
    """How one run matches the reference's of its seed; None where nothing can be matched."""
    first = curve(entries(reference.folder), modality, split)
    own = curve(entries(job.folder), modality, split)
    if min(len(first), len(own)) < 2:
        return None
    width = width_of(first) if split == "train" else 1
    found = match(first, own, job.recipe.training.warmup_steps, width)
    return None if found is None else asdict(found)


def quality(jobs: Sequence[Job]) -> dict:
    """Figures of samples over seeds, with N; empty where the data has no classes to judge by."""
    found = [_quality_of(job) for job in jobs]
    if not all(found):
        return {}
    figures: dict[str, Any] = {}
    for name, (part, key) in QUALITY.items():
        figures[name] = spread([each[part][key] for each in found])
    return figures | {"images_n": found[0]["images"]["n"], "captions_n": found[0]["captions"]["n"]}


def _quality_of(job: Job) -> dict:
    """Figures of one run's samples; empty where there are none."""
    result = finished_run(job.folder)
    return {} if result is None else result.get("quality", {})


# ---------------------------------------------------------------- as text


def table(found: dict) -> list[list[str]]:
    """Header and rows: what it costs, the losses at the end, the slopes, the samples."""
    backbones = found["backbones"]
    columns: dict[str, Callable[[dict], str]] = {
        "backbone": starred,
        "active": lambda each: millions(each["active_parameters"]),
        "total": lambda each: millions(each["total_parameters"]),
        "GFLOPs/step": lambda each: f"{each['flops_a_step'] / 1e9:.2f}",
        "executed": lambda each: f"{each['executed_flops_a_step'] / 1e9:.2f}",
        "CPU s/step": lambda each: f"{each['cpu_seconds_a_step']['mean']:.3f}",
    }
    for name in found["modalities"]:
        columns[f"{name} train"] = _loss_of(name, "train")
        columns[f"{name} held-out"] = _loss_of(name, "held_out")
    for name in found["modalities"]:
        columns[f"s {name}"] = _slope_of(name, "train")
        columns[f"s {name} held-out"] = _slope_of(name, "held_out")
    if any(each["quality"] for each in backbones):
        columns["class accuracy"] = lambda each: mean_and_sd(each["quality"].get("class_accuracy"), 2)
        columns["captions"] = lambda each: mean_and_sd(each["quality"].get("caption_accuracy"), 2)
    return table_of(columns, backbones)


def table_of(columns: Mapping[str, Callable[[dict], str]], rows: Sequence[dict]) -> list[list[str]]:
    """Header and rows. columns: what each says of a row, by its heading."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return [list(columns), *cells]


def starred(each: dict) -> str:
    """A backbone's name, with a star where its likelihoods cannot be compared."""
    return each["name"] if each["causal"] else f"{each['name']}*"


def _loss_of(modality: str, split: str) -> Callable[[dict], str]:
    return lambda each: mean_and_sd(each["losses"][modality][split])


def _slope_of(modality: str, split: str) -> Callable[[dict], str]:
    """The slope in FLOPs; 1 for the reference itself."""

    def cell(each: dict) -> str:
        if "matching" not in each:
            return "1"
        return mean_and_sd(each["matching"][modality][split].get("slope_in_flops"), 2)

    return cell
