"""What people see of results: print_table for the terminal, write_json, and html_page with samples and worst cases."""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mot_gen.eval.result import MetricResult, plain
from mot_gen.files import page
from mot_gen.files.atomic import write_text
from mot_gen.files.image_files import to_pil


def print_table(results: Mapping[str, MetricResult]):
    """The table on standard output, and the warnings on standard error, where they cannot be piped away by accident."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "interval", "N", box=None, pad_edge=False)
    for result in results.values():
        table.add_row(result.name, f"{result.value:.6g}", interval(result), sizes(result))
    console = Console()
    console.print(table)
    for result in results.values():
        console.print(result.signature, style="dim", markup=False, highlight=False, soft_wrap=True)
    for text, names in _warnings(results).items():
        print(f"warning: {', '.join(names)}: {text}", file=sys.stderr)


def _warnings(results: Mapping[str, MetricResult]) -> dict[str, list[str]]:
    """Each warning with the metrics that it is about, each once."""
    concerned: dict[str, dict[str, None]] = {}
    for result in results.values():
        for text in result.warnings:
            concerned.setdefault(text, {})[result.name] = None
    return {text: list(names) for text, names in concerned.items()}


def interval(result: MetricResult) -> str:
    """`"1.2 to 1.4"`, or nothing."""
    if result.interval is None:
        return ""
    return "{:.5g} to {:.5g}".format(*result.interval)


def sizes(result: MetricResult) -> str:
    """`"real 50000, fake 10000"`."""
    return ", ".join(f"{side} {count}" for side, count in result.n.items())


def to_json(results: Mapping[str, MetricResult], **more) -> dict:
    """{"metrics": {name: {"value", "signature", ...}}, ...}, values unrounded."""
    return plain({"metrics": {name: result.to_dict() for name, result in results.items()}, **more})


def write_json(found: dict, path: str | Path):
    """Into a file, or on standard output for "-"."""
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    write_text(path, text)


def html_page(title: str, results: Mapping[str, MetricResult], sections: Sequence[tuple[str, str]]) -> str:
    """A page that needs no other file: the results, then (heading, HTML) sections."""
    rows = [_result_row(result) for result in results.values()]
    found = page.table(("metric", "value", "interval", "N", "how"), rows, numbers=[1, 2])
    return page.page(title, "", [("Results", found), *sections]) + "\n"


def _result_row(result: MetricResult) -> list[str]:
    notes = "".join(f'<div class="warning">{html.escape(text)}</div>' for text in result.warnings)
    how = f"<code>{html.escape(result.signature)}</code>{notes}"
    return [html.escape(result.name), f"{result.value:.6g}", interval(result), sizes(result), how]


def picture_rows(rows: Sequence[Sequence[tuple[Tensor, str]]]) -> str:
    """Rows of (image (3, H, W) uint8, caption)."""
    lines = []
    for row in rows:
        lines.append("".join(page.figure(to_pil(image), caption) for image, caption in row))
    return "".join(f"<div>{line}</div>" for line in lines)


def text_rows(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of texts."""
    cells = [[html.escape(str(cell)) for cell in row] for row in rows]
    return page.table(header, cells)
