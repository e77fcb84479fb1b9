"""The loader: `Loader` deals out rows of tokenised samples, without end.

plan.py says which samples come next. Rows form one endless stream, epoch after epoch: batch k of it goes to rank
k % world, no sample is missing or comes twice. Every choice comes from a generator seeded by (seed, turn, index), hence
the plan's position is all there is to save.

Every rank knows the lengths of the whole window: of texts by tokenising them, of media by their tokenizer's grid where
it has one. So it tokenises, and reads the media, of its own rows alone (reading.py, spans.py). A medium that turns out
broken then leaves its place in the row empty, on whatever rank, so that the other rows are the same everywhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from typing import Any

from mot_gen.data import records
from mot_gen.data.cache_size import cache_lines
from mot_gen.data.drafts import Draft, fill, pending_of
from mot_gen.data.left_out import LeftOut
from mot_gen.data.mixture import SampleDraw, mixture_of
from mot_gen.data.notices import Notice, Notices
from mot_gen.data.picture_watch import PictureWatch, opening_lines
from mot_gen.data.plan import PACKINGS, BatchPlan, Position
from mot_gen.data.reading import SampleReader
from mot_gen.data.spans import UNUSABLE, Pending, SpanMaker
from mot_gen.errors import require
from mot_gen.packing import document_length
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Span

__all__ = ["PACKINGS", "UNUSABLE", "BatchPlan", "Loader", "Row", "Tokenised"]


class Tokenised(list[Span]):
    """The spans of a sample. source: the number of the file or folder it comes from, among `Loader.sources`."""

    def __init__(self, spans: Iterable[Span], source: int = 0):
        super().__init__(spans)
        self.source = source


Row = list[Tokenised]  # the samples that share a row
Wanted = tuple[Position, int]  # a window, and the number of its first row in the stream


class Loader:
    """Endless iterator of batches, each `training.rows` rows of tokenised samples, for `pack_rows`.

    samples: a sequence of `Pair`s and `Document`s. tokenizers: modality -> tokenizer, text first. data, training: the
    recipe's sections. maker: of the spans; `BlankSpans` reads no picture.

    A sample that cannot be read, or is longer than a row, is skipped, logged and kept in `skipped` (index -> id and
    reason). Together with the records that could not be read to begin with (`broken`), they may be as many as
    `training.max_corrupt`; more are an InputError. `changed` counts the pictures that lose size or colour.
    """

    def __init__(
        self,
        samples: Sequence[records.Sample],
        tokenizers: Mapping[str, Any],
        data: Data,
        training: Training,
        rank: int = 0,
        world: int = 1,
        maker: type[SpanMaker] = SpanMaker,
    ):
        require(len(samples), "data: no sample is left to train on; lower data.held_out or give more records")
        self.samples, self.tokenizers, self.data, self.training = samples, tokenizers, data, training
        self.rank, self.world = rank, world
        self.sources = records.source_names(samples)
        self.modalities = [tokenizer.modality for tokenizer in tokenizers.values()]
        self.fingerprints = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
        self.plan = BatchPlan(
            mixture_of(samples, training.seed), data.window, training.seed, data.block, lambda: self._index
        )
        self._left_out = LeftOut(samples, training.max_corrupt)
        from_a_user = records.kinds(samples) or "." in data.source  # files, or a module of one's own
        watched = tokenizers if from_a_user else {}
        self._pictures = PictureWatch(watched, len(samples))
        self._reader = SampleReader(
            samples, tokenizers, self.fingerprints, data, training.seed, self._left_out, self._pictures
        )
        self._spans = maker(tokenizers, self._reader.read, data.cache_mb * 2**20, training.workers)
        self._dealt = 0  # rows, to all ranks
        # By position and the number of the first row: the current window, and the one that is prepared ahead.
        self._windows: dict[Wanted, list[Row | None]] = {}
        self._ahead: dict[Wanted, Future[list[Row | None]]] = {}
        self._planner = ThreadPoolExecutor(1) if training.workers else None

    @property
    def broken(self) -> Notice:
        """The records that could not be read to begin with."""
        return self._left_out.broken

    @property
    def skipped(self) -> dict[int, str]:
        """Index -> id and reason of each sample that was left out."""
        return self._left_out.reasons

    @property
    def changed(self) -> Notices:
        """Pictures that lost size or colour, of those that this process has read."""
        return self._pictures.notices

    def first_lines(self) -> list[str]:
        """What to say of the data before training begins, a line of each kind: what is left out, changed or
        missing, and whether the cache is too small."""
        lines = opening_lines(self.samples, self.tokenizers, self._pictures)
        lines += cache_lines(self.samples, self.tokenizers, self.data)
        return [f"data: {line}" for line in lines]

    def tell(self, how: Callable[[str], None]) -> None:
        """Say by `how`, again and again, how far a window is that a batch waits for."""
        self._spans.tell = how

    @cached_property
    def _index(self) -> dict[str, Any]:
        """Everything that the stream of rows depends on."""
        tokenizers = " ".join(f"{name} {fingerprint}" for name, fingerprint in self.fingerprints.items())
        index = {
            "samples": records.fingerprint(self.samples),
            "tokenizers": hashlib.sha256(tokenizers.encode()).hexdigest(),
            "training.seed": self.training.seed,
            "training.row_length": self.training.row_length,
            "data.window": self.data.window,
            "data.caption_first": self.data.caption_first,
            "data.caption_dropout": self.data.caption_dropout,
        }
        weights = getattr(self.samples, "weights", None)
        if weights is not None:
            index["data.records.weight"] = list(weights)
        if self.data.block > 1:
            index["data.block"] = self.data.block
        if self.data.augment.active:
            index["data.augment"] = self.data.augment.model_dump()
        return index

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        mine: list[Row] = []
        for rank in range(self.world):
            dealt = [self._next_row() for _ in range(self.training.rows)]
            if rank == self.rank:
                mine = [row for row in dealt if row is not None]
        return mine

    def one_pass(self, epoch: int = 0) -> Iterator[list[Row]]:
        """This rank's batches of one epoch, the last perhaps shorter; for validation, as the position stays."""
        rows = self._epoch(epoch)
        number = 0
        while batch := list(islice(rows, self.training.rows)):
            if number % self.world == self.rank:
                yield [row for row in batch if row is not None]
            number += 1

    def _epoch(self, epoch: int) -> Iterator[Row | None]:
        """The rows of a whole epoch, window by window; None in the place of those of other ranks."""
        first = 0
        for start in range(0, len(self.plan.mixture), self.data.window):
            rows = self._prepare((epoch, start), first)
            yield from rows
            first += len(rows)

    def rows_an_epoch(self) -> int:
        """How many rows an epoch has on all ranks together, as far as the window where the stream stands tells."""
        left = len(self.plan.mixture) - self.plan.start
        return round(len(self._window()) * len(self.plan.mixture) / min(self.data.window, left))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able position after the last batch that was handed out; the same on every rank."""
        return self.plan.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after a saved position, with any number of ranks and workers; InputError if the data changed."""
        self.plan.load_state_dict(state, self.data.accept_changed)

    def leave_out(self, found: Mapping[int, str]) -> None:
        """Counts what other ranks could not use, index -> id and reason; InputError beyond the cap."""
        for index, reason in found.items():
            self._left_out.note(index, reason)

    def close(self) -> None:
        """Ends the threads that work ahead."""
        if self._planner:
            self._planner.shutdown(cancel_futures=True)
        self._spans.close()

    def _next_row(self) -> Row | None:
        """The next row of the stream; None for one of another rank."""
        while self.plan.consumed >= len(self._window()):
            self.plan.next_window()
        row = self._window()[self.plan.consumed]
        self.plan.consumed += 1
        self._dealt += 1
        return row

    def _window(self) -> list[Row | None]:
        """Rows of the current window; with workers, the next window is begun in the background."""
        position, first = wanted = self.plan.position, (self._dealt - self.plan.consumed) % self._group
        if wanted not in self._windows:
            ahead = self._ahead.pop(wanted, None)
            prepared = self._prepare(*wanted) if ahead is None else ahead.result()
            self._windows = {wanted: prepared}
            if self._planner:
                following = self.plan.after(position), (first + len(prepared)) % self._group
                self._ahead = {following: self._planner.submit(self._prepare, *following)}
        return self._windows[wanted]

    @property
    def _group(self) -> int:
        """Rows of one batch of each rank."""
        return self.training.rows * self.world

    def _prepare(self, position: Position, first: int) -> list[Row | None]:
        """The rows of a window, those of other ranks None.

        A function of seed and position, and of which rows of the stream are this rank's: the window's first has the
        number `first`.
        """
        drafts = self._drafts(self.plan.showings(position))
        drafts = self._made(drafts, [pending for pending in pending_of(drafts) if pending.length is None])
        rows = self._planned(list(filter(self._fits, drafts)), position)
        mine = [n for n in range(len(rows)) if self._is_mine(first + n)]
        own = sorted(chain.from_iterable(rows[n] for n in mine), key=lambda draft: draft.showing)
        made = {draft.showing: self._tokenised(draft) for draft in self._made(own, pending_of(own))}
        dealt: list[Row | None] = [None] * len(rows)
        for n in mine:
            dealt[n] = [made[draft.showing] for draft in rows[n] if draft.showing in made]
        return dealt

    def _is_mine(self, row: int) -> bool:
        """Whether a row of the stream, by its number, is dealt to this rank."""
        return row // self.training.rows % self.world == self.rank

    def _planned(self, drafts: Sequence[Draft], position: Position) -> list[list[Draft]]:
        """Plan which samples share a row, and shuffle the rows."""
        lengths = [self._length(draft) for draft in drafts]
        rows = PACKINGS[self.plan.packing](lengths, self.training.row_length)
        random.Random(f"rows/{self.plan.seed}/{position}").shuffle(rows)
        return [[drafts[number] for number in row] for row in rows]

    def _length(self, draft: Draft) -> int:
        return document_length(draft.spans, self.modalities)

    def _tokenised(self, draft: Draft) -> Tokenised:
        spans = [span for span in draft.spans if isinstance(span, Span)]
        assert len(spans) == len(draft.spans), "a span was not made"
        return Tokenised(spans, records.source_of(self.samples, draft.showing.index))

    def _drafts(self, showings: Sequence[SampleDraw]) -> list[Draft]:
        """A draft of each sample that can be used. They are read in the order of the files, neighbours together."""
        drafts = {draft.showing: draft for draft in self._spans.each(self._reader.draft, sorted(showings)) if draft}
        return [drafts[showing] for showing in showings if showing in drafts]

    def _made(self, drafts: Iterable[Draft], wanted: Iterable[Pending]) -> list[Draft]:
        """Drafts with the wanted spans made; those of which one cannot be made are left out and noted."""
        made = self._spans.make(wanted)
        whole = []
        for draft in drafts:
            with self._left_out.catching(draft.showing.index, f"{draft.id}: "):
                spans = [fill(span, made) for span in draft.spans]
                whole.append(Draft(draft.showing, draft.id, spans))
        return whole

    def _fits(self, draft: Draft) -> bool:
        """Whether a sample fits a row; one that does not is left out."""
        length, limit = self._length(draft), self.training.row_length
        if length > limit:
            reason = f"{length} tokens do not fit a row of {limit}; raise training.row_length"
            self._left_out.note(draft.showing.index, f"{draft.id}: {reason}")
        return length <= limit
