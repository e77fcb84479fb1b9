"""Sources: the samples of one file or folder, in its order. Source, JsonLines, TarShard (WebDataset), PairFolder.

A source keeps positions in memory, not contents, and reads on access. `outline(index)` is a sample whose media were not
read: in their place stands None, which is all that arranging it and knowing its texts needs. Parquet is in parquet.py.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mot_gen.data.remote import Ranges, Spool, is_far, place
from mot_gen.data.samples import Pair, Sample, parse_record, path_in, sample_key
from mot_gen.errors import InputError, nearest

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TEXTS = ("json", "txt")  # suffixes of the members of a tar that are read for outlines


class Source(Sequence[Sample]):
    """The samples of one file or folder, in its order. `keys`: `sample_key` of each. `fingerprint`: hex over all."""

    def __init__(self, path: str | Path):
        """path: also an address, see places.py. InputError for what cannot be read."""
        self.path = path = place(path)
        self.keys = array("Q")
        self._content = hashlib.sha256()
        try:
            self._scan()
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not self.keys:
            raise InputError(f"{path}: holds no record")
        self.fingerprint = self._content.hexdigest()

    @abstractmethod
    def _scan(self) -> None:
        """Checks every record and gives it to `_add`."""

    def _add(self, id: str, raw: bytes):
        self.keys.append(sample_key(id))
        self._content.update(len(raw).to_bytes(8))
        self._content.update(raw)

    def __len__(self) -> int:
        return len(self.keys)

    def outline(self, index: int) -> Sample:
        """The sample without its media, where reading them can be saved."""
        return self[index]


class JsonLines(Source):
    """One record a line; media are paths relative to the file."""

    def _scan(self):
        self._lines, self._starts = array("Q"), array("Q")
        self._text = Spool() if is_far(self.path) else Ranges(self.path)
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if is_far(self.path):
                    self._text.add(line)
                if line.strip():
                    self._add(self._parse(line, number).id, line)
                    self._lines.append(number)
                    self._starts.append(start)
                start += len(line)
        self._starts.append(start)

    def _parse(self, line: bytes, number: int) -> Sample:
        where = f"{self.path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON: {error}") from None
        return parse_record(record, where, f"{self.path.name}:{number}", path_in(self.path.parent))

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        start, end = self._starts[index], self._starts[index + 1]
        return self._parse(self._text.read(start, end - start), self._lines[index])


class TarShard(Source):
    """A WebDataset shard: members `key.json` and what it names, or `key.jpg` and `key.txt`. Never extracted: members
    are read where they lie, so that a name such as ../x reaches no file."""

    def _scan(self):
        self._samples: list[dict[str, tuple[int, int]]] = []
        self._names: list[str] = []
        self._media = Ranges(self.path)
        self._texts = Spool() if is_far(self.path) else self._media
        with self.path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    self._member(archive, member)
        for number, members in enumerate(self._samples):
            raw = repr(sorted((suffix, size) for suffix, (_, size) in members.items())).encode()
            texts = b"".join(self._bytes(members, suffix) for suffix in TEXTS if suffix in members)
            self._add(self.outline(number).id, raw + texts)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}".lstrip("/")
        if not self._names or self._names[-1] != key:
            self._names.append(key)
            self._samples.append({})
        start = member.offset_data
        if suffix.lower() in TEXTS and is_far(self.path):
            start = self._texts.add(archive.extractfile(member).read())
        self._samples[-1][suffix.lower()] = (start, member.size)

    def _bytes(self, members: dict, suffix: str) -> bytes:
        start, size = members[suffix]
        return (self._texts if suffix in TEXTS else self._media).read(start, size)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, self._bytes)

    def outline(self, index: int) -> Sample:
        return self._sample(index, lambda members, suffix: None)

    def _sample(self, index: int, medium: Callable[[dict, str], bytes | None]) -> Sample:
        members, key = self._samples[index], self._names[index]
        where = f"{self.path}: {key}"

        def resolve(value: Any, field: str) -> bytes | None:
            suffix = str(value).removeprefix(f"{key.rpartition('/')[2]}.").lower()
            if suffix not in members:
                raise InputError(f"{field}: the sample has no member {value!r}{nearest(suffix, members)}")
            return medium(members, suffix)

        try:
            record = json.loads(self._bytes(members, "json")) if "json" in members else {}
            if "txt" in members:
                record["text"] = self._bytes(members, "txt").decode()
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON or UTF-8: {error}") from None
        images = [suffix for suffix in members if f".{suffix}" in IMAGE_SUFFIXES]
        if images and not {"image", "messages", "content"} & record.keys():
            record["image"] = images[0]
        return parse_record(record, where, f"{self.path.name}:{key}", resolve)


class PairFolder(Source):
    """Images, also in subfolders, each beside a .txt of the same name: one caption a line."""

    def _scan(self):
        self._images = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        for index, image in enumerate(self._images):
            pair = self[index]
            self._add(pair.id, f"{pair.id}\0{image.stat().st_size}\0{pair.captions}".encode())

    def __getitem__(self, index: int) -> Pair:
        image = self._images[index]
        captions = image.with_suffix(".txt")
        try:
            lines = [line.strip() for line in captions.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            raise InputError(f"{image}: has no caption file {captions.name} beside it") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{captions}: not UTF-8: {error}") from None
        if not any(lines):
            raise InputError(f"{captions}: holds no caption")
        return Pair(image.relative_to(self.path).as_posix(), image, tuple(filter(None, lines)))
