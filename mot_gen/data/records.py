"""Records: samples in files and folders, read by index.

`open_records` picks a source by the path (sources.py, parquet.py), `Joined` puts several one after the other, and
`split` sets a held-out share aside. What one record says, and the words Part, Pair and Document, are in samples.py;
errors name the file, the line or row, and the field.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from mot_gen.data.parquet import Parquet
from mot_gen.data.remote import is_far, place
from mot_gen.data.samples import (  # noqa: F401  the words of samples.py are offered here too
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
from mot_gen.data.sources import IMAGE_SUFFIXES, JsonLines, PairFolder, Source, TarShard  # noqa: F401  likewise
from mot_gen.errors import InputError
from mot_gen.files import manifest

CORPUS = "corpus.json"  # in a folder that mot-gen data tokenize wrote


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

        def rows(shard) -> int:
            with shard.open("rb") as file:
                return pyarrow.parquet.read_metadata(file).num_rows

        shards = list(filter(rows, sorted(path.glob("*.parquet"))))
        if not shards:
            raise InputError(f"{path}: holds no record")
        super().__init__([Parquet(shard) for shard in shards])
        self.path = path


_READERS = {".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": Parquet, ".tar": TarShard}


def open_records(path: str | Path) -> Source | ShardFolder:
    """The samples of a .jsonl, .parquet or .tar file, a folder of pairs or a tokenised corpus, by path or address."""
    path = place(path)
    if is_far(path):
        return _open_far(path)
    return _open(path)


def _open_far(path) -> Source | ShardFolder:
    """Protocols raise errors of their own, such as of a connection or of credentials."""
    try:
        return _open(path)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read: {reason}") from error


def _open(path) -> Source | ShardFolder:
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
    return _READERS[suffix](path)


def split(samples, share: float, seed: int) -> Splits:
    """Holds out about `share` of the samples by a hash of their id, so that a set that grows keeps what it held out.

    `samples`: a source or joined sources. With two samples or more, neither side is empty unless share is 0.
    """
    salt = seed.to_bytes(8)

    def place(key: int) -> int:
        return int.from_bytes(hashlib.blake2b(key.to_bytes(8), digest_size=8, salt=salt).digest())

    places = array("Q", map(place, samples.keys))
    limit = int(share * 2**64)
    if share > 0 and len(places) > 1:
        limit = min(max(limit, min(places) + 1), max(places))
    held_out = array("Q", (i for i, value in enumerate(places) if value < limit))
    train = array("Q", (i for i, value in enumerate(places) if value >= limit))
    return Splits(Selection(samples, train), Selection(samples, held_out))


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
