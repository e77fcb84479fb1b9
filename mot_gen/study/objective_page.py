"""The page of a study of objectives: the table, pictures by what they take, samples; write_objective_page, NOTE."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from mot_gen.files.atomic import write_text
from mot_gen.reports import page as report
from mot_gen.reports.plot import Line, colour, plot
from mot_gen.study.figures import html_table
from mot_gen.study.objective_summary import evaluations_table, objective_table
from mot_gen.study.page import samples, write_plots
from mot_gen.study.runs import Job

NOTE = (
    "All have the FLOPs of the same training; those of tokenizers are not counted. Evaluations are passes of the "
    "network a picture, the one that reads the prompt included; their time is that of pictures drawn together. "
    "± is the standard deviation over seeds."
)


def write_objective_page(found: dict, jobs: Sequence[Job], path: Path) -> None:
    """`study.html` of what `objective_summary` found, and `plots/` beside it."""
    plots = {
        "accuracy-evaluations": by(found, "passes", "evaluations of the network a picture"),
        "accuracy-seconds": by(found, "milliseconds", "CPU milliseconds a picture"),
    }
    write_plots(plots, path.parent / "plots")
    table = html_table(objective_table(found))
    sections = [
        ("What it cost and where it came", f"{table}<p><small>{html.escape(NOTE)}</small></p>"),
        ("Pictures by what they take", "".join(plots.values()) + html_table(evaluations_table(found))),
        ("Samples", samples(found["objectives"], jobs)),
    ]
    done = f"{found['finished']} of {found['runs']} runs, seeds {found['seeds']}"
    title = f"mot_gen study: {found['recipe']}, objectives of {found['modality']} at equal training FLOPs"
    write_text(path, report.page(title, done, sections))


def by(found: dict, what: str, axis: str) -> str:
    """An SVG of the share of pictures that show what was asked for, by what a picture takes."""
    lines = []
    for number, each in enumerate(found["objectives"]):
        points = [(_taken(row, what), row["class_accuracy"]["mean"]) for row in each["by_evaluations"]]
        lines.append(Line(points, each["name"], colour(number), dots=True))
    title = f"pictures of the class asked for, by {axis}"
    return plot(lines, axis, "class accuracy", title, (0.0, 1.02), "below", log_x=True)


def _taken(row: dict, what: str) -> float:
    return row["passes"] if what == "passes" else 1000 * row["cpu_seconds"]["mean"]
