"""Folders of pictures with captions: a text file beside each picture, or one table for all.

    x.jpg beside x.txt or x.caption, a caption a line   what img2dataset and most tools leave
    metadata.jsonl, .csv or .parquet                    `file_name` relative to it, and `text` or `caption(s)`

The table is that of Hugging Face's `imagefolder` (huggingface.co/docs/datasets, image_dataset); a folder that holds one
anywhere is read by its tables. Each row becomes a pair.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.corpora import foreign
from mot_gen.corpora.foreign import Media, Row, Unconvertible
from mot_gen.data.records import IMAGE_SUFFIXES
from mot_gen.errors import InputError

FIELDS = {"file_name", "text", "caption", "captions"}
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = (".txt", ".caption")


def rows(source: Path) -> Iterator[Row]:
    """Of the tables, or one a picture; `file_name` is relative to `source` then."""
    if not source.is_dir():
        raise InputError(f"{source}: not a folder; give the one that holds the pictures")
    tables = sorted(path for name in TABLES for path in source.rglob(name))
    for table in tables:
        for row in _csv(table) if table.suffix == ".csv" else foreign.rows(table):
            if name := row.fields.get("file_name"):
                row.fields["file_name"] = (table.parent.relative_to(source) / name).as_posix()
            yield row
    if not tables:
        for image in foreign.files(source, IMAGE_SUFFIXES):
            yield _beside(image, source)


def _csv(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for number, fields in enumerate(csv.DictReader(file), 2):
            yield Row(f"{table}:{number}", f"{table.name}:{number}", {k: v for k, v in fields.items() if v})


def _beside(image: Path, source: Path) -> Row:
    id = image.relative_to(source).as_posix()
    texts = [path for suffix in CAPTIONS if (path := image.with_suffix(suffix)).is_file()]
    if not texts:
        return Row(str(image), id, error=f"has no {image.stem}.txt beside it")
    lines = [line.strip() for line in texts[0].read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    return Row(str(image), id, {"file_name": id, "captions": list(filter(None, lines))})


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One pair."""
    given = next((row.fields[name] for name in ("captions", "caption", "text") if row.fields.get(name)), None)
    if not given:
        raise Unconvertible("has no caption")
    captions = given if isinstance(given, list) else [given]
    yield {"id": row.id, "image": media.find(row["file_name"]), "captions": captions}
