"""The loading plan: `BatchPlan` says which samples come next, `Loader` deals them out in rows, tokenised.

An epoch is a permutation of what the mixture of sources shows in it (mixture.py), cut into windows. A window's samples
are arranged, packed into rows and the rows shuffled; so memory and start-up cost follow the
window, never the set. Rows form one endless stream, epoch after epoch: batch k of it goes to rank k % world, no sample
is missing or twice. Every choice comes from a generator seeded by (seed, turn, index), hence the plan's position is all
there is to save.

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
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from mot_gen.data import records
from mot_gen.data.augment import augmented
from mot_gen.data.encoded import Encoded
from mot_gen.data.mixture import Mixture, Showing, mixture_of
from mot_gen.data.spans import UNUSABLE, Pending, SpanMaker
from mot_gen.errors import InputError, nearest
from mot_gen.files.image_files import load_image
from mot_gen.packing import best_fit_rows, document_length, plan_rows
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Span

PACKINGS = {"fewest": plan_rows, "best_fit": best_fit_rows}  # how documents share rows; the second is of older runs
Position = tuple[int, int]  # epoch, first sample of a window in that epoch's permutation

log = logging.getLogger(__name__)


class Tokenised(list[Span]):
    """The spans of a sample. source: the number of where it comes from, among `Loader.sources`."""

    def __init__(self, spans: Iterable[Span], source: int = 0):
        super().__init__(spans)
        self.source = source


Row = list[Tokenised]  # the samples that share a row


@dataclass
class BatchPlan:
    """The position in the stream of rows: `consumed` rows of the window at `start` in `epoch` are used up.

    mixture: what an epoch shows. window: samples a window. block: neighbours that the shuffle keeps together. index:
    name -> value of all that the stream depends on; a state made under another index is refused. The position counts
    what was handed out, never what was prefetched. packing: of PACKINGS; a state goes on with its own.
    """

    mixture: Mixture
    window: int
    seed: int
    block: int = 1
    index: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    start: int = 0
    consumed: int = 0
    packing: str = "fewest"

    def __post_init__(self):
        self._order: tuple[int, torch.Tensor] | None = None

    @property
    def position(self) -> Position:
        return self.epoch, self.start

    def showings(self, position: Position) -> list[Showing]:
        """The samples of a window."""
        epoch, start = position
        order = self._order
        if order is None or order[0] != epoch:
            generator = torch.Generator().manual_seed(records.sample_key(f"order/{self.seed}/{epoch}") >> 1)
            blocks = -(-len(self.mixture) // self.block)
            order = self._order = epoch, torch.randperm(blocks, generator=generator, dtype=torch.int32)
        return self.mixture.showings(epoch, self._places(order[1], start).tolist())

    def _places(self, order: torch.Tensor, start: int) -> torch.Tensor:
        """The places that stand at start, start + 1, ... when blocks are put in this order; the last block is short."""
        if self.block == 1:
            return order[start : start + self.window]
        missing = len(order) * self.block - len(self.mixture)
        short = int((order == len(order) - 1).nonzero()) * self.block + self.block - missing  # where it breaks off
        at = torch.arange(start, min(start + self.window, len(self.mixture)))
        at += missing * (at >= short)
        return order[at // self.block].long() * self.block + at % self.block

    def after(self, position: Position) -> Position:
        """The window that follows, in this epoch or the next."""
        epoch, start = position
        return (epoch, start + self.window) if start + self.window < len(self.mixture) else (epoch + 1, 0)

    def next_window(self) -> None:
        self.epoch, self.start = self.after(self.position)
        self.consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: where the stream stands, and what it depends on."""
        place = {"epoch": self.epoch, "start": self.start, "consumed": self.consumed}
        return place | {"packing": self.packing, "index": dict(self.index)}

    def load_state_dict(self, state: Mapping[str, Any], accept_changed: bool = False) -> None:
        """Goes to a saved position. Another index is an InputError, unless accepted: then its epoch begins anew."""
        before, now = state["index"], self.index
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed and not accept_changed:
            raise InputError(
                f"data: {', '.join(changed)} changed since the checkpoint, so its position in the data means nothing; "
                "undo that, or say data.accept_changed=true to begin the epoch anew"
            )
        self.epoch, self.packing = state["epoch"], state.get("packing", "best_fit")
        self.start, self.consumed = (0, 0) if changed else (state["start"], state["consumed"])


