"""A corpus tokenised once, by worker processes, into shards of records that training reads: Corpus, Options, tokenize.

Shard k holds the samples k * shard_size onwards, in their order, and is written whole under its name or not at all; so
what is there is done, whoever was killed, and the same call goes on with the rest. Text stays text: it is quick to
tokenise, and a caption is chosen anew every time its picture is seen. A sample that cannot be read is named in the
shard's own metadata and left out, up to a cap. What a folder was made from stands in `corpus.json`; it is finished when
it has a manifest.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from mot_gen.data import records
from mot_gen.data.encoded import Encoded
from mot_gen.data.samples import UNUSABLE, Sample
from mot_gen.data.store import medium_bytes, parts_of, schema, to_record
from mot_gen.errors import InputError, Interrupted, expect, require
from mot_gen.files import manifest
from mot_gen.files.lock import lock
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals
from mot_gen.files.whole import Unwritable, write_text, writing
from mot_gen.sequence import Span

__all__ = [
    "Corpus",
    "Found",
    "Options",
    "Work",
    "medium_bytes",
    "parts_of",
    "read_counts",
    "schema",
    "to_record",
    "tokenize",
]

SKIPPED = b"mot_gen.skipped"


@dataclass(frozen=True)
class Corpus:
    """What is tokenised, and by what: samples() and tokenizers() (modality -> tokenizer, without text).

    Both are called once in every process. So both must be picklable, such as a `functools.partial` of a module's
    function, and give the same everywhere.
    """

    samples: Callable[[], Sequence[Sample]]
    tokenizers: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Options:
    """How a corpus is tokenised.

    workers: processes; 0 = this one alone. shard_size, batch_size: samples a file, and a pass of a tokenizer.
    max_corrupt: samples that may be unreadable before it stops.
    """

    workers: int = 0
    shard_size: int = 1000
    batch_size: int = 64
    max_corrupt: int = 10

    def __post_init__(self):
        for name, least in (("workers", 0), ("shard_size", 1), ("batch_size", 1), ("max_corrupt", 0)):
            value = getattr(self, name)
            expect(value >= least, f"{name} must be at least {least}", value)


@dataclass
class Found:
    """What tokenising came to.

    samples: how many were written. skipped: `id: reason` of each that was left out. notices: what the reader left out
    or changed, a line of each kind.
    """

    samples: int = 0
    skipped: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def tokenize(corpus: Corpus, out: Path, options: Options | None = None) -> Found:
    """Write the shards of a corpus that are not there yet.

    Raises Interrupted on SIGINT or SIGTERM; InputError where `out` holds another corpus, where a worker died, and for
    more corrupt samples than may be. In each case the shards that are written stay, and the same call goes on.
    """
    options, out = options or Options(), Path(out)
    with lock(out):
        work = Work(corpus, out, options)
        _claim(out, work.about())
        for left in out.glob(".*.part.parquet"):  # of a process that was killed
            left.unlink()
        with stop_signals() as stop, Progress(len(work.samples), unit="sample") as bar:
            found = _all_shards(work, lambda: stop.requested, bar)
        write_text(out / "skipped.txt", "".join(line + "\n" for line in found.skipped))
        manifest.write(out, {"samples": found.samples, "skipped": len(found.skipped)})
    return found


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Write what the folder is made from, or hold it to what is written there."""
    before = manifest.claim(out / records.CORPUS, about)
    changed = [name for name in about if before.get(name) != about[name]]
    other = f"{out}: holds tokens of other {' and '.join(changed)}; remove it, or give another --out"
    require(not changed, other)


def _all_shards(work: Work, stop: Callable[[], bool], bar: Progress) -> Found:
    """Write the shards that are missing, and count all of them."""
    missing = [k for k in range(work.shards) if not work.path(k).exists()]
    found = Found(notices=records.notices(work.samples).lines())
    broken = records.broken(work.samples)
    _add(found, 0, [*broken.samples], work.options.max_corrupt)
    for k in sorted(set(range(work.shards)) - set(missing)):
        _add(found, *read_counts(work.path(k)), work.options.max_corrupt)
    bar.begin_at(found.samples + len(found.skipped) - broken.count)
    run = _in_line if work.options.workers == 0 else _in_processes
    for count, skipped in run(work, missing, stop):
        _add(found, count, skipped, work.options.max_corrupt)
        bar.update(found.samples + len(found.skipped) - broken.count)
    return found


def _add(found: Found, count: int, skipped: list[str], cap: int) -> None:
    found.samples += count
    found.skipped += skipped
    _check_cap(found.skipped, cap)


def _check_cap(skipped: list[str], cap: int) -> None:
    last = "".join(skipped[-1:])
    require(len(skipped) <= cap, f"corrupt samples: {len(skipped)}, more than --max-corrupt {cap}; the last is {last}")


# ---------------------------------------------------------------- who does the work


def _in_line(work: Work, missing: Sequence[int], stop: Callable[[], bool]) -> Iterator[tuple[int, list[str]]]:
    for k in missing:
        yield work.shard(k, stop)


_here: Work | None = None  # what a worker process was given, and keeps from shard to shard


def _begin(corpus: Corpus, out: Path, options: Options) -> None:
    """In a worker. It leaves signals, which a whole group may be sent, to the parent, and uses one core."""
    global _here
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here = Work(corpus, out, options)


def _shard(k: int, parent: int) -> tuple[int, list[str]]:
    """In a worker, which gives up when its parent is gone."""
    assert _here is not None, "_begin was called first"
    return _here.shard(k, lambda: os.getppid() != parent)


def _in_processes(work: Work, missing: Sequence[int], stop: Callable[[], bool]) -> Iterator[tuple[int, list[str]]]:
    """Shards as they are finished. Spawned, since a fork of a process whose libraries run threads may hang."""
    spawn, parent, count = multiprocessing.get_context("spawn"), os.getpid(), min(work.options.workers, len(missing))
    if not missing:
        return
    pool = ProcessPoolExecutor(count, spawn, _begin, (work.corpus, work.out, work.options))
    pending = {pool.submit(_shard, k, parent) for k in missing}
    try:
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            if stop():
                raise Interrupted(f"stopped, the shards written stay in {work.out}; the same command goes on")
    except BrokenProcessPool:
        raise InputError(
            f"{work.out}: a worker process died, perhaps for want of memory; the shards written stay, and the same "
            "command goes on; give it fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- one shard


class Work:
    """A corpus opened in one process."""

    def __init__(self, corpus: Corpus, out: Path, options: Options):
        self.corpus, self.out, self.options = corpus, out, options
        self.samples, self.tokenizers = corpus.samples(), dict(corpus.tokenizers())
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
        for first in range(0, len(indices), self.options.batch_size):
            if stop():
                raise Interrupted(f"stopped, the shards written stay in {self.out}; the same command goes on")
            kept, left_out = self._batch(indices[first : first + self.options.batch_size])
            made += kept
            skipped += left_out
            _check_cap(skipped, self.options.max_corrupt)
        self._write(k, made, skipped)
        return len(made), skipped

    def _batch(self, indices: Sequence[int]) -> tuple[list[dict], list[str]]:
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
