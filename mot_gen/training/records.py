"""Records: what a training sample is, and how it is read from files.

`Part` is one piece of raw content. A sample is a `Pair` (an image and its captions) or a `Document` (parts in a fixed
order); either is arranged into parts by `.arrange(rng, options)`. `parse_record` turns one JSON object into a sample.
Sources, each a sequence of samples that keeps only positions in memory and reads on access: `JsonLines`, `Parquet`,
`TarShard` (WebDataset) and `PairFolder`. `open_records` picks one by the path, `split` sets a held-out share aside, and
`load` does both for a recipe. Errors name the file, the line or row, and the field.

A record is one of
    {"id": "r1", "messages": [{"role": "user", "content": [{"type": "text", "text": "Draw snow."}]},
                              {"role": "assistant", "content": [{"type": "image", "image": "b.jpg", "loss": true}]}]}
    {"content": [{"type": "text", "text": "..."}, {"type": "image", "image": "a.jpg"}]}
    {"image": "a.jpg", "caption": "..."}       (or "text", or "captions": [...], or none)
    {"text": "..."}
Parts of an assistant's message and of `content` carry loss, others do not; `loss` on a part overrules. A medium is a
path, bytes in parquet, or its tokens (mot_gen/training/encoded.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tarfile
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from mot_gen import manifest
from mot_gen.errors import InputError, nearest
from mot_gen.training.encoded import is_encoded, parse_encoded

MODALITIES = {"audio": "speech"}  # a part's type -> its modality, where the names differ
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
CORPUS = "corpus.json"  # in a folder that mot-gen data tokenize wrote
Resolve = Callable[[Any, str], Any]  # (what a record says, its field) -> path or bytes of a medium


def type_of(modality: str) -> str:
    """A modality -> the type of its parts in records."""
    return next((type for type, name in MODALITIES.items() if name == modality), modality)


# ---------------------------------------------------------------- samples


@dataclass(frozen=True)
class Part:
    """One piece of raw content. kind: its modality. value: text, or a medium as path, bytes, PIL image or Encoded."""

    kind: str
    value: Any
    loss: bool = True


@dataclass(frozen=True)
class Pair:
    """An image and its captions, any number of phrasings of the same thing."""

    id: str
    image: Any
    captions: tuple[str, ...] = ()

    def arrange(self, rng: random.Random, options) -> list[Part]:
        """One phrasing before or after the image. `options.caption_first` is the probability of before,
        `options.caption_dropout` that of no caption at all, which teaches the unconditional half of guidance."""
        image = Part("image", self.image)
        if not self.captions or rng.random() < options.caption_dropout:
            return [image]
        caption = Part("text", rng.choice(self.captions))
        return [caption, image] if rng.random() < options.caption_first else [image, caption]


@dataclass(frozen=True)
class Document:
    """Parts whose order is given."""

    id: str
    parts: tuple[Part, ...]

    def arrange(self, rng: random.Random, options) -> list[Part]:
        """The parts as they are."""
        return list(self.parts)


Sample = Pair | Document


@dataclass(frozen=True)
class Splits:
    """What training sees, and what it never sees."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]


# ---------------------------------------------------------------- one record