@dataclass
class Draft:
    """A sample as it is shown, of which not all spans are made yet."""

    showing: Showing
    id: str
    spans: list[Span | Pending]


class Loader:
    """Endless iterator of batches, each `training.rows` rows of tokenised samples, for `pack_rows`.

    samples: a sequence of `Pair`s and `Document`s. tokenizers: modality -> tokenizer, text first. data, training: the
    recipe's sections. A sample that cannot be read, or is longer than a row, is skipped, logged and kept in `skipped`
    (index -> id and reason); more than `training.max_corrupt` of them are an InputError.
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
        self.fingerprints = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
        self.plan = BatchPlan(mixture_of(samples, training.seed), data.window, training.seed, data.block, self._index())
        self.skipped: dict[int, str] = {}
        self._spans = SpanMaker(tokenizers, self._read, data.cache_mb * 2**20, training.workers)
        self._dealt = 0  # rows, to all ranks
        self._rows: tuple[Any, list[Row | None]] | None = None
        self._ahead: tuple[Any, Future[list[Row | None]]] | None = None
        self._planner = ThreadPoolExecutor(1) if training.workers else None

    def _index(self) -> dict[str, Any]:
        """All that the stream of rows depends on."""
        tokenizers = " ".join(f"{name} {fingerprint}" for name, fingerprint in self.fingerprints.items())
        return {
            "samples": records.fingerprint(self.samples),
            "tokenizers": hashlib.sha256(tokenizers.encode()).hexdigest(),
            "training.seed": self.training.seed,
            "training.row_length": self.training.row_length,
            "data.window": self.data.window,
            "data.caption_first": self.data.caption_first,
            "data.caption_dropout": self.data.caption_dropout,
            **({"data.records.weight": list(self.samples.weights)} if hasattr(self.samples, "weights") else {}),
            **({"data.block": self.data.block} if self.data.block > 1 else {}),
            **({"data.augment": self.data.augment.model_dump()} if self.data.augment.active else {}),
        }

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        rows = self.training.rows
        batches = [[self._next_row() for _ in range(rows)] for _ in range(self.world)]
        return batches[self.rank]

    def one_pass(self, epoch: int = 0) -> Iterator[list[Row]]:
        """This rank's batches of one epoch, the last perhaps shorter; for validation, as the position stays."""
        rows = self._epoch(epoch)
        batches = iter(lambda: list(islice(rows, self.training.rows)), [])
        return (batch for k, batch in enumerate(batches) if k % self.world == self.rank)

    def _epoch(self, epoch: int) -> Iterator[Row | None]:
        first = 0
        for start in range(0, len(self.plan.mixture), self.data.window):
            rows = self._prepare((epoch, start), first)
            yield from rows
            first += len(rows)

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
        """The rows of a window, those of other ranks None: a function of seed and position, and of which rows of the
        stream, whose number `first` is the window's first, are this rank's."""
        drafts = self._drafts(self.plan.showings(position))
        drafts = self._made(drafts, [p for p in _pending(drafts) if p.length is None])
        drafts = [draft for draft in drafts if self._fits(draft)]
        lengths = [document_length(draft.spans, self.modalities) for draft in drafts]
        rows = PACKINGS[self.plan.packing](lengths, self.training.row_length)
        random.Random(f"rows/{self.plan.seed}/{position}").shuffle(rows)
        mine = [n for n in range(len(rows)) if (first + n) // self.training.rows % self.world == self.rank]
        own = sorted((drafts[i] for n in mine for i in rows[n]), key=lambda draft: draft.showing)
        made = {draft.showing: draft for draft in self._made(own, _pending(own))}
        dealt: list[Row | None] = [None] * len(rows)
        for n in mine:
            dealt[n] = [self._tokenised(made[d.showing]) for d in map(drafts.__getitem__, rows[n]) if d.showing in made]
        return dealt

    def _tokenised(self, draft: Draft) -> Tokenised:
        return Tokenised(draft.spans, records.source_of(self.samples, draft.showing.index))

    def _drafts(self, showings: Sequence[Showing]) -> list[Draft]:
        """Of each showing; read in the order of the files, in which neighbours are read at once."""
        drafts = {draft.showing: draft for draft in self._spans.each(self._draft, sorted(showings))}
        return [drafts[showing] for showing in showings]

    def _draft(self, showing: Showing) -> Draft:
        """A sample arranged anew, with what is known of its spans before anything is tokenised."""
        sample = records.outline(self.samples, showing.index)
        seen: Counter[str] = Counter()
        spans: list[Span | Pending] = []
        for place, part in enumerate(self._arranged(sample, showing)):
            self._check_part(sample.id, part)
            spans.append(self._begun(part, showing, place, seen[part.kind]))
            seen[part.kind] += 1
        return Draft(showing, sample.id, spans)

    def _arranged(self, sample: records.Sample, showing: Showing) -> list[records.Part]:
        return sample.arrange(random.Random(f"{self.plan.seed}/{showing.turn}/{showing.index}"), self.data)

    def _begun(self, part: records.Part, showing: Showing, place: int, number: int) -> Span | Pending:
        """`number`: how many parts of this kind came before it, which names it in any arrangement."""
        kind, (index, turn) = part.kind, showing
        length = self._spans.length(kind)
        if isinstance(part.value, Encoded):
            if part.value.values is not None:
                return part.value.span(kind, part.loss)
            length = part.value.count
        key, kept, augment = (kind, index, number), True, self.data.augment
        if kind == "image" and augment.active:  # a variant that comes again is kept
            key, kept = (*key, turn % augment.variants if augment.variants else turn), bool(augment.variants)
        elif isinstance(part.value, str):
            key = kind, part.value
        raw = part.value if isinstance(part.value, str) or hasattr(part.value, "read_bytes") else None
        return Pending(kind, key, showing, place, part.loss, length, kept, raw)

    def _made(self, drafts: Iterable[Draft], wanted: Iterable[Pending]) -> list[Draft]:
        """Drafts with the wanted spans made; those of which one cannot be made are left out and noted."""
        made, whole = self._spans.make(wanted), []
        for draft in drafts:
            found = [made.get(s.key, s) if isinstance(s, Pending) else s for s in draft.spans]
            errors = [each for each in found if isinstance(each, Exception)]
            if errors:
                self._skip(draft.showing.index, f"{draft.id}: {errors[0]}")
                continue
            spans = [s if s is old else replace(s, learned=old.learned) for s, old in zip(found, draft.spans)]
            whole.append(Draft(draft.showing, draft.id, spans))
        return whole

    def _read(self, pendings: Sequence[Pending]) -> list[Any]:
        """The raw medium or text of each, or the error that reading it raised."""
        raws, parts = [], {}
        for pending in pendings:
            showing, raw = pending.showing, pending.raw
            try:
                if raw is None and showing not in parts:
                    parts[showing] = self._arranged(self.samples[showing.index], showing)
                raws.append(self._augmented(parts[showing][pending.place].value if raw is None else raw, pending))
            except UNUSABLE as error:
                raws.append(error)
        return raws

    def _augmented(self, raw: Any, pending: Pending) -> Any:
        """A picture changed by (seed, index, number, variant) where pictures are augmented; else what it was."""
        if pending.modality != "image" or not self.data.augment.active or isinstance(raw, Encoded):
            return raw
        _, index, number, variant = pending.key
        picture = load_image(raw, "L" if self.tokenizers[pending.modality].color_channels == 1 else "RGB")
        rng = random.Random(f"augment/{self.plan.seed}/{index}/{number}/{variant}")
        return augmented(picture, self.data.augment, rng)

    def _fits(self, draft: Draft) -> bool:
        length, limit = document_length(draft.spans, self.modalities), self.training.row_length
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
        if len(self.skipped) > self.training.max_corrupt:
            raise InputError(
                f"data: unusable samples: {len(self.skipped)}, more than training.max_corrupt="
                f"{self.training.max_corrupt}; the last is {reason}"
            )


def _pending(drafts: Iterable[Draft]) -> list[Pending]:
    return [span for draft in drafts for span in draft.spans if isinstance(span, Pending)]
