"""Folders of pictures with captions: a text file beside each picture, or one table for all.

    x.jpg beside x.txt, x.caption or x.cls              what img2dataset and most tools leave; a caption a line
    metadata.jsonl, .csv or .parquet                    `file_name` relative to it, and `text` or `caption(s)`

The table is that of Hugging Face's `imagefolder` (huggingface.co/docs/datasets, image_dataset). A folder that holds one
anywhere is read by its tables. A table of any name (.csv, .tsv, .json, .jsonl or .parquet) may also be given in the
folder's place, with `image` for `file_name`. Each row becomes a pair. A byte order mark, which Excel and PowerShell
write, is dropped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.corpora import foreign
from mot_gen.corpora.foreign import ENCODING, Media, Row, as_list
from mot_gen.data.folder import CAPTION_SUFFIXES
from mot_gen.data.parsing import CAPTIONS, PICTURE
from mot_gen.files.suffixes import PICTURES, find, suffix_of

FIELDS = {*PICTURE, *CAPTIONS}
TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")  # of the file `metadata`
READ = (".csv", ".tsv", ".json", ".jsonl", ".parquet")  # suffixes of a table that is given alone
# What may stand between the cells of a table. Excel writes one of the three, by the country.
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}


def rows(source: Path) -> Iterator[Row]:
    """The rows of the tables; without tables one for each picture, whose `file_name` is relative to `source`."""
    if not source.is_dir():
        (table,) = foreign.files(source, READ)
        yield from _table(table, table.parent)
        return
    tables = [path for path in find(source, TABLE_SUFFIXES) if path.stem == "metadata"]
    if not tables:
        yield from _pictures(source)
    for table in tables:
        yield from _table(table, source)


def _table(table: Path, root: Path) -> Iterator[Row]:
    """The rows of a table, the names of their files relative to `root`."""
    read = _csv if suffix_of(table) in DELIMITERS else foreign.rows
    folder = table.parent.relative_to(root)
    for row in read(table):
        names = [name for name in PICTURE if isinstance(row.fields.get(name), str)]
        for name in filter(row.fields.get, names):
            row.fields[name] = (folder / row.fields[name]).as_posix()
        yield row


def _csv(table: Path) -> Iterator[Row]:
    """The rows of a table of text; cells that are empty are left out."""
    with table.open(encoding=ENCODING, errors="surrogateescape", newline="") as file:
        delimiter = max(DELIMITERS[suffix_of(table)], key=file.readline().count)  # of equal counts the first
        file.seek(0)
        reader = csv.DictReader(file, delimiter=delimiter, restkey="columns without a name")
        for fields in reader:
            given = {name: value for name, value in fields.items() if value}
            yield Row(f"{table}:{reader.line_num}", f"{table.name}:{reader.line_num}", given)


def _pictures(source: Path) -> Iterator[Row]:
    """A row for each picture of a folder without tables."""
    images = foreign.files(source, sorted(PICTURES))
    texts: dict[Path, dict[str, Path]] = {}
    for path in find(source, CAPTION_SUFFIXES):
        texts.setdefault(path.with_suffix(""), {})[path.suffix.lower()] = path
    for image in images:
        yield _beside(image, texts.get(image.with_suffix(""), {}), source)


def _beside(image: Path, texts: dict[str, Path], source: Path) -> Row:
    """A picture with the captions of the text file beside it."""
    id = image.relative_to(source).as_posix()
    if not texts:
        return Row(str(image), id, error=f"has no {image.stem}.txt beside it")
    file = texts[min(texts, key=CAPTION_SUFFIXES.index)]
    content = file.read_text(encoding=ENCODING, errors="surrogateescape")
    captions = list(filter(None, map(str.strip, content.splitlines())))
    return Row(str(image), id, {"file_name": id, "captions": captions})


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One pair."""
    captions, picture = row.first_of(*CAPTIONS), row.first_of(*PICTURE)
    yield {"id": row.id, "image": media.find(picture), "captions": as_list(captions)}
