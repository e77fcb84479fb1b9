"""What people see of results: print_table for the terminal, write_json, and html_page with samples and worst cases."""

from __future__ import annotations

import base64
import html
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mot_gen.eval.result import MetricResult, plain
from mot_gen.files.whole import write_text

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .8rem; vertical-align: top }
tr + tr { border-top: 1px solid #8884 } td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
code { font-size: .8rem; overflow-wrap: anywhere } .warning { color: #b35900 }
.row { display: flex; gap: .5rem; margin: .5rem 0; align-items: center }
figure { margin: 0 } figcaption { font-size: .75rem }
"""


def print_table(results: dict[str, MetricResult]):
    """The table on standard output, and the warnings on standard error, where they cannot be piped away by accident."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "interval", "N", box=None, pad_edge=False)
    for result in results.values():
        low_high = "" if result.interval is None else "{:.5g} to {:.5g}".format(*result.interval)
        table.add_row(result.name, f"{result.value:.6g}", low_high, sizes(result))
    console = Console()
    console.print(table)
    for result in results.values():
        console.print(result.signature, style="dim", markup=False, highlight=False, soft_wrap=True)
    concerned: dict[str, list[str]] = {}  # warning -> metrics
    for result in results.values():
        for text in result.warnings:
            concerned.setdefault(text, []).append(result.name)
    for text, names in concerned.items():
        print(f"warning: {', '.join(dict.fromkeys(names))}: {text}", file=sys.stderr)


def sizes(result: MetricResult) -> str:
    """`"real 50000, fake 10000"`."""
    return ", ".join(f"{side} {count}" for side, count in result.n.items())


def to_json(results: dict[str, MetricResult], **more) -> dict:
    """{"metrics": {name: {"value", "signature", ...}}, ...}, values unrounded."""
    return plain({"metrics": {name: result.to_dict() for name, result in results.items()}, **more})


def write_json(found: dict, path: str | Path):
    """Into a file, or on standard output for "-"."""
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    write_text(path, text)


def html_page(title: str, results: dict[str, MetricResult], sections: Sequence[tuple[str, str]]) -> str:
    """A page that needs no other file: the results, then (heading, HTML) sections."""
    rows = "".join(_result_row(result) for result in results.values())
    table = f"<table><tr><th>metric<th>value<th>interval<th>N<th>how</tr>{rows}</table>"
    body = "".join(f"<h2>{html.escape(heading)}</h2>{content}" for heading, content in sections)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body><h1>{html.escape(title)}</h1>{table}{body}</body></html>\n"


def _result_row(result: MetricResult) -> str:
    low_high = "" if result.interval is None else "{:.5g} to {:.5g}".format(*result.interval)
    notes = "".join(f'<div class="warning">{html.escape(text)}</div>' for text in result.warnings)
    how = f"<code>{html.escape(result.signature)}</code>{notes}"
    numbers = f'<td class="number">{result.value:.6g}<td class="number">{low_high}'
    return f"<tr><td>{html.escape(result.name)}{numbers}<td>{sizes(result)}<td>{how}</tr>"


def picture(image: Tensor, caption: str = "") -> str:
    """An image (3, H, W) uint8 as an inline figure."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def picture_rows(rows: Sequence[Sequence[tuple[Tensor, str]]]) -> str:
    """Rows of (image, caption)."""
    return "".join(f'<div class="row">{"".join(picture(*item) for item in row)}</div>' for row in rows)


def text_rows(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of texts."""
    head = "".join(f"<th>{html.escape(cell)}" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
