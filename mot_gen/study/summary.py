"""What a study found, from the files of its runs: summary, curve, table.

Per backbone: its cost, the losses at the end by modality over its seeds, figures of its samples, and how its losses
match the reference's by step, seed by seed. Spreads are standard deviations over seeds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mot_gen.study.runs import Job
from mot_gen.study.step_matching import Curve, match
from mot_gen.study.variants import CONTROL
from mot_gen.study.worker import finished

SMOOTHING = 0.05  # of a run's logged losses, averaged together
SPLITS = ("train", "held_out")


def summary(jobs: Sequence[Job], reference: str, modalities: Sequence[str], matched_by: str) -> dict:
    """The study's JSON: `backbones`, in order, and what they were compared by. Runs that are not finished are left
    out, and counted."""
    names = list(dict.fromkeys(job.variant.name for job in jobs))
    runs = {name: [job for job in jobs if job.variant.name == name and finished(job.folder)] for name in names}
    first = jobs[0].recipe
    return {
        "match": matched_by,
        "reference": reference,
        "modalities": list(modalities),
        "seeds": sorted({job.seed for job in jobs}),
        "steps": first.training.steps,
        "warmup_steps": first.training.warmup_steps,
        "smoothing": SMOOTHING,
        "finished": sum(map(len, runs.values())),
        "runs": len(jobs),
        "control": CONTROL if CONTROL in names else None,
        "machine": {"processor": platform.processor() or platform.machine(), "cores_seen": os.cpu_count()},
        "backbones": [_backbone(runs[name], runs[reference], modalities) for name in names if runs[name]],
    }


def _backbone(jobs: Sequence[Job], reference: Sequence[Job], modalities: Sequence[str]) -> dict:
    variant = jobs[0].variant
    lines = [entries(job.folder) for job in jobs]
    steps = variant.recipe.training.steps
    found = {
        "name": variant.name,
        "kind": variant.recipe.backbone.kind,
        "options": variant.recipe.backbone.options,
        "note": variant.note,
        "causal": variant.cost.causal,
        "active_parameters": variant.cost.active,
        "total_parameters": variant.cost.total,
        "flops_a_step": variant.cost.flops,
        "executed_flops_a_step": variant.cost.executed,
        "seeds": [job.seed for job in jobs],
        "seconds_a_step": spread([each[-1]["seconds"] / steps for each in lines]),
        "cpu_seconds_a_step": spread([each[-1]["cpu_seconds"] / steps for each in lines]),
        "losses": {
            name: {split: spread([final(curve(each, name, split)) for each in lines]) for split in SPLITS}
            for name in modalities
        },
        "quality": _quality(jobs),
    }
    if reference and jobs[0].variant.name != reference[0].variant.name:
        ratio = variant.cost.flops / reference[0].variant.cost.flops
        found["flops_over_reference"] = ratio
        found["matching"] = {
            name: {split: _matching(jobs, reference, name, split, ratio) for split in SPLITS} for name in modalities
        }
    return found


def _matching(jobs: Sequence[Job], reference: Sequence[Job], modality: str, split: str, flops_ratio: float) -> dict:
    """Step matching of each seed both have, and the slopes' mean and spread, in steps and in FLOPs."""
    theirs, by_seed = {job.seed: job for job in reference}, {}
    for job in (job for job in jobs if job.seed in theirs):
        first, own = (curve(entries(each.folder), modality, split) for each in (theirs[job.seed], job))
        width = max(1, round(SMOOTHING * len(first))) if split == "train" else 1
        matched = None
        if len(first) > 1 and len(own) > 1:
            matched = match(first, own, job.recipe.training.warmup_steps, width)
        by_seed[job.seed] = matched and asdict(matched)
    whole = [each for each in by_seed.values() if each]
    if not whole:
        return {"by_seed": by_seed, "slope": None}
    return {
        "by_seed": by_seed,
        "slope": spread([each["slope"] for each in whole]),
        "slope_in_flops": spread([each["slope"] * flops_ratio for each in whole]),
        "end_point_ratio": spread([each["end_point_ratio"] for each in whole]),
        "matched_share": spread([each["matched_share"] for each in whole]),
    }


def entries(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(lines: Sequence[dict], modality: str, split: str, by: str = "step") -> Curve:
    """(by, loss) of a modality: `train` losses of single steps, or `held_out` ones of the averaged model."""
    field = "losses" if split == "train" else "held_out"
    return [(line[by], line[field][modality]) for line in lines if modality in line.get(field, ())]


def final(points: Curve) -> float:
    """The mean of a curve's last points, as many as are smoothed together; of a held-out curve, which is smooth, the
    last."""
    width = max(1, round(SMOOTHING * len(points)))
    return statistics.fmean(loss for _, loss in points[-width:])


def spread(values: Sequence[float]) -> dict:
    """mean, and sd (None of a single value), over seeds."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


QUALITY = {
    "class_accuracy": ("images", "class_accuracy"),
    "frechet": ("images", "frechet"),
    "caption_accuracy": ("captions", "accuracy"),
    "bits_per_byte": ("text", "bits_per_byte"),
}


def _quality(jobs: Sequence[Job]) -> dict:
    """Figures of samples over seeds, with N; empty where the data has no classes to judge by."""
    results = [result for job in jobs if (result := finished(job.folder)) is not None]
    found = [result["quality"] for result in results]
    if not all(found):
        return {}
    figures = {name: spread([each[part][key] for each in found]) for name, (part, key) in QUALITY.items()}
    return figures | {"images_n": found[0]["images"]["n"], "captions_n": found[0]["captions"]["n"]}


# ---------------------------------------------------------------- as text


def table(found: dict) -> list[list[str]]:
    """Header and rows: what it costs, the losses at the end, the slopes, the samples."""
    names = found["modalities"]
    scored = any(each["quality"] for each in found["backbones"])
    header = ["backbone", "active", "total", "GFLOPs/step", "executed", "CPU s/step"]
    header += [f"{name} {split}" for name in names for split in ("train", "held-out")]
    header += [f"s {name}{tail}" for name in names for tail in ("", " held-out")]
    header += ["class accuracy", "captions"] if scored else []
    rows = [_row(each, names, scored) for each in found["backbones"]]
    return [header, *rows]


def _row(each: dict, names: Sequence[str], scored: bool) -> list[str]:
    row = [each["name"] + ("" if each["causal"] else "*"), _short(each["active_parameters"])]
    row += [
        _short(each["total_parameters"]),
        f"{each['flops_a_step'] / 1e9:.2f}",
        f"{each['executed_flops_a_step'] / 1e9:.2f}",
        f"{each['cpu_seconds_a_step']['mean']:.3f}",
    ]
    row += [shown(each["losses"][name][split]) for name in names for split in SPLITS]
    for name in names:
        for split in SPLITS:
            matching = each.get("matching", {}).get(name, {}).get(split)
            row.append("1" if matching is None else shown(matching.get("slope_in_flops"), 2))
    if scored:
        row += [shown(each["quality"].get(key), 2) for key in ("class_accuracy", "caption_accuracy")]
    return row


def shown(figure: dict | None, digits: int = 3) -> str:
    """mean ± sd, or a dash."""
    if figure is None:
        return "-"
    sd = "" if figure["sd"] is None else f" ± {figure['sd']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{sd}"


def _short(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count < 1e8 else f"{count / 1e6:.0f}M"
