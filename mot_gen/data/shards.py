"""One shard of a corpus that is tokenised: Corpus, TokenizeOptions, OpenCorpus (a corpus in one process), read_counts.

A shard's samples are tokenised in batches, all media of a modality in one pass of its network. Beside a GPU, threads
read and decode the media of some batches while the network is busy with another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from mot_gen.data import records
from mot_gen.data.encoded import Encoded
from mot_gen.data.samples import UNUSABLE, Sample
from mot_gen.data.store import parts_of, schema, to_record
from mot_gen.errors import InputError, Interrupted, expect
from mot_gen.files.atomic import Unwritable, writing
from mot_gen.sequence import Span
from mot_gen.tokenizers.pretrained import move

SKIPPED = b"mot_gen.skipped"
CPU = torch.device("cpu")
Kept = tuple[list[dict], list[str]]  # the records of a batch, and a line for each sample that is left out
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Corpus:
    """What is tokenised, and by what: samples() and tokenizers() (modality -> tokenizer, without text).

    Both are called once in every process. So both must be picklable, such as a `functools.partial` of a module's
    function, and give the same everywhere.
    """

    samples: Callable[[], Sequence[Sample]]
    tokenizers: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class TokenizeOptions:
    """How a corpus is tokenised.

    workers: processes; on GPUs one process each, and as many threads in all; 0 = this process and thread alone.
    shard_size, batch_size: samples a file, and a pass of a tokenizer.
    max_corrupt: samples that may be unreadable before it stops.
    device: of the tokenizers' networks, cpu or cuda; auto takes all GPUs that are here.
    """

    workers: int = 0
    shard_size: int = 1000
    batch_size: int = 64
    max_corrupt: int = 10
    device: str = "auto"

    def __post_init__(self):
        for name, least in (("workers", 0), ("shard_size", 1), ("batch_size", 1), ("max_corrupt", 0)):
            value = getattr(self, name)
            expect(value >= least, f"{name} must be at least {least}", value)
        expect(self.device in DEVICES, f"device must be one of {', '.join(DEVICES)}", self.device)


class OpenCorpus:
    """A corpus opened in one process. device: of its tokenizers' networks. threads: that read beside them; 0 = none."""

    def __init__(
        self, corpus: Corpus, out: Path, options: TokenizeOptions, device: torch.device = CPU, threads: int = 0
    ):
        self.corpus, self.out, self.options, self.threads = corpus, out, options, threads
        self.samples, self.tokenizers = corpus.samples(), dict(corpus.tokenizers())
        move(self.tokenizers.values(), device)
        self.fingerprints = {name: tokenizer.fingerprint for name, tokenizer in self.tokenizers.items()}
        self.shards = -(-len(self.samples) // options.shard_size)

    def about(self) -> dict[str, Any]:
        """What the shards depend on."""
        return {
            "samples": records.fingerprint(self.samples),
            "tokenizers": self.fingerprints,
            "shard_size": self.options.shard_size,
        }

    def path(self, k: int) -> Path:
        return self.out / f"part-{k:06d}.parquet"

    def shard(self, k: int, stop: Callable[[], bool]) -> tuple[int, list[str]]:
        """Tokenise and write shard k; how many samples it has, and those left out."""
        start, made, skipped = k * self.options.shard_size, [], []
        indices = range(start, min(start + self.options.shard_size, len(self.samples)))
        size = self.options.batch_size
        batches = [indices[first : first + size] for first in range(0, len(indices), size)]
        for kept, left_out in self._each(batches, stop):
            made += kept
            skipped += left_out
            check_cap(skipped, self.options.max_corrupt)
        self._write(k, made, skipped)
        return len(made), skipped

    def _each(self, batches: Sequence[Sequence[int]], stop: Callable[[], bool]) -> Iterator[Kept]:
        """What `_batch` gives for batches, in their order."""

        def batch(indices: Sequence[int]) -> Kept:
            if stop():
                raise Interrupted(f"stopped, the shards written stay in {self.out}; the same command goes on")
            return self._batch(indices)

        if not self.threads:
            yield from map(batch, batches)
            return
        pool = ThreadPoolExecutor(self.threads)
        try:
            yield from pool.map(batch, batches)
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, indices: Sequence[int]) -> Kept:
        """Records of the samples, all media of a modality in one pass; one by one where that fails."""
        read, skipped = self._read(indices)
        try:
            return self._records(read), skipped
        except UNUSABLE:
            made: list[dict] = []
            for sample in read:
                with _noting(skipped, sample.id):
                    made += self._records([sample])
            return made, skipped

    def _read(self, indices: Sequence[int]) -> tuple[list[Sample], list[str]]:
        """The samples of these indices, and a line for each that cannot be read."""
        read: list[Sample] = []
        skipped: list[str] = []
        for index in indices:
            with _noting(skipped, f"sample {index}"):
                read.append(self.samples[index])
        return read, skipped

    def _records(self, samples: Sequence[Sample]) -> list[dict]:
        """Samples as records, the media of each modality tokenised in one pass."""
        raws: dict[str, dict[tuple[int, int], Any]] = {name: {} for name in self.tokenizers}
        for number, sample in enumerate(samples):
            for place, part in enumerate(parts_of(sample)):
                if part.kind in raws and not isinstance(part.value, Encoded):
                    raws[part.kind][number, place] = part.value
        spans: list[dict[int, Span]] = [{} for _ in samples]  # of each sample by place
        for name, given in raws.items():
            if not given:
                continue
            encoded = self.tokenizers[name].encode_batch(list(given.values()))
            for (number, place), span in zip(given, encoded):
                spans[number][place] = span
        return [to_record(sample, own, self.fingerprints) for sample, own in zip(samples, spans)]

    def _write(self, k: int, made: list[dict], skipped: list[str]) -> None:
        """What bears a shard's name is whole, and on the disk."""
        about = {SKIPPED: json.dumps(skipped).encode()}
        table = pyarrow.Table.from_pylist(made, schema(self.tokenizers).with_metadata(about))
        try:
            with writing(self.path(k), durable=True) as part, part.open("wb") as file:
                pyarrow.parquet.write_table(table, file, compression="zstd")
        except Unwritable as error:
            raise InputError(f"{error}; make room, then go on") from error


@contextmanager
def _noting(skipped: list[str], name: str) -> Iterator[None]:
    """Within, what makes a sample unusable ends the block and becomes a line."""
    try:
        yield
    except UNUSABLE as error:
        skipped.append(f"{name}: {error}")


def read_counts(path: Path) -> tuple[int, list[str]]:
    """How many samples a shard has, and those that were left out; from its metadata alone."""
    try:
        about = pyarrow.parquet.read_metadata(path)
        return about.num_rows, json.loads(about.metadata[SKIPPED])
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is no shard that mot-gen data tokenize wrote; remove it") from error


def check_cap(skipped: list[str], cap: int) -> None:
    """InputError where more samples are left out than may be."""
    if len(skipped) > cap:
        raise InputError(f"corrupt samples: {len(skipped)}, more than --max-corrupt {cap}; the last is {skipped[-1]}")
