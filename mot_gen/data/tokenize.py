"""A corpus tokenised once, by processes or on GPUs, into shards of records that training reads: tokenize,
TokenizeReport. What it is given, Corpus and TokenizeOptions, is in shards.py.

Shard k holds the samples k * shard_size onwards, in their order, and is written whole under its name or not at all; so
what is there is done, whoever was killed, and the same call goes on with the rest. Text stays text: it is quick to
tokenise, and a caption is chosen anew every time its picture is seen. A sample that cannot be read is named in the
shard's own metadata and left out, up to a cap. What a folder was made from stands in `corpus.json`; it is finished when
it has a manifest.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mot_gen.data import records
from mot_gen.data.shards import CPU, Corpus, OpenCorpus, TokenizeOptions, check_cap, read_counts
from mot_gen.data.store import medium_bytes, parts_of, schema, to_record
from mot_gen.errors import InputError, Interrupted, require
from mot_gen.files import manifest
from mot_gen.files.atomic import write_text
from mot_gen.files.lock import lock
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals

__all__ = [
    "Corpus",
    "OpenCorpus",
    "TokenizeOptions",
    "TokenizeReport",
    "medium_bytes",
    "parts_of",
    "read_counts",
    "schema",
    "to_record",
    "tokenize",
]


@dataclass
class TokenizeReport:
    """What tokenising came to.

    samples: how many were written. skipped: `id: reason` of each that was left out. notices: what the reader left out
    or changed, a line of each kind.
    """

    samples: int = 0
    skipped: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def tokenize(corpus: Corpus, out: Path, options: TokenizeOptions | None = None) -> TokenizeReport:
    """Write the shards of a corpus that are not there yet.

    Raises Interrupted on SIGINT or SIGTERM; InputError where `out` holds another corpus, where a worker died, and for
    more corrupt samples than may be. In each case the shards that are written stay, and the same call goes on.
    """
    options, out = options or TokenizeOptions(), Path(out)
    hands = _hands_of(options)
    with lock(out):
        work = OpenCorpus(corpus, out, options, hands.here, hands.threads)
        _claim(out, work.about())
        for left in out.glob(".*.part.parquet"):  # of a process that was killed
            left.unlink()
        with stop_signals() as stop, Progress(len(work.samples), unit="sample") as bar:
            found = _all_shards(work, hands, lambda: stop.requested, bar)
        write_text(out / "skipped.txt", "".join(line + "\n" for line in found.skipped))
        manifest.write(out, {"samples": found.samples, "skipped": len(found.skipped)})
    return found


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Write what the folder is made from, or hold it to what is written there. It holds nothing else, since a folder of
    pictures would be read as tokens from then on."""
    if not (out / records.CORPUS).exists():
        others = [path.name for path in sorted(out.iterdir()) if not path.name.startswith(".")]
        if others:
            raise InputError(f"{out}: holds other files, such as {others[0]}; give a new folder")
    before = manifest.claim(out / records.CORPUS, about)
    changed = [name for name in about if before.get(name) != about[name]]
    other = f"{out}: holds tokens of other {' and '.join(changed)}; remove it, or give another --out"
    require(not changed, other)


def _all_shards(work: OpenCorpus, hands: _Workers, stop: Callable[[], bool], bar: Progress) -> TokenizeReport:
    """Write the shards that are missing, and count all of them."""
    missing = [k for k in range(work.shards) if not work.path(k).exists()]
    found = TokenizeReport(notices=records.notices(work.samples).lines())
    broken = records.broken(work.samples)
    _add(found, 0, [*broken.samples], work.options.max_corrupt)
    for k in sorted(set(range(work.shards)) - set(missing)):
        _add(found, *read_counts(work.path(k)), work.options.max_corrupt)
    bar.begin_at(found.samples + len(found.skipped) - broken.count)
    done = _in_processes(work, hands, missing, stop) if hands.processes else _in_line(work, missing, stop)
    for count, skipped in done:
        _add(found, count, skipped, work.options.max_corrupt)
        bar.update(found.samples + len(found.skipped) - broken.count)
    return found


def _add(found: TokenizeReport, count: int, skipped: list[str], cap: int) -> None:
    found.samples += count
    found.skipped += skipped
    check_cap(found.skipped, cap)


# ---------------------------------------------------------------- who does the work


@dataclass(frozen=True)
class _Workers:
    """devices: where networks run, in turn. processes: beside this one; 0 = it does the work itself. threads: of each
    process that does the work."""

    devices: Sequence[torch.device]
    processes: int
    threads: int

    @property
    def here(self) -> torch.device:
        """The device of this process."""
        return CPU if self.processes else self.devices[0]


def _hands_of(options: TokenizeOptions) -> _Workers:
    """A GPU has one process, whose threads read for it; several processes would only take its memory several times."""
    gpus = _gpus(options.device)
    if not gpus:
        return _Workers([CPU], options.workers, 0)
    if len(gpus) == 1 or options.workers < 2:
        return _Workers(gpus, 0, options.workers)
    processes = min(len(gpus), options.workers)
    return _Workers(gpus, processes, options.workers // processes)


def _gpus(device: str) -> list[torch.device]:
    there = torch.cuda.is_available()
    require(there or device != "cuda", "device: cuda was asked for, but no CUDA device is here; give cpu or auto")
    if device == "cpu" or not there:
        return []
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def _in_line(work: OpenCorpus, missing: Sequence[int], stop: Callable[[], bool]) -> Iterator[tuple[int, list[str]]]:
    for k in missing:
        yield work.shard(k, stop)


_here: OpenCorpus | None = None  # what a worker process was given, and keeps from shard to shard


def _begin(corpus: Corpus, out: Path, options: TokenizeOptions, threads: int, devices: Any) -> None:
    """Set up a worker. It leaves signals, which a whole group may be sent, to the parent, and uses one core a thread.
    devices: a queue from which each worker takes its own."""
    global _here
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here = OpenCorpus(corpus, out, options, devices.get(), threads)


def _shard(k: int, parent: int) -> tuple[int, list[str]]:
    """Write a shard in a worker, which gives up when its parent is gone."""
    assert _here is not None, "_begin was called first"
    return _here.shard(k, lambda: os.getppid() != parent)


def _in_processes(
    work: OpenCorpus, hands: _Workers, missing: Sequence[int], stop: Callable[[], bool]
) -> Iterator[tuple[int, list[str]]]:
    """Shards as they are finished. Spawned, since a fork of a process whose libraries run threads may hang."""
    spawn, parent, count = multiprocessing.get_context("spawn"), os.getpid(), min(hands.processes, len(missing))
    if not missing:
        return
    devices = spawn.SimpleQueue()
    for number in range(count):
        devices.put(hands.devices[number % len(hands.devices)])
    pool = ProcessPoolExecutor(count, spawn, _begin, (work.corpus, work.out, work.options, hands.threads, devices))
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
