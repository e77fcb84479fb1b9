"""A run's report: one HTML page that needs nothing beside it, with pictures, figures and loss curves."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from mot_gen.files.pictures import enlarge, grid

STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:0} h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse} td,th{padding:.25rem .8rem;border-bottom:1px solid var(--line);text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} small,.quiet{opacity:.7}
img{max-width:100%;border-radius:4px}
figure{display:inline-block;margin:.3rem;width:9.5rem;vertical-align:top;font-size:.82rem}
figure img{width:96px;height:96px;display:block} .wrong{color:#c22} svg{width:100%;max-width:44rem;height:auto}
"""
COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#a23db3")


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """HTML of (heading, body) sections."""
    body = "".join(f"<h2>{html.escape(heading)}</h2>{content}" for heading, content in sections)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{html.escape(title)}</h1><p class=quiet>{html.escape(subtitle)}</p>{body}</html>"
    )


def picture(image: Image.Image, alt: str = "") -> str:
    """An <img> with the PNG inside."""
    written = io.BytesIO()
    image.save(written, format="PNG")
    data = base64.b64encode(written.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def sheet(images: Sequence[Image.Image], columns: int, alt: str) -> str:
    """Many pictures as one."""
    return picture(grid(images, columns), alt)


def captioned(items: Sequence[tuple[Image.Image, str, bool]]) -> str:
    """Pictures with the captions that the model wrote; wrong ones in red."""
    return "".join(
        f"<figure>{picture(enlarge(image.convert('RGB')), text)}"
        f"<figcaption{'' if right else ' class=wrong'}>{html.escape(text)}</figcaption></figure>"
        for image, text, right in items
    )


def table(rows: Sequence[tuple[str, float | int | str, str]]) -> str:
    """(what, value, measured on) rows."""
    cells = "".join(
        f"<tr><td>{html.escape(what)}<td class=n>{_number(value)}<td><small>{html.escape(on)}</small>"
        for what, value, on in rows
    )
    return f"<table><tr><th>figure<th class=n>value<th>measured on{cells}</table>"


def _number(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def curves(lines: dict[str, Sequence[tuple[float, float]]], width: int = 700, height: int = 220) -> str:
    """An SVG of (x, y) lines, each scaled to its own range, with its first and last value named."""
    drawn = []
    for number, (name, points) in enumerate((n, p) for n, p in lines.items() if len(p) > 1):
        xs, ys = zip(*points)
        low, high = min(ys), max(ys)
        scale = (height - 30) / ((high - low) or 1)
        path = " ".join(
            f"{10 + (width - 20) * (x - xs[0]) / ((xs[-1] - xs[0]) or 1):.1f},{height - 10 - (y - low) * scale:.1f}"
            for x, y in points
        )
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>'
            f'<text x="{width - 12}" y="{16 + 18 * number}" text-anchor="end" fill="{colour}" font-size="13">'
            f"{html.escape(name)}: {ys[0]:.3f} to {ys[-1]:.3f}</text>"
        )
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss curves">{"".join(drawn)}</svg>'
