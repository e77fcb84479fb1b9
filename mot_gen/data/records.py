"""Records: samples in files and folders, read by index.

`open_records` picks a source by the path (sources.py, folder.py, tar.py, parquet.py), `open_all` opens several, and
`split` sets a held-out share aside. What one record says is in parsing.py, and the words Part, Pair, SpeechPair and
Document are in samples.py; both are offered here too. `split`, `fingerprint`, `outline`, `notices` and the functions
beside them also take a plain list of samples.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from mot_gen.data.folder import CONVERT, PairFolder
from mot_gen.data.joined import ConcatSamples, SubsetSamples
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
    SpeechPair,
    Splits,
    sample_key,
    texts_of,
    type_of,
)
from mot_gen.data.sources import JsonLines, NoRecord, Source
from mot_gen.data.tar import TarShard
from mot_gen.errors import InputError, cause, one_line, require
from mot_gen.files import manifest
from mot_gen.files.parquet_files import reading

__all__ = [
    "ConcatSamples",
    "Document",
    "JsonLines",
    "Pair",
    "PairFolder",
    "Parquet",
    "Part",
    "Sample",
    "Samples",
    "Source",
    "SpeechPair",
    "Splits",
    "SubsetSamples",
    "TarShard",
    "parse_record",
    "path_in",
    "sample_key",
    "texts_of",
    "type_of",
]

CORPUS = "corpus.json"  # in a folder that mot-gen data tokenize wrote
TABLES = (".csv", ".tsv", ".json")  # read by `mot-gen data convert` alone
PACKED_SUFFIXES = (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst")
# How files begin that are given under the names of others, and what to do.
PACKED = {
    b"\x1f\x8b": ("compressed by gzip", "unpack it: gunzip"),
    b"PK\x03\x04": ("a zip file", "unpack it: unzip"),
    b"BZh": ("compressed by bzip2", "unpack it: bunzip2"),
    b"\xfd7zX": ("compressed by xz", "unpack it: unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it: unzstd"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
}


class ShardFolder(ConcatSamples):
    """The shards of a corpus that was tokenised, those without a sample left out."""

    def __init__(self, path: Any, outside_media: bool = False):
        """Tokens need no other file; outside_media is taken since every source takes it."""
        finished = (path / manifest.NAME).exists()
        require(finished, f"{path}: is tokenised in part only; let mot-gen data tokenize finish it")
        shards = filter(_row_count, sorted(path.glob("*.parquet")))
        sources = [Parquet(shard, outside_media) for shard in shards]
        require(sources, f"{path}: holds no record")
        super().__init__(sources)
        self.path = path


def _row_count(shard: Any) -> int:
    import pyarrow.parquet

    with reading(shard), shard.open("rb") as file:
        return pyarrow.parquet.read_metadata(file).num_rows


_READERS: dict[str, Callable[..., Source]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
    ".tar": TarShard,
}


def open_records(path: str | Path, outside_media: bool = False) -> Samples:
    """The samples of a .jsonl, .parquet or .tar file, a folder of pairs or a tokenised corpus, by path or address.

    outside_media: whether records may name media outside of the folder that they lie in.
    InputError where nothing can be read of it. Single records that cannot be read are left out; see `Samples.broken`.
    """
    path = place(path)
    try:
        return reader_of(path)(path, outside_media)
    except InputError:
        raise
    except Exception as error:  # protocols raise errors of their own, such as of a connection or of credentials
        if not is_far(path):
            raise
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error


def reader_of(path: Any) -> Callable[..., Samples]:
    """What reads a place, by its name and first bytes; InputError where nothing is there, or nothing reads it."""
    missing = "no such file or folder (data.records)"
    require("\0" not in str(path), f"{str(path)!r}: {missing}")
    if (path / CORPUS).exists():
        return ShardFolder
    if path.is_dir():
        return PairFolder
    require(path.exists(), f"{path}: {missing}")
    suffix = path.suffix.lower().partition("?")[0]  # of an address with a query
    kinds = ", ".join(_READERS)
    named = path.suffix or "no suffix"
    require(is_far(path) or path.is_file(), f"{path}: is no regular file")
    require(suffix not in TABLES, f"{path}: a table is converted first: {CONVERT} {quote(str(path))} --out FILE")
    if not is_far(path) and suffix in (*_READERS, *PACKED_SUFFIXES):
        _refuse_packed(path)
    require(suffix in _READERS, f"{path}: {named} is no known kind of records; give {kinds} or a folder")
    return _READERS[suffix]


def _refuse_packed(path: Path) -> None:
    """InputError for a file that begins as something else does than its name says."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {cause(error)}") from None
    for mark, (what, remedy) in PACKED.items():
        require(not start.startswith(mark), f"{path}: is {what}; {remedy}")


def open_all(paths: Sequence[str | Path], outside_media: bool = False) -> ConcatSamples:
    """Records of several files and folders, one after the other, as `open_records` opens each.

    InputError that names each that cannot be read.
    """
    sources: list[Samples] = []
    errors: list[InputError] = []
    for path in paths:
        try:
            sources.append(open_records(path, outside_media))
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else NoRecord.of(errors)
    return ConcatSamples(sources)


def split(samples: Sequence[Sample], share: float, seed: int) -> Splits:
    """Holds out about `share` of the samples by a hash of their id, so that a set that grows keeps what it held out.

    With two samples or more, neither side is empty unless share is 0. A single sample is trained on.
    """
    samples = _known(samples)
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
    return Splits(SubsetSamples(samples, train), SubsetSamples(samples, held_out))


# ---------------------------------------------------------------- of samples that are perhaps a plain list


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hex over all samples: a source's own, or one over ids, captions and texts of a plain list."""
    own = getattr(samples, "fingerprint", None)
    if own is not None:
        return own
    content = hashlib.sha256()
    for index in range(len(samples)):
        sample = outline(samples, index)
        content.update(repr((sample.id, tuple(texts_of(sample)))).encode())
    return content.hexdigest()


class _ListSamples(Samples):
    """A plain list as samples that come from nowhere in particular."""

    def __init__(self, samples: Sequence[Sample]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> Sample:
        return self.samples[index]

    @cached_property
    def keys(self) -> array[int]:  # type: ignore[override]  # a class may not declare an attribute as lazily made
        return array("Q", (sample_key(self.samples[index].id) for index in range(len(self))))

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # likewise
        return fingerprint(self.samples)


def _known(samples: Sequence[Sample]) -> Samples:
    """Samples that know where they come from, which a plain list does not."""
    return samples if isinstance(samples, Samples) else _ListSamples(samples)


def source_names(samples: Sequence[Sample]) -> list[str]:
    """Names of the sources that samples come from; none where they are not told apart."""
    return _known(samples).source_names


def source_of(samples: Sequence[Sample], index: int) -> int:
    """The number, among `source_names`, of the source of a sample."""
    return bisect_right(_known(samples).source_ends, index)


def outline(samples: Sequence[Sample], index: int) -> Sample:
    """A sample whose media need not be read: in their place may stand None. What is arranged and said is the same."""
    of = getattr(samples, "outline", samples.__getitem__)
    return of(index)


def broken(samples: Sequence[Sample]) -> Notice:
    """The records that could not be read."""
    return _known(samples).broken


def notices(samples: Sequence[Sample]) -> Notices:
    """What the reader left out or changed."""
    return _known(samples).notices


def kinds(samples: Sequence[Sample]) -> Counter[str]:
    """Samples by the modalities of their parts; empty where they were not read from files."""
    return _known(samples).kinds
