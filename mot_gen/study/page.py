"""The study's page: the table, losses by FLOPs and by the clock, step matching, samples; and its plots as files.

write_page.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mot_gen.reports import page as report
from mot_gen.study.plot import COLOURS, Line, on_white, plot
from mot_gen.study.runs import Job
from mot_gen.study.step_matching import Curve, smooth
from mot_gen.study.summary import SMOOTHING, SPLITS, curve, entries, shown, table
from mot_gen.study.worker import SAMPLES, finished

SPLIT_NAMES = {"train": "training", "held_out": "held-out"}
AXES = {"flops": "training FLOPs", "cpu_seconds": "CPU seconds", "seconds": "seconds of wall clock"}


def write_page(found: dict, jobs: Sequence[Job], path: Path) -> None:
    """`study.html` of what `summary` found and of its runs' files, and `plots/` beside it."""
    plots = _plots(found, jobs)
    sections = [("What it cost and where it came", _table(found) + _notes(found))]
    sections += [(heading, "".join(drawn.values())) for heading, drawn in plots.items()]
    sections.append(("Samples", _samples(found, jobs)))
    folder = path.parent / "plots"
    folder.mkdir(exist_ok=True)
    for name, svg in (each for drawn in plots.values() for each in drawn.items() if each[1]):
        (folder / f"{name}.svg").write_text(on_white(svg) + "\n", encoding="utf-8")
    done = f"{found['finished']} of {found['runs']} runs, {found['steps']} steps each, seeds {found['seeds']}"
    title = f"mot_gen study: {found['recipe']}, backbones at equal {found['match'].replace('-', ' ')}"
    path.write_text(report.page(title, done, sections), encoding="utf-8")


def _plots(found: dict, jobs: Sequence[Job]) -> dict[str, dict[str, str]]:
    """Heading -> file name -> SVG."""
    plots: dict[str, dict[str, str]] = {}
    for modality in found["modalities"]:
        for split in SPLITS:
            heading = f"{modality}: {SPLIT_NAMES[split]} loss"
            plots[heading] = {f"{modality}-{split}-{by}": losses(found, jobs, modality, split, by) for by in AXES}
        heading = f"{modality}: step matching"
        plots[heading] = {f"{modality}-{split}-matching": matching(found, modality, split) for split in SPLITS}
    return plots


def losses(found: dict, jobs: Sequence[Job], modality: str, split: str, by: str) -> str:
    """An SVG of every backbone's loss by FLOPs or by a clock: the mean over seeds, and each seed faintly."""
    lines, late = [], []
    for number, each in enumerate(found["backbones"]):
        colour = COLOURS[number % len(COLOURS)]
        curves = [smoothed(c) for c in _curves(jobs, each["name"], modality, split, by)]
        lines += [Line(points, colour=colour, faint=True) for points in curves if len(curves) > 1]
        lines.append(Line(_mean(curves), each["name"] + ("" if each["causal"] else "*"), colour))
        late += [y for points in curves for _, y in points[len(points) // 8 :]]
    if not late:
        return ""
    margin = 0.05 * (max(late) - min(late))
    label = f"{SPLIT_NAMES[split]} loss, {modality}"
    return plot(lines, AXES[by], label, f"{label} by {AXES[by]}", (min(late) - margin, max(late) + margin))


def matching(found: dict, modality: str, split: str) -> str:
    """An SVG of the steps at which each backbone reached the reference's losses, with the lines through the origin."""
    lines, reach = [], found["steps"]
    for number, each in enumerate(found["backbones"]):
        matched = each.get("matching", {}).get(modality, {}).get(split)
        if matched is None or matched["slope"] is None:
            continue
        colour = COLOURS[number % len(COLOURS)]
        slope = matched["slope"]["mean"]
        seeds = [run["points"] for run in matched["by_seed"].values() if run]
        lines += [Line(points, colour=colour, faint=True) for points in seeds]
        lines.append(Line([(0, 0), (reach, slope * reach)], f"{each['name']}: {shown(matched['slope'], 2)}", colour))
    lines.append(Line([(0, 0), (reach, reach)], f"{found['reference']}: 1", "#888888", dashed=True))
    label = f"step at which its {SPLIT_NAMES[split]} loss is reached"
    return plot(lines, f"step of {found['reference']}", label, f"{modality}: {label}", (0.0, 1.1 * reach), "left")


def smoothed(points: Curve) -> Curve:
    """A curve as step matching smooths it; held-out ones, of few points, as they are."""
    xs, ys = zip(*points)
    return list(zip(xs, smooth(np.asarray(ys), max(1, round(SMOOTHING * len(ys)))).tolist()))


def _curves(jobs: Sequence[Job], name: str, modality: str, split: str, by: str) -> list[Curve]:
    done = [job.folder for job in jobs if job.variant.name == name and finished(job.folder)]
    return [points for folder in done if (points := curve(entries(folder), modality, split, by))]


def _mean(curves: Sequence[Curve]) -> Curve:
    """Point by point, as all seeds log at the same steps."""
    means = [np.mean(points, axis=0).tolist() for points in zip(*curves)]
    return [(x, y) for x, y in means]


def _table(found: dict) -> str:
    header, *rows = table(found)
    head = "".join(f"<th{'' if k == 0 else ' class=n'}>{html.escape(cell)}" for k, cell in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if k == 0 else ' class=n'}>{html.escape(cell)}" for k, cell in enumerate(row))
        for row in rows
    )
    return f"<div style='overflow-x:auto;white-space:nowrap'><table><tr>{head}{body}</table></div>"


def _notes(found: dict) -> str:
    lines = [
        "s: the share of the reference's FLOPs at which its loss is reached, the slope of the line through the origin "
        f"over its steps past the warm-up of {found['warmup_steps']}; ± is the standard deviation over seeds. "
        "Training losses are those of single steps, smoothed; held-out losses are the averaged model's, with the same "
        "noise every time."
    ]
    lines += [
        f"{each['name']}{'' if each['causal'] else '*'}: {each['note']}." for each in found["backbones"] if each["note"]
    ]
    if found["control"] is None and found["match"] == "active-flops":
        lines.append("Without a dense control of the sparse model's total parameters.")
    return "".join(f"<p><small>{html.escape(line)}</small></p>" for line in lines)


def _samples(found: dict, jobs: Sequence[Job]) -> str:
    """Every backbone's first seed."""
    parts = []
    for each in found["backbones"]:
        job = next(job for job in jobs if job.variant.name == each["name"] and finished(job.folder))
        if (path := job.folder / SAMPLES).exists():
            with Image.open(path) as image:
                parts.append(f"<p>{html.escape(each['name'])}</p>{report.picture(image, each['name'])}")
    return "".join(parts) or "<p>None: the data has no classes to judge samples by.</p>"
