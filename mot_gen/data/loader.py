"""The loader: `Loader` deals out rows of tokenised samples, without end.

plan.py says which samples come next. Rows form one endless stream, epoch after epoch: batch k of it goes to rank
k % world, no sample is missing or comes twice. Every choice comes from a generator seeded by (seed, turn, index), hence
the plan's position is all there is to save.

Every rank knows the lengths of the whole window: of texts by tokenising them, of media by their tokenizer's grid where
it has one. So it tokenises, and reads the media, of its own rows alone (spans.py). A medium that turns out broken then
leaves its place in the row empty, on whatever rank, so that the other rows are the same everywhere.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from mot_gen.data import records
from mot_gen.data.augment import augmented
from mot_gen.data.drafts import Draft, filled, pending_of
from mot_gen.data.encoded import Encoded
from mot_gen.data.looks import LOOKED_AT, PictureWatch, media_of
from mot_gen.data.mixture import Showing, mixture_of
from mot_gen.data.notices import Notices
from mot_gen.data.plan import PACKINGS, BatchPlan, Position
from mot_gen.data.roles import with_roles
from mot_gen.data.spans import UNUSABLE, Pending, SpanMaker
from mot_gen.errors import InputError, nearest
from mot_gen.files.image_files import load_image
from mot_gen.packing import document_length
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Span

__all__ = ["PACKINGS", "UNUSABLE", "BatchPlan", "Loader", "Row", "Tokenised"]

log = logging.getLogger(__name__)


class Tokenised(list[Span]):
    """The spans of a sample. source: the number of the file or folder it comes from, among `Loader.sources`."""

    def __init__(self, spans: Iterable[Span], source: int = 0):
        super().__init__(spans)
        self.source = source


Row = list[Tokenised]  # the samples that share a row
SHOWN = 3  # broken records that a message names


class Loader:
    """Endless iterator of batches, each `training.rows` rows of tokenised samples, for `pack_rows`.

    samples: a sequence of `Pair`s and `Document`s. tokenizers: modality -> tokenizer, text first. data, training: the
    recipe's sections.

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
    ):
        if not len(samples):
            raise InputError("data: no sample is left to train on; lower data.held_out or give more records")
        self.samples, self.tokenizers, self.data, self.training = samples, tokenizers, data, training
        self.rank, self.world = rank, world
        self.sources = records.source_names(samples)
        self.modalities = [tokenizer.modality for tokenizer in tokenizers.values()]
        self._vocab_sizes = {name: m.vocab_size for name, m in zip(tokenizers, self.modalities)}
        self.fingerprints = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
        self.plan = BatchPlan(mixture_of(samples, training.seed), data.window, training.seed, data.block, self._index())
        self.broken = records.broken(samples)
        self.skipped: dict[int, str] = {}
        self._pictures = PictureWatch(tokenizers if records.kinds(samples) else {}, len(samples))
        self._check_cap()
        self._spans = SpanMaker(tokenizers, self._read, data.cache_mb * 2**20, training.workers)
        self._dealt = 0  # rows, to all ranks
        self._rows: tuple[Any, list[Row | None]] | None = None
        self._ahead: tuple[Any, Future[list[Row | None]]] | None = None
        self._planner = ThreadPoolExecutor(1) if training.workers else None

    @property
    def changed(self) -> Notices:
        """Pictures that lost size or colour, of those that this process has read."""
        return self._pictures.notices

    def first_lines(self) -> list[str]:
        """What to say of the data before training begins: what is left out, changed or missing, a line of each kind."""
        kinds = records.kinds(self.samples)
        if not kinds:  # they are not read from files
            return []
        lines = records.notices(self.samples).lines()
        if self.broken.count:
            lines.append(f"{self.broken.count:,} records that cannot be read: {self.broken.first(SHOWN)}")
        for name, tokenizer in self.tokenizers.items():
            if not kinds[name] and not tokenizer.modality.input_only:  # which comes with pictures
                lines.append(f"no sample holds {name}, so nothing is learned of it")
        self._look_at_first()
        lines += [f"of the first {LOOKED_AT} samples {line}" for line in self.changed.lines(shown=1)]
        return [f"data: {line}" for line in lines]

    def _look_at_first(self) -> None:
        for index in range(min(LOOKED_AT, len(self.samples))):
            with suppress(*UNUSABLE):
                for part in media_of(self.samples[index]):
                    if part.kind == "image":
                        self._pictures.look(part.value, index)

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
            self._skip(index, reason)

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
        if self._rows and self._rows[0] == wanted:
            return self._rows[1]
        prepared = self._ahead[1].result() if self._ahead and self._ahead[0] == wanted else self._prepare(*wanted)
        self._rows = wanted, prepared
        if self._planner:
            following = self.plan.after(position), (first + len(prepared)) % self._group
            self._ahead = following, self._planner.submit(self._prepare, *following)
        return prepared

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
        drafts = [draft for draft in drafts if self._fits(draft)]
        rows = self._planned(drafts, position)
        mine = [n for n in range(len(rows)) if (first + n) // self.training.rows % self.world == self.rank]
        own: list[Draft] = []
        for n in mine:
            own += rows[n]
        own.sort(key=lambda draft: draft.showing)
        made = {draft.showing: draft for draft in self._made(own, pending_of(own))}
        dealt: list[Row | None] = [None] * len(rows)
        for n in mine:
            dealt[n] = [self._tokenised(made[draft.showing]) for draft in rows[n] if draft.showing in made]
        return dealt

    def _planned(self, drafts: Sequence[Draft], position: Position) -> list[list[Draft]]:
        """Which samples share a row; the rows are shuffled."""
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

    def _drafts(self, showings: Sequence[Showing]) -> list[Draft]:
        """Of each showing that can be used; read in the order of the files, in which neighbours are read at once."""
        drafts = {draft.showing: draft for draft in self._spans.each(self._draft, sorted(showings)) if draft}
        return [drafts[showing] for showing in showings if showing in drafts]

    def _draft(self, showing: Showing) -> Draft | None:
        """A sample arranged anew, with what is known of its spans before anything is tokenised."""
        try:
            sample = records.outline(self.samples, showing.index)
        except UNUSABLE as error:
            self._skip(showing.index, str(error))
            return None
        seen: Counter[str] = Counter()
        spans: list[Span | Pending] = []
        for place, part in enumerate(self._arranged(sample, showing)):
            self._check_part(sample.id, part)
            try:
                spans.append(self._begun(part, showing, place, seen[part.kind]))
            except InputError as error:
                self._skip(showing.index, f"{sample.id}: {error}")
                return None
            seen[part.kind] += 1
        return Draft(showing, sample.id, spans)

    def _arranged(self, sample: records.Sample, showing: Showing) -> list[records.Part]:
        arranged = sample.arrange(random.Random(f"{self.plan.seed}/{showing.turn}/{showing.index}"), self.data)
        return with_roles(arranged, self.tokenizers)

    def _begun(self, part: records.Part, showing: Showing, place: int, number: int) -> Span | Pending:
        """`number`: how many parts of this kind came before it, which names it in any arrangement."""
        kind, value, augment = part.kind, part.value, self.data.augment
        length, grid = self._spans.length(kind), self._spans.grid(kind)
        if isinstance(value, Encoded):
            if value.values is not None:
                return self._known(value, kind).span(kind, part.loss)
            length, grid = value.count, value.grid
        whole = (kind, showing.index, number)
        pending = Pending(kind, whole, showing, place, part.loss, length, number=number, grid=grid)
        if kind == "image" and augment.active:
            # A variant that comes again is kept.
            variant = showing.turn % augment.variants if augment.variants else showing.turn
            key = (kind, showing.index, number, variant)
            pending = replace(pending, key=key, variant=variant, kept=bool(augment.variants))
        elif isinstance(value, str):
            pending = replace(pending, key=(kind, value))
        if isinstance(value, str) or hasattr(value, "read_bytes"):
            return replace(pending, raw=value)
        return pending

    def _made(self, drafts: Iterable[Draft], wanted: Iterable[Pending]) -> list[Draft]:
        """Drafts with the wanted spans made; those of which one cannot be made are left out and noted."""
        made = self._spans.make(wanted)
        whole = []
        for draft in drafts:
            try:
                spans = [filled(span, made) for span in draft.spans]
            except UNUSABLE as error:
                self._skip(draft.showing.index, f"{draft.id}: {error}")
                continue
            whole.append(Draft(draft.showing, draft.id, spans))
        return whole

    def _read(self, pendings: Sequence[Pending]) -> list[Any]:
        """The raw medium or text of each, or the error that reading it raised."""
        raws: list[Any] = []
        parts: dict[Showing, list[records.Part]] = {}
        for pending in pendings:
            try:
                raws.append(self._raw(pending, parts))
            except UNUSABLE as error:
                raws.append(error)
        return raws

    def _raw(self, pending: Pending, parts: dict[Showing, list[records.Part]]) -> Any:
        """A raw medium or text. parts: of the samples that were read for others already."""
        showing, raw = pending.showing, pending.raw
        if raw is None:
            if showing not in parts:
                parts[showing] = self._arranged(self.samples[showing.index], showing)
            raw = parts[showing][pending.place].value
        if isinstance(raw, Encoded):
            return self._known(raw, pending.modality)
        if pending.modality == "image":
            self._pictures.look(raw, showing.index)
            if self.data.augment.active:
                return self._augmented(raw, pending)
        return raw

    def _augmented(self, raw: Any, pending: Pending) -> Any:
        """A picture changed by (seed, index, number, variant)."""
        grey = self.tokenizers[pending.modality].color_channels == 1
        rng = random.Random(f"augment/{self.plan.seed}/{pending.showing.index}/{pending.number}/{pending.variant}")
        return augmented(load_image(raw, "L" if grey else "RGB"), self.data.augment, rng)

    def _known(self, encoded: Encoded, modality: str) -> Encoded:
        """Tokens made before, all of which are in the vocabulary of their tokenizer."""
        size = self._vocab_sizes[modality]
        largest = 0 if size is None else int(encoded.read().max())
        if size is not None and largest >= size:
            raise InputError(f"its {modality} tokens go up to {largest}, their vocabulary to {size - 1}")
        return encoded

    def _fits(self, draft: Draft) -> bool:
        length, limit = self._length(draft), self.training.row_length
        if length > limit:
            reason = f"{length} tokens do not fit a row of {limit}; raise training.row_length"
            self._skip(draft.showing.index, f"{draft.id}: {reason}")
        return length <= limit

    def _check_part(self, id: str, part: records.Part) -> None:
        """What no other sample would do better: a modality without a tokenizer, tokens that another tokenizer made."""
        if part.kind not in self.tokenizers:
            raise InputError(f"{id}: no tokenizer for {part.kind!r}{nearest(part.kind, self.tokenizers)}")
        own = self.fingerprints[part.kind]
        if isinstance(part.value, Encoded) and part.value.fingerprint != own:
            raise InputError(
                f"{id}: its {part.kind} tokens were made by tokenizer {part.value.fingerprint[:12]}, the recipe's is "
                f"{own[:12]}; give tokenizers.{part.kind}.path=FOLDER of that one, or run mot-gen data tokenize again"
            )

    def _skip(self, index: int, reason: str) -> None:
        if index not in self.skipped:
            log.warning("skipped %s", reason)
        self.skipped[index] = reason
        if len(self.skipped) == len(self.samples):
            raise InputError(f"data: none of the {len(self.samples)} samples can be used; {reason}")
        self._check_cap(f"; the last is {reason}")

    def _check_cap(self, last: str = "") -> None:
        """InputError where more samples cannot be used than may be."""
        count = self.broken.count + len(self.skipped)
        if count > self.training.max_corrupt:
            last = last or f"; {self.broken.first(SHOWN)} (mot-gen data validate lists them)"
            raise InputError(
                f"data: unusable samples: {count}, more than training.max_corrupt={self.training.max_corrupt}{last}"
            )
