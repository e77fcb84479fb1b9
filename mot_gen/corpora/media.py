"""Media that rows of other formats name: Media, Unconvertible, convertible, text_part, image_part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mot_gen.data.parsing import bytes_or_path
from mot_gen.data.texts import is_text
from mot_gen.files.safe_names import is_inside

DOWNLOADS = ("url", "key", "status")  # columns of img2dataset's tables
DOWNLOADED = (".jpg", ".png", ".webp")  # suffixes of its pictures


class Unconvertible(ValueError):
    """A row that is no record: the message says what of it."""


def convertible(ok: object, reason: str) -> None:
    """Raise Unconvertible with this reason, unless `ok`."""
    if not ok:
        raise Unconvertible(reason)


def as_list(value: Any) -> list[Any]:
    """A list as it is, a single thing as a list of one."""
    return value if isinstance(value, list) else [value]


class Media:
    """Finds the files that rows name, in `roots`, one after the other.

    An address of the web is looked up in the tables that img2dataset (`--output_format files`) leaves beside the
    pictures: `00000.parquet` with `url`, `key` and `status`, the picture being `00000/KEY.jpg`
    (github.com/rom1504/img2dataset, img2dataset/writer.py). `missing`: what `seek` has not found.
    """

    def __init__(self, roots: Sequence[Path]):
        self.roots = roots
        self.missing: list[str] = []

    def find(self, value: Any) -> Path | bytes:
        """What a row says of a picture, a name, bytes, or Hugging Face's {bytes, path}, as file or bytes."""
        name = bytes_or_path(value) or ""
        if isinstance(name, bytes):
            return name
        convertible(isinstance(name, str), f"a picture must be a name or bytes, got {value!r:.60}")
        convertible(name, f"a picture must be a name or bytes, got {value!r:.60}")
        tried = self._downloaded(name) if "://" in name else self._named(name)
        found = [*filter(Path.is_file, tried)]
        where = " or ".join(map(str, self.roots))
        convertible(found, f"{name} is not in {where}; name the folder of the pictures: --media DIR")
        return found[0]

    def seek(self, value: Any) -> Path | bytes | None:
        """As `find`, but None for what is not there, which is noted: some pictures of web pages are always gone."""
        try:
            return self.find(value)
        except Unconvertible as error:
            self.missing.append(str(error))
            return None

    def _named(self, name: str) -> Iterator[Path]:
        """The places where a named file may be. A name that leads out of the roots is in none of them."""
        sound = "\0" not in name and is_text(name)
        for root in self.roots:
            if sound and is_inside(name, root):
                yield root / name

    def _downloaded(self, url: str) -> Iterator[Path]:
        """The places where img2dataset may have put the picture of a URL."""
        stem = self._by_url.get(url)
        for suffix in DOWNLOADED if stem else ():
            yield Path(f"{stem}{suffix}")

    @cached_property
    def _by_url(self) -> dict[str, Path]:
        """Address -> picture, over all tables of downloads in the roots."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for table in sorted(root.glob("*.parquet")):
                found |= _downloads(table)
        return found


def _downloads(table: Path) -> dict[str, Path]:
    """Address -> where its picture is, without suffix, in one of img2dataset's tables; nothing of another table."""
    import pyarrow.parquet

    if not set(DOWNLOADS) <= set(pyarrow.parquet.read_schema(table).names):
        return {}
    found = {}
    for row in pyarrow.parquet.read_table(table, columns=list(DOWNLOADS)).to_pylist():
        there = row["status"] == "success" and "/" not in row["key"]
        if there:
            found[row["url"]] = table.with_suffix("") / row["key"]
    return found


# ---------------------------------------------------------------- parts of records


def text_part(text: str) -> dict[str, Any]:
    """A part of a document that is a text."""
    return {"type": "text", "text": text}


def image_part(image: Path | bytes) -> dict[str, Any]:
    """A part of a document that is a picture, as file or bytes."""
    return {"type": "image", "image": image}