def parse_record(record: Any, where: str, default_id: str, resolve: Resolve) -> Sample:
    """One record -> a sample; `where` begins every error, `resolve` finds media."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: a record is an object with image and caption, messages, content or text")
    id = str(record.get("id", default_id))
    if "messages" in record:
        return Document(id, tuple(_messages(record["messages"], where, resolve)))
    if "content" in record:
        return Document(id, tuple(_content(record["content"], True, f"{where}: content", resolve)))
    if "image" in record:
        return Pair(id, _medium(record["image"], f"{where}: image", resolve), _captions(record, where))
    if "text" in record:
        return Document(id, (Part("text", _text(record["text"], f"{where}: text")),))
    raise InputError(
        f"{where}: has none of image, messages, content and text; its keys are {', '.join(record) or 'none'}"
    )


def _messages(messages: Any, where: str, resolve: Resolve):
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: messages must be a list that is not empty, got {messages!r:.60}")
    for i, message in enumerate(messages):
        field = f"{where}: messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{field}.role must be system, user or assistant, got {message!r:.60}")
        yield from _content(message.get("content"), message["role"] == "assistant", f"{field}.content", resolve)


def _content(content: Any, loss: bool, where: str, resolve: Resolve):
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise InputError(f"{where} must be text or a list of parts that is not empty, got {content!r:.60}")
    for i, part in enumerate(content):
        yield _part(part, loss, f"{where}[{i}]", resolve)


def _part(part: Any, loss: bool, where: str, resolve: Resolve) -> Part:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InputError(f'{where} must be a part such as {{"type": "text", "text": "..."}}, got {part!r:.60}')
    kind = part["type"]
    unknown = {name for name, value in part.items() if value is not None} - {"type", "loss", kind}
    if unknown or part.get(kind) is None:
        raise InputError(f"{where} needs the keys type and {kind}, and perhaps loss, got {', '.join(sorted(part))}")
    loss = loss if part.get("loss") is None else part["loss"]
    if not isinstance(loss, bool):
        raise InputError(f"{where}.loss must be true or false, got {loss!r}")
    field = f"{where}.{kind}"
    value = _text(part["text"], field) if kind == "text" else _medium(part[kind], field, resolve)
    return Part(MODALITIES.get(kind, kind), value, loss)


def _medium(value: Any, field: str, resolve: Resolve) -> Any:
    return parse_encoded(value, field) if is_encoded(value) else resolve(value, field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{field} must be text that is not empty, got {value!r:.60}")
    return value


def _captions(record: dict, where: str) -> tuple[str, ...]:
    given = [name for name in ("captions", "caption", "text") if record.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{where}: {given[0]} and {given[1]} both caption the image; give one")
    if not given:
        return ()
    value = record[given[0]]
    if given[0] != "captions":
        return (_text(value, f"{where}: {given[0]}"),)
    if not isinstance(value, list):
        raise InputError(f"{where}: captions must be a list of texts, got {value!r:.60}")
    return tuple(_text(caption, f"{where}: captions[{i}]") for i, caption in enumerate(value))


def _path_in(folder: Path) -> Resolve:
    """Media as paths relative to `folder`; bytes, also in Hugging Face's {bytes, path}, stay bytes."""

    def resolve(value: Any, field: str):
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise InputError(f"{field} must be the path of a file, got {value!r:.60}")
        return folder / value

    return resolve


# ---------------------------------------------------------------- sources


def sample_key(id: str) -> int:
    """64 bits that stand for a sample's id when samples are split and compared."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


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
        return parse_record(record, where, f"{self.path.name}:{number}", _path_in(self.path.parent))

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
        return parse_record(row, where, f"{self.path.name}:{number}", _path_in(self.path.parent))

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
            self._add(self[number].id, raw + texts)

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
        members, key = self._samples[index], self._names[index]
        where = f"{self.path}: {key}"

        def resolve(value: Any, field: str) -> bytes:
            suffix = str(value).removeprefix(f"{key.rpartition('/')[2]}.").lower()
            if suffix not in members:
                raise InputError(f"{field}: the sample has no member {value!r}{nearest(suffix, members)}")
            return self._bytes(members, suffix)

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
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = sources
        self._ends = list(accumulate(map(len, sources)))
        self.keys = array("Q", (key for source in sources for key in source.keys))
        self.fingerprint = hashlib.sha256(" ".join(s.fingerprint for s in sources).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        which = self.source_of(index)
        return self.sources[which][index - (self._ends[which - 1] if which else 0)]

    @property
    def source_names(self) -> list[str]:
        return [str(source.path) for source in self.sources]

    def source_of(self, index: int) -> int:
        """The number of the source that a sample comes from."""
        return bisect_right(self._ends, index)


class Selection(Sequence[Sample]):
    """Some of the samples of a source, by index."""

    def __init__(self, samples, indices: Sequence[int]):
        self.samples = samples
        self.indices = array("Q", indices)
        chosen = samples.fingerprint.encode() + self.indices.tobytes()
        self.fingerprint = hashlib.sha256(chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.indices[index]]

    @property
    def source_names(self) -> list[str]:
        return source_names(self.samples)

    def source_of(self, index: int) -> int:
        return source_of(self.samples, self.indices[index])


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
    """The records that a recipe's data section names; held out are its `held_out_records`, or a share of all."""
    samples = open_all(data.records)
    if data.held_out_records:
        return Splits(samples, open_all(data.held_out_records))
    return split(samples, data.held_out, data.split_seed)


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
