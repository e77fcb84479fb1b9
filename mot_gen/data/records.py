"""Records: samples in files and folders, read by index.

`open_records` picks a source by the path (sources.py, folder.py, tar.py, parquet.py), `Joined` puts several one after
the other, and `split` sets a held-out share aside. What one record says is in parsing.py, and the words Part, Pair and
Document are in samples.py; both are offered here too.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from mot_gen.data.folder import PairFolder
from mot_gen.data.notices import Notice, Notices
from mot_gen.data.parquet import Parquet
from mot_gen.data.parsing import parse_record, path_in
from mot_gen.data.remote import is_far, place
from mot_gen.data.samples import (
    Document,
    Pair,
    Part,
    Sample,
    Samples,
    Splits,
    sample_key,
    texts_of,
    type_of,
)
from mot_gen.data.sources import JsonLines, NoRecord, Source
from mot_gen.data.tar import TarShard
from mot_gen.errors import InputError, one_line
from mot_gen.files import manifest

__all__ = [
    "Document",
    "JsonLines",
    "Pair",
    "PairFolder",
    "Parquet",
    "Part",
    "Sample",
    "Samples",
    "Source",
    "Splits",
    "TarShard",
    "parse_record",
    "path_in",
    "sample_key",
    "texts_of",
    "type_of",
]

CORPUS = "corpus.json"  # in a folder that mot-gen data tokenize wrote


class Joined(Samples):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Samples]):
        self.sources = sources
        self._ends = list(accumulate(map(len, sources)))
        self.keys = array("Q")
        for source in sources:
            self.keys.extend(source.keys)
        self.fingerprint = hashlib.sha256(" ".join(s.fingerprint for s in sources).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def source_ends(self) -> list[int]:
        return self._ends

    @property
    def source_names(self) -> list[str]:
        return [" ".join(source.source_names[:1]) for source in self.sources]

    @property
    def notices(self) -> Notices:
        return Notices().add(source.notices for source in self.sources)

    @property
    def broken(self) -> Notice:
        found = Notice()
        for source in self.sources:
            found.add(source.broken)
        return found

    @property
    def kinds(self) -> Counter[str]:
        return sum((source.kinds for source in self.sources), Counter())

    def sample(self, index: int) -> Sample:
        source, at = self._at(index)
        return source[at]

    def outline(self, index: int) -> Sample:
        source, at = self._at(index)
        return source.outline(at)

    def _at(self, index: int) -> tuple[Samples, int]:
        which = source_of(self, index)
        return self.sources[which], index - (self._ends[which - 1] if which else 0)


class Selection(Samples):
    """Some of the samples of a source, by ascending index."""

    def __init__(self, samples: Samples, indices: Iterable[int]):
        self.samples = samples
        self.indices = array("Q", indices)
        chosen = samples.fingerprint.encode() + self.indices.tobytes()
        self.fingerprint = hashlib.sha256(chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def keys(self) -> array[int]:  # type: ignore[override]  # a class may not declare an attribute as lazily made
        return array("Q", (self.samples.keys[index] for index in self.indices))

    @cached_property
    def source_ends(self) -> list[int]:  # type: ignore[override]  # likewise
        return [bisect_left(self.indices, end) for end in self.samples.source_ends]

    @property
    def source_names(self) -> list[str]:
        return self.samples.source_names

    @property
    def notices(self) -> Notices:
        return self.samples.notices

    @property
    def broken(self) -> Notice:
        return self.samples.broken

    @property
    def kinds(self) -> Counter[str]:
        return self.samples.kinds

    def sample(self, index: int) -> Sample:
        return self.samples[self.indices[index]]

    def outline(self, index: int) -> Sample:
        return self.samples.outline(self.indices[index])


class ShardFolder(Joined):
    """The shards of a corpus that was tokenised, those without a sample left out."""

    def __init__(self, path: Any):
        if not (path / manifest.NAME).exists():
            raise InputError(f"{path}: is tokenised in part only; let mot-gen data tokenize finish it")
        shards = [shard for shard in sorted(path.glob("*.parquet")) if _row_count(shard)]
        if not shards:
            raise InputError(f"{path}: holds no record")
        super().__init__([Parquet(shard) for shard in shards])
        self.path = path


def _row_count(shard: Any) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        with shard.open("rb") as file:
            return pyarrow.parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{shard}: cannot be read: {one_line(error)}") from None


_READERS: dict[str, Callable[[Any], Source]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
    ".tar": TarShard,
}


def open_records(path: str | Path) -> Samples:
    """The samples of a .jsonl, .parquet or .tar file, a folder of pairs or a tokenised corpus, by path or address.

    InputError where nothing can be read of it. Single records that cannot be read are left out; see `Samples.broken`.
    """
    path = place(path)
    if not is_far(path):
        return _open(path)
    try:
        return _open(path)
    except InputError:
        raise
    except Exception as error:  # protocols raise errors of their own, such as of a connection or of credentials
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error


def _open(path: Any) -> Samples:
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: no such file or folder (data.records)")
    if (path / CORPUS).exists():
        return ShardFolder(path)
    if path.is_dir():
        return PairFolder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder (data.records)")
    suffix = path.suffix.lower().partition("?")[0]  # of an address with a query
    if suffix not in _READERS:
        kinds = ", ".join(_READERS)
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no known kind of records; give {kinds} or a folder")
    if not is_far(path) and not path.is_file():
        raise InputError(f"{path}: is no regular file")
    return _READERS[suffix](path)


def open_all(paths: Sequence[str | Path]) -> Joined:
    """Records of several files and folders, one after the other. InputError that names each that cannot be read."""
    sources: list[Samples] = []
    errors: list[InputError] = []
    for path in paths:
        try:
            sources.append(open_records(path))
        except InputError as error:
            errors.append(error)
    if len(errors) > 1:
        broken = Notice()
        for each in errors:
            for line in each.broken.samples if isinstance(each, NoRecord) else [str(each)]:
                broken.note(line)
        raise NoRecord("; ".join(map(str, errors)), broken)
    if errors:
        raise errors[0]
    return Joined(sources)


def split(samples: Samples, share: float, seed: int) -> Splits:
    """Holds out about `share` of the samples by a hash of their id, so that a set that grows keeps what it held out.

    With two samples or more, neither side is empty unless share is 0. A single sample is trained on.
    """
    salt = seed.to_bytes(8)

    def place_of(key: int) -> int:
        return int.from_bytes(hashlib.blake2b(key.to_bytes(8), digest_size=8, salt=salt).digest())

    places = array("Q", map(place_of, samples.keys))
    limit = int(share * 2**64)
    if len(places) == 1:
        limit = 0
    elif share > 0:
        limit = min(max(limit, min(places) + 1), max(places))
    held_out = (index for index, value in enumerate(places) if value < limit)
    train = (index for index, value in enumerate(places) if value >= limit)
    return Splits(Selection(samples, train), Selection(samples, held_out))


# ---------------------------------------------------------------- of samples that are perhaps a plain list


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hex over all samples: a source's own, or one over ids, captions and texts of a plain list."""
    own = getattr(samples, "fingerprint", None)
    if own is not None:
        return own
    content = hashlib.sha256()
    for sample in samples:
        content.update(repr((sample.id, tuple(texts_of(sample)))).encode())
    return content.hexdigest()


def source_names(samples: Sequence[Sample]) -> list[str]:
    """Names of the sources that samples come from; none where they are not told apart."""
    return samples.source_names if isinstance(samples, Samples) else []


def source_of(samples: Sequence[Sample], index: int) -> int:
    """The number, among `source_names`, of the source of a sample."""
    return bisect_right(samples.source_ends, index) if isinstance(samples, Samples) else 0


def outline(samples: Sequence[Sample], index: int) -> Sample:
    """A sample whose media need not be read: in their place may stand None. What is arranged and said is the same."""
    of = getattr(samples, "outline", None)
    return of(index) if of else samples[index]


def broken(samples: Sequence[Sample]) -> Notice:
    """The records that could not be read."""
    return samples.broken if isinstance(samples, Samples) else Notice()


def notices(samples: Sequence[Sample]) -> Notices:
    """What the reader left out or changed."""
    return samples.notices if isinstance(samples, Samples) else Notices()


def kinds(samples: Sequence[Sample]) -> Counter[str]:
    """Samples by the modalities of their parts; empty where they were not read from files."""
    return samples.kinds if isinstance(samples, Samples) else Counter()
