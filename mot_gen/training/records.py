"""Records: samples in files and folders, and the splits of a recipe that names them.

Sources, each a sequence of samples that keeps only positions in memory and reads on access: `JsonLines`, `Parquet`,
`TarShard` (WebDataset) and `PairFolder`. `open_records` picks one by the path, `Joined` puts several one after the
other, `split` sets a held-out share aside, and `load` does all of it for a recipe. What one record says, and the
words Part, Pair and Document, are in samples.py; errors name the file, the line or row, and the field.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from abc import abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from mot_gen import manifest
from mot_gen.errors import InputError, nearest
from mot_gen.training.mixture import Weighted
from mot_gen.training.samples import (  # noqa: F401  the words of samples.py are offered here too
    Document,
    Pair,
    Part,
    Sample,
    Splits,
    parse_record,
    path_in,
    sample_key,
    type_of,
)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
CORPUS = "corpus.json"  # in a folder that mot-gen data tokenize wrote


class Source(Sequence[Sample]):
    """The samples of one file or folder, in its order. `keys`: `sample_key` of each. `fingerprint`: hex over all."""

    def __init__(self, path: Path):
        self.path = path
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


class JsonLines(Source):
    """One record a line; media are paths relative to the file."""

    def _scan(self):
        self._lines, self._starts = array("Q"), array("Q")
        self._handle = self.path.open("rb")
        start = 0
        for number, line in enumerate(self._handle, 1):
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
        return self._parse(os.pread(self._handle.fileno(), end - start, start), self._lines[index])


class Parquet(Source):
    """One record a row, under the same names as in JSON; media as bytes, as {bytes, path}, or as paths."""

    def _scan(self):
        import pyarrow
        import pyarrow.parquet

        try:
            self._table = pyarrow.parquet.read_table(self.path, memory_map=True)
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{self.path}: not a parquet file: {str(error).splitlines()[0]}") from None
        rows = (row for batch in self._table.to_batches(max_chunksize=256) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            self._add(self._parse(row, number).id, repr(row).encode())

    def _parse(self, row: dict, number: int) -> Sample:
        row = {name: value for name, value in row.items() if value is not None}
        where = f"{self.path}: row {number}"
        return parse_record(row, where, f"{self.path.name}:{number}", path_in(self.path.parent))

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self))[index]
        return self._parse(self._table.slice(number, 1).to_pylist()[0], number)


class TarShard(Source):
    """A WebDataset shard: members `key.json` and what it names, or `key.jpg` and `key.txt`. Never extracted: members
    are read where they lie, so that a name such as ../x reaches no file."""

    def _scan(self):
        self._samples: list[dict[str, tuple[int, int]]] = []
        self._names: list[str] = []
        self._handle = self.path.open("rb")
        with tarfile.open(fileobj=self._handle, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    self._member(member)
        for number, members in enumerate(self._samples):
            raw = repr(sorted((suffix, size) for suffix, (_, size) in members.items())).encode()
            texts = b"".join(self._bytes(members, suffix) for suffix in ("json", "txt") if suffix in members)
            self._add(self.outline(number).id, raw + texts)

    def _member(self, member: tarfile.TarInfo):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}".lstrip("/")
        if not self._names or self._names[-1] != key:
            self._names.append(key)
            self._samples.append({})
        self._samples[-1][suffix.lower()] = (member.offset_data, member.size)

    def _bytes(self, members: dict, suffix: str) -> bytes:
        start, size = members[suffix]
        return os.pread(self._handle.fileno(), size, start)

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


class Joined(Sequence[Sample]):
    """Several sources one after the other. source_ends: the index after each one's last sample."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = sources
        self.source_ends = list(accumulate(map(len, sources)))
        self.keys = array("Q", (key for source in sources for key in source.keys))
        self.fingerprint = hashlib.sha256(" ".join(s.fingerprint for s in sources).encode()).hexdigest()

    def __len__(self) -> int:
        return self.source_ends[-1]

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        which = self.source_of(index)
        return self.sources[which][index - (self.source_ends[which - 1] if which else 0)]

    def outline(self, index: int) -> Sample:
        which = self.source_of(index)
        return outline(self.sources[which], index - (self.source_ends[which - 1] if which else 0))

    @property
    def source_names(self) -> list[str]:
        return [str(source.path) for source in self.sources]

    def source_of(self, index: int) -> int:
        """The number of the source that a sample comes from."""
        return bisect_right(self.source_ends, index)


