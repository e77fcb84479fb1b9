"""Spans made in batches: Pending, SpanMaker, BlankSpans, SpanCache.

Ids follow from a medium alone, but the last bits of latents also from the size of the batch in which a network saw it.
So that a span is bitwise the same on any rank, after any restart and with any cache, a network that gives spans of one
grid always sees batches of BATCH, the last filled up; what has another length each time is made one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

import torch

from mot_gen.data.encoded import Encoded, fixed_grid, fixed_length
from mot_gen.data.mixture import SampleDraw
from mot_gen.data.samples import UNUSABLE
from mot_gen.errors import InputError
from mot_gen.sequence import Span

BATCH = 16  # media of one grid in a pass of a network
TEXTS = 256  # in a call of a tokenizer

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Pending:
    """Stands for a span that is not made yet, with its length where that is known before.

    modality: its name.
    key: equal for equal spans.
    showing, place: which part it is of which sample as shown.
    learned: as of the span.
    kept: whether it will be asked for again.
    raw: a text or path; a medium itself is read when needed.
    number, variant: of a picture, which one it is of its sample, and how it is augmented.
    grid: of a picture, where it is known.
    """

    modality: str
    key: Hashable
    showing: SampleDraw
    place: int
    learned: bool
    length: int | None = None
    kept: bool = True
    raw: str | Path | None = None
    number: int = 0
    variant: int = 0
    grid: tuple[int, int] | None = None

    def __len__(self) -> int:
        if self.length is None:
            raise InputError(f"the length of a span of {self.modality} is not known before it is made")
        return self.length


class SpanCache:
    """Tokenised spans by key, up to `limit` bytes. An epoch visits each once, so none is worth evicting for another."""

    OVERHEAD = 512  # bytes of the objects around a span's values

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._spans: dict[Hashable, Span] = {}

    def get(self, key: Hashable) -> Span | None:
        """The span that is kept under a key."""
        return self._spans.get(key)

    def keep(self, key: Hashable, span: Span) -> None:
        """Keep a span if there is room."""
        size = span.values.nbytes + self.OVERHEAD
        if key not in self._spans and self.size + size <= self.limit:
            self.size += size
            self._spans[key] = span


class SpanMaker:
    """Makes spans of what `read` gives for them, in batches, and keeps them up to `limit` bytes.

    tokenizers: modality -> tokenizer, its first is text. read(pendings) -> for each its raw medium or text, its tokens
    where they were made before, or the error that reading it raised. workers: threads; 0 = in line. tell: is told how
    far the work is, while a batch waits for it.
    """

    tell: Callable[[str], None] | None = None

    def __init__(
        self,
        tokenizers: Mapping[str, Any],
        read: Callable[[Sequence[Pending]], list[Any]],
        limit: int,
        workers: int = 0,
    ):
        self.tokenizers, self._read = tokenizers, read
        self._text = next(iter(tokenizers))
        self._cache = SpanCache(limit)
        self._stream: torch.cuda.Stream | None = None
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def length(self, modality: str) -> int | None:
        """Tokens of every span of a modality, where its tokenizer gives all the same grid."""
        return fixed_length(self.tokenizers[modality])

    def grid(self, modality: str) -> tuple[int, int] | None:
        """The grid of all spans of a modality, if its tokenizer makes all of one size; else None."""
        return fixed_grid(self.tokenizers[modality])

    def make(self, wanted: Iterable[Pending]) -> dict[Hashable, Span | Exception]:
        """Key -> the span, or the error that says why there is none."""
        made: dict[Hashable, Span | Exception] = {}
        missing: dict[str, dict[Hashable, Pending]] = {}
        for pending in wanted:
            span = self._cache.get(pending.key)
            if span is None:
                missing.setdefault(pending.modality, {})[pending.key] = pending
            else:
                made[pending.key] = span
        batches: list[list[Pending]] = []
        for name, found in missing.items():
            batches += self._batches(name, list(found.values()))
        pendings = list(chain.from_iterable(batches))
        ahead = current_thread() is not main_thread()  # by another thread, for which perhaps no batch waits
        tell = None if ahead else self.tell
        spans = chain.from_iterable(self.each(self._encode, batches))
        for done, (pending, made_now) in enumerate(zip(pendings, spans), start=1):
            made[pending.key] = made_now
            if pending.kept and isinstance(made_now, Span):
                self._cache.keep(pending.key, made_now)
            if tell is not None:
                tell(f"tokenising the data: {done:,} of {len(pendings):,}")
        return made

    def each(self, call: Callable[[T], U], items: Iterable[T]) -> Iterable[U]:
        """`map`, by the threads."""
        return map(call, items) if self._pool is None else self._pool.map(call, items)

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _batches(self, name: str, pendings: list[Pending]) -> list[list[Pending]]:
        size = TEXTS if name == self._text else self._media_batch(name)
        return [pendings[start : start + size] for start in range(0, len(pendings), size)]

    def _media_batch(self, name: str) -> int:
        """Media of a modality in one pass; of several lengths one by one."""
        return BATCH if self.length(name) else 1

    def _encode(self, batch: list[Pending]) -> list[Span | Exception]:
        """The spans of a batch of one modality; where some cannot be made, of the others."""
        name, raws = batch[0].modality, self._read(batch)
        found = [raw.span(name) if isinstance(raw, Encoded) else raw for raw in raws]
        missing = [place for place, raw in enumerate(found) if not isinstance(raw, (Exception, Span))]
        for place, span in zip(missing, self._made(name, [raws[place] for place in missing])):
            found[place] = span
        return found

    def _made(self, name: str, raws: list[Any]) -> list[Span | Exception]:
        """The spans of media in one pass; where one cannot be made, the error in its place and a pass without it."""
        try:
            return [*self._in_one_pass(name, raws)]
        except UNUSABLE:
            errors = [self._error(name, raw) for raw in raws]
        spans = iter(self._in_one_pass(name, [raw for raw, error in zip(raws, errors) if error is None]))
        return [next(spans) if error is None else error for error in errors]

    def _in_one_pass(self, name: str, raws: list[Any]) -> list[Span]:
        """The spans of some media; a network always sees a full batch, the last medium repeated."""
        if not raws:
            return []
        full = len(raws) if name == self._text else self._media_batch(name)
        filled = raws + raws[-1:] * (full - len(raws))
        return self._encoded(name, filled)[: len(raws)]

    def _error(self, name: str, raw: Any) -> Exception | None:
        """Why a medium cannot be tokenised; None where it can."""
        try:
            self._encoded(name, [raw])
        except UNUSABLE as error:
            return error
        return None

    def _encoded(self, name: str, raws: list[Any]) -> list[Span]:
        tokenizer = self.tokenizers[name]
        with self._beside(getattr(tokenizer, "device", None)):
            return tokenizer.encode_batch(raws)

    @contextmanager
    def _beside(self, device: torch.device | None) -> Iterator[None]:
        """Within, a GPU works on a stream of its own, so that nothing stands in line behind a step of training."""
        if device is None or device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            yield


class BlankSpans(SpanMaker):
    """Makes zeros in the place of media whose length is known, which are then not read. Rows have their true shapes, so
    a step can be planned without its pictures."""

    def make(self, wanted: Iterable[Pending]) -> dict[Hashable, Span | Exception]:
        """Key -> the span, or the error that says why there is none."""
        known: dict[Hashable, Span | Exception] = {}
        unknown = []
        for pending in wanted:
            if pending.length is None:
                unknown.append(pending)
            else:
                known[pending.key] = self._blank(pending)
        return known | super().make(unknown)

    def _blank(self, pending: Pending) -> Span:
        modality = self.tokenizers[pending.modality].modality
        if modality.discrete:
            values = torch.zeros(len(pending), dtype=torch.long)
        else:
            values = torch.zeros(len(pending), modality.channels)
        return Span(pending.modality, values, pending.grid)
