"""HTML pages that need no other file: `page`, and the parts that every report uses (`picture`, `figure`, `table`)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:0} h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse} td,th{padding:.25rem .8rem;border-bottom:1px solid var(--line);text-align:left}
td{vertical-align:top} td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
small,.quiet{opacity:.7} code{font-size:.8rem;overflow-wrap:anywhere} .warning{color:#b35900}
img{max-width:100%;border-radius:4px}
figure{display:inline-block;margin:.3rem;width:9.5rem;vertical-align:top;font-size:.82rem}
figure img{width:96px;height:96px;display:block} .wrong{color:#c22} svg{width:100%;max-width:44rem;height:auto}
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page of (heading, HTML) sections; title and headings are plain text."""
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


def figure(image: Image.Image, caption: str, wrong: bool = False) -> str:
    """A picture with its caption below, in red where it is `wrong`."""
    marked = " class=wrong" if wrong else ""
    return f"<figure>{picture(image, caption)}<figcaption{marked}>{html.escape(caption)}</figcaption></figure>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of HTML cells. header: plain text. numbers: which columns hold numbers and are set to the right."""
    marks = [" class=n" if column in numbers else "" for column in range(len(header))]
    lines = ["".join(map("<th{}>{}".format, marks, map(html.escape, header)))]
    lines += ["".join(map("<td{}>{}".format, marks, row)) for row in rows]
    return f"<table><tr>{'<tr>'.join(lines)}</table>"
