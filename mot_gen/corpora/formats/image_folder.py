"""Folders of pictures with captions: a text file beside each picture, or one table for all.

    x.jpg beside x.txt, x.caption or x.cls              what img2dataset and most tools leave; a caption a line
    metadata.jsonl, .csv or .parquet                    `file_name` relative to it, and `text` or `caption(s)`

The table is that of Hugging Face's `imagefolder` (huggingface.co/docs/datasets, image_dataset); a folder that holds one
anywhere is read by its tables. Each row becomes a pair. A byte order mark, which Excel and PowerShell write, is
dropped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.corpora import foreign
from mot_gen.corpora.foreign import ENCODING, Media, Row, Unconvertible
from mot_gen.data.folder import CAPTION_SUFFIXES
from mot_gen.errors import InputError
from mot_gen.files.suffixes import PICTURES, is_hidden

FIELDS = {"file_name", "text", "caption", "captions"}
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def rows(source: Path) -> Iterator[Row]:
    """Of the tables, or one a picture; `file_name` is relative to `source` then."""
    if not source.is_dir():
        raise InputError(f"{source}: not a folder; give the one that holds the pictures")
    tables = _tables(source)
    if not tables:
        yield from _pictures(source)
    for table in tables:
        for row in _csv(table) if table.suffix == ".csv" else foreign.rows(table):
            name = row.fields.get("file_name")
            if isinstance(name, str) and name:
                row.fields["file_name"] = (table.parent.relative_to(source) / name).as_posix()
            yield row


def _tables(source: Path) -> list[Path]:
    found: list[Path] = []
    for name in TABLES:
        found += [path for path in source.rglob(name) if not is_hidden(path.relative_to(source))]
    return sorted(found)


def _csv(table: Path) -> Iterator[Row]:
    with table.open(encoding=ENCODING, errors="surrogateescape", newline="") as file:
        for number, fields in enumerate(csv.DictReader(file), 2):
            given = {name: value for name, value in fields.items() if value}
            yield Row(f"{table}:{number}", f"{table.name}:{number}", given)


def _pictures(source: Path) -> Iterator[Row]:
    images = foreign.files(source, PICTURES)
    texts: dict[Path, dict[str, Path]] = {}
    for path in foreign.find(source, CAPTION_SUFFIXES):
        texts.setdefault(path.with_suffix(""), {})[path.suffix.lower()] = path
    for image in images:
        yield _beside(image, texts.get(image.with_suffix(""), {}), source)


def _beside(image: Path, texts: dict[str, Path], source: Path) -> Row:
    id = image.relative_to(source).as_posix()
    for suffix in CAPTION_SUFFIXES:
        if suffix in texts:
            content = texts[suffix].read_text(encoding=ENCODING, errors="surrogateescape")
            lines = [line.strip() for line in content.splitlines()]
            return Row(str(image), id, {"file_name": id, "captions": [line for line in lines if line]})
    return Row(str(image), id, error=f"has no {image.stem}.txt beside it")


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One pair."""
    for name in ("captions", "caption", "text"):
        given = row.fields.get(name)
        if given:
            captions = given if isinstance(given, list) else [given]
            yield {"id": row.id, "image": media.find(row["file_name"]), "captions": captions}
            return
    raise Unconvertible("has no caption")
