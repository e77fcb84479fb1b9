"""What every `mot-gen eval` command ends with: a table, JSON, and a page with the worst cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.records import Record
from mot_gen.eval.report import html_page, print_table, text_rows, to_json, write_json
from mot_gen.eval.result import MetricResult
from mot_gen.files.atomic import write_text

WORST = 20  # records shown for each metric

Section = tuple[str, str]  # heading, HTML


def report(
    args: argparse.Namespace,
    command: str,
    results: Mapping[str, MetricResult],
    sections: Callable[[], Sequence[Section]],
    **more: object,
) -> int:
    """Writes what --json and --html ask for, prints the table unless JSON has standard output; exit code 0.

    sections: of the page, made only when there is one. more: further entries of the JSON.
    """
    if args.json != "-":
        print_table(results)
    if args.json:
        write_json(to_json(results, **more), args.json)
    if args.html:
        write_text(args.html, html_page(f"mot-gen eval {command}", results, sections()))
    return 0


def worst_sections(metrics: Mapping[str, Accumulator], rows: Sequence[Record]) -> list[Section]:
    """The worst cases of every metric that scores single records."""
    sections = []
    for name, metric in metrics.items():
        of_segments: Callable[[], list[float]] = getattr(metric, "segment_scores", list)
        scores = of_segments()
        if len(scores) != len(rows):
            continue
        order = sorted(range(len(rows)), key=scores.__getitem__, reverse=not metric.higher_is_better)
        shown = [(rows[i]["id"], f"{scores[i]:.4g}", *_texts_of(rows[i])) for i in order[:WORST]]
        sections.append((f"Worst cases by {name}", text_rows(("id", "score", "prediction", "references"), shown)))
    return sections


def _texts_of(row: Record) -> tuple[str, str]:
    """What was made and what was wanted, whatever a record calls them."""
    made = _first(row, "prediction", "prediction_audio", "tag")
    wanted = _first(row, "references", "reference_audio", "image")
    if isinstance(wanted, list):
        wanted = " / ".join(map(str, wanted))
    return str(made), str(wanted)


def _first(row: Record, *keys: str) -> object:
    for key in keys:
        if key in row:
            return row[key]
    return ""