class Selection(Sequence[Sample]):
    """Some of the samples of a source, by ascending index."""

    def __init__(self, samples, indices: Sequence[int]):
        self.samples = samples
        self.indices = array("Q", indices)
        chosen = samples.fingerprint.encode() + self.indices.tobytes()
        self.fingerprint = hashlib.sha256(chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.indices[index]]

    def outline(self, index: int) -> Sample:
        return outline(self.samples, self.indices[index])

    @property
    def source_names(self) -> list[str]:
        return source_names(self.samples)

    @cached_property
    def source_ends(self) -> list[int]:
        ends = getattr(self.samples, "source_ends", [len(self.samples)])
        return [bisect_left(self.indices, end) for end in ends]

    def source_of(self, index: int) -> int:
        return bisect_right(self.source_ends, index)


class ShardFolder(Joined):
    """The shards of a corpus that was tokenised, those without a sample left out."""

    def __init__(self, path: Path):
        if not (path / manifest.NAME).exists():
            raise InputError(f"{path}: is tokenised in part only; let mot-gen data tokenize finish it")
        import pyarrow.parquet

        shards = [shard for shard in sorted(path.glob("*.parquet")) if pyarrow.parquet.read_metadata(shard).num_rows]
        if not shards:
            raise InputError(f"{path}: holds no record")
        super().__init__([Parquet(shard) for shard in shards])
        self.path = path


_READERS = {".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": Parquet, ".tar": TarShard}


def open_records(path: str | Path) -> Source | ShardFolder:
    """The samples of a .jsonl, .parquet or .tar file, of a folder of pairs, or of a tokenised corpus."""
    path = Path(path)
    if (path / CORPUS).exists():
        return ShardFolder(path)
    if path.is_dir():
        return PairFolder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder (data.records)")
    if path.suffix.lower() not in _READERS:
        kinds = ", ".join(_READERS)
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no known kind of records; give {kinds} or a folder")
    return _READERS[path.suffix.lower()](path)


def split(samples, share: float, seed: int) -> Splits:
    """Holds out about `share` of the samples by a hash of their id, so that a set that grows keeps what it held out.

    `samples`: a source or joined sources. With two samples or more, neither side is empty unless share is 0.
    """
    salt = seed.to_bytes(8)

    def place(key: int) -> int:
        return int.from_bytes(hashlib.blake2b(key.to_bytes(8), digest_size=8, salt=salt).digest())

    places = [place(key) for key in samples.keys]
    limit = int(share * 2**64)
    if share > 0 and len(places) > 1:
        limit = min(max(limit, min(places) + 1), max(places))
    held_out = [i for i, value in enumerate(places) if value < limit]
    train = [i for i, value in enumerate(places) if value >= limit]
    return Splits(Selection(samples, train), Selection(samples, held_out))


def load(data) -> Splits:
    """The records that a recipe's data section names; held out are its `held_out_records`, or a share of all. Weights
    say how often training sees a source; what is held out is seen once."""
    samples = open_all([records.path for records in data.records])
    if data.held_out_records:
        splits = Splits(samples, open_all(data.held_out_records))
    else:
        splits = split(samples, data.held_out, data.split_seed)
    weights = [records.weight for records in data.records]
    return splits if set(weights) == {1} else replace(splits, train=Weighted(splits.train, weights))


def open_all(paths: Sequence[str | Path]) -> Joined:
    """Records of several files and folders, one after the other."""
    return Joined([open_records(path) for path in paths])


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hex over all samples: a source's own, or one over ids, captions and texts of a plain list."""
    if hasattr(samples, "fingerprint"):
        return samples.fingerprint
    content = hashlib.sha256()
    for sample in samples:
        texts = sample.captions if isinstance(sample, Pair) else [p.value for p in sample.parts if p.kind == "text"]
        content.update(repr((sample.id, tuple(texts))).encode())
    return content.hexdigest()


def source_names(samples: Sequence[Sample]) -> list[str]:
    """Names of the sources that samples come from; none where they are not told apart."""
    return getattr(samples, "source_names", [])


def source_of(samples: Sequence[Sample], index: int) -> int:
    """The number, among `source_names`, of the source of a sample."""
    return samples.source_of(index) if hasattr(samples, "source_of") else 0


def outline(samples: Sequence[Sample], index: int) -> Sample:
    """A sample whose media need not be read: in their place may stand None. What is arranged and said is the same."""
    return samples.outline(index) if hasattr(samples, "outline") else samples[index]
