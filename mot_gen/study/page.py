"""The page of a study of backbones: the table, losses by FLOPs and by the clock, step matching, samples; write_page.

`write_plots` and `samples` serve the page of a study of objectives as well.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mot_gen.files.atomic import write_text
from mot_gen.reports import page as report
from mot_gen.reports.curves import SPLITS, Curve, curve, entries, smoothed
from mot_gen.reports.plot import Line, colour, late, on_white, plot
from mot_gen.study.figures import html_table, mean_and_sd
from mot_gen.study.runs import Job
from mot_gen.study.summary import starred, table
from mot_gen.study.worker import SAMPLES, finished_run

SPLIT_NAMES = {"train": "training", "held_out": "held-out"}
AXES = {"flops": "training FLOPs", "cpu_seconds": "CPU seconds", "seconds": "seconds of wall clock"}
NO_CONTROL = "Without a dense control of the sparse model's total parameters."


def write_page(found: dict, jobs: Sequence[Job], path: Path) -> None:
    """`study.html` of what `summary` found and of its runs' files, and `plots/` beside it."""
    sections = [("What it cost and where it came", html_table(table(found)) + _notes(found))]
    for heading, drawn in _plots(found, jobs).items():
        write_plots(drawn, path.parent / "plots")
        sections.append((heading, "".join(drawn.values())))
    sections.append(("Samples", samples(found["backbones"], jobs)))
    done = f"{found['finished']} of {found['runs']} runs, {found['steps']} steps each, seeds {found['seeds']}"
    title = f"mot_gen study: {found['recipe']}, backbones at equal {found['match'].replace('-', ' ')}"
    write_text(path, report.page(title, done, sections))


def write_plots(drawn: Mapping[str, str], folder: Path) -> None:
    """SVGs by their names, as files for other pages; empty ones are left out."""
    folder.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        if svg:
            write_text(folder / f"{name}.svg", on_white(svg) + "\n")


def _plots(found: dict, jobs: Sequence[Job]) -> dict[str, dict[str, str]]:
    """Heading -> file name -> SVG."""
    plots: dict[str, dict[str, str]] = {}
    for modality in found["modalities"]:
        matched = plots.setdefault(f"{modality}: step matching", {})
        for split in SPLITS:
            drawn = plots.setdefault(f"{modality}: {SPLIT_NAMES[split]} loss", {})
            for by in AXES:
                drawn[f"{modality}-{split}-{by}"] = losses(found, jobs, modality, split, by)
            matched[f"{modality}-{split}-matching"] = matching(found, modality, split)
    return plots


def losses(found: dict, jobs: Sequence[Job], modality: str, split: str, by: str) -> str:
    """An SVG of every backbone's loss by FLOPs or by a clock: the mean over seeds, and each seed faintly."""
    lines: list[Line] = []
    all_curves: list[Curve] = []
    for number, each in enumerate(found["backbones"]):
        curves = [smoothed(points) for points in _curves(jobs, each["name"], modality, split, by)]
        if len(curves) > 1:
            lines += _faintly(curves, colour(number))
        lines.append(Line(_mean(curves), starred(each), colour(number)))
        all_curves += curves
    label = f"{SPLIT_NAMES[split]} loss, {modality}"
    return plot(lines, AXES[by], label, f"{label} by {AXES[by]}", late(all_curves))


def matching(found: dict, modality: str, split: str) -> str:
    """An SVG of the steps at which each backbone reached the reference's losses, with the lines through the origin."""
    lines, reach = [], found["steps"]
    for number, each in enumerate(found["backbones"]):
        if "matching" in each:
            lines += _matched(each["name"], each["matching"][modality][split], reach, colour(number))
    lines.append(Line([(0, 0), (reach, reach)], f"{found['reference']}: 1", "#888888", dashed=True))
    label = f"step at which its {SPLIT_NAMES[split]} loss is reached"
    return plot(lines, f"step of {found['reference']}", label, f"{modality}: {label}", (0.0, 1.1 * reach), "left")


def _matched(name: str, matched: dict, reach: int, own: str) -> list[Line]:
    """A backbone's matched steps, seed by seed and faintly, and its line through the origin."""
    if matched["slope"] is None:
        return []
    slope = matched["slope"]["mean"]
    seeds = _faintly([run["points"] for run in matched["by_seed"].values() if run], own)
    return [*seeds, Line([(0, 0), (reach, slope * reach)], f"{name}: {mean_and_sd(matched['slope'], 2)}", own)]


def _faintly(curves: Sequence[Curve], own: str) -> list[Line]:
    """Lines of single seeds, in a backbone's colour."""
    return [Line(points, colour=own, faint=True) for points in curves]


def _curves(jobs: Sequence[Job], name: str, modality: str, split: str, by: str) -> list[Curve]:
    """One of each finished run that has logged such losses."""
    found = [curve(entries(job.folder), modality, split, by) for job in _finished(jobs, name)]
    return [points for points in found if points]


def _finished(jobs: Sequence[Job], name: str) -> list[Job]:
    """The finished runs of a variant, in order."""
    return [job for job in jobs if job.variant.name == name and finished_run(job.folder)]


def _mean(curves: Sequence[Curve]) -> Curve:
    """Point by point, as all seeds log at the same steps."""
    means = [np.mean(points, axis=0).tolist() for points in zip(*curves)]
    return [(x, y) for x, y in means]


def _notes(found: dict) -> str:
    lines = [
        "s: the share of the reference's FLOPs at which its loss is reached, the slope of the line through the origin "
        f"over its steps past the warm-up of {found['warmup_steps']}; ± is the standard deviation over seeds. "
        "Training losses are those of single steps, smoothed; held-out losses are the averaged model's, with the same "
        "noise every time.",
        *notes(found),
    ]
    return "".join(f"<p><small>{html.escape(line)}</small></p>" for line in lines)


def notes(found: dict) -> list[str]:
    """What is to be said of single backbones, and of a control that is missing."""
    lines = [f"{starred(each)}: {each['note']}." for each in found["backbones"] if each["note"]]
    control_is_missing = found["control"] is None and found["match"] == "active-flops"
    if control_is_missing:
        lines.append(NO_CONTROL)
    return lines


def samples(compared: Sequence[dict], jobs: Sequence[Job]) -> str:
    """The samples of every variant's first seed."""
    parts = []
    for each in compared:
        name, first = each["name"], _finished(jobs, each["name"])[0]
        path = first.folder / SAMPLES
        if path.exists():
            with Image.open(path) as image:
                parts.append(f"<p>{html.escape(name)}</p>{report.picture(image, name)}")
    return "".join(parts) or "<p>None: the data has no classes to judge samples by.</p>"
