"""The loading plan: `BatchPlan` says which samples come next, `Loader` tokenises them and deals them out in rows.

An epoch is a permutation of what the mixture of sources shows in it (mixture.py), cut into windows. A window's samples
are arranged, tokenised, packed into rows (best fit decreasing) and the rows shuffled; so memory and start-up cost
follow the window, never the set.
Rows form one endless stream, epoch after epoch: batch k of it goes to rank k % world, no sample is missing or twice.
Every choice comes from a generator seeded by (seed, turn, index), hence the plan's position is all there is to save.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from mot_gen.errors import InputError, nearest
from mot_gen.packing import document_length, plan_rows
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_files import load_image
from mot_gen.training import recipe, records
from mot_gen.training.augment import augmented
from mot_gen.training.encoded import Encoded
from mot_gen.training.mixture import Mixture, Showing, mixture_of

Position = tuple[int, int]  # epoch, first sample of a window in that epoch's permutation
UNUSABLE = (OSError, ValueError, SyntaxError, EOFError)  # what decoding a broken medium raises, InputError included

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

    mixture: what an epoch shows. window: samples a window. index: name -> value of all that the stream depends on; a
    state made under another index is refused. The position counts what was handed out, never what was prefetched.
    """

    mixture: Mixture
    window: int
    seed: int
    index: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    start: int = 0
    consumed: int = 0

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
            order = self._order = epoch, torch.randperm(len(self.mixture), generator=generator, dtype=torch.int32)
        return self.mixture.showings(epoch, order[1][start : start + self.window].tolist())

    def after(self, position: Position) -> Position:
        """The window that follows, in this epoch or the next."""
        epoch, start = position
        return (epoch, start + self.window) if start + self.window < len(self.mixture) else (epoch + 1, 0)

    def next_window(self) -> None:
        self.epoch, self.start = self.after(self.position)
        self.consumed = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: where the stream stands, and what it depends on."""
        return {"epoch": self.epoch, "start": self.start, "consumed": self.consumed, "index": dict(self.index)}

    def load_state_dict(self, state: Mapping[str, Any], accept_changed: bool = False) -> None:
        """Goes to a saved position. Another index is an InputError, unless accepted: then its epoch begins anew."""
        before, now = state["index"], self.index
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed and not accept_changed:
            raise InputError(
                f"data: {', '.join(changed)} changed since the checkpoint, so its position in the data means nothing; "
                "undo that, or say data.accept_changed=true to begin the epoch anew"
            )
        self.epoch = state["epoch"]
        self.start, self.consumed = (0, 0) if changed else (state["start"], state["consumed"])


class SpanCache:
    """Tokenised spans by key, up to `limit` bytes. An epoch visits each once, so none is worth evicting for another."""

    OVERHEAD = 512  # bytes of the objects around a span's values

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._spans: dict[Any, Span] = {}

    def get(self, key: Any, make: Callable[[], Span]) -> Span:
        span = self._spans.get(key)
        if span is None:
            span = make()
            size = span.values.nbytes + self.OVERHEAD
            if self.size + size <= self.limit:
                self.size += size
                self._spans[key] = span
        return span


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
        data: recipe.Data,
        training: recipe.Training,
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
        self.plan = BatchPlan(mixture_of(samples, training.seed), data.window, training.seed, self._index())
        self.skipped: dict[int, str] = {}
        self._cache = SpanCache(data.cache_mb * 2**20)
        self._rows: tuple[Position, list[Row]] | None = None
        self._ahead: tuple[Position, Future[list[Row]]] | None = None
        self._planner = ThreadPoolExecutor(1) if training.workers else None
        self._encoders = ThreadPoolExecutor(training.workers) if training.workers else None

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
            **({"data.augment": self.data.augment.model_dump()} if self.data.augment.active else {}),
        }

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        batches = [[self._next_row() for _ in range(self.training.rows)] for _ in range(self.world)]
        return batches[self.rank]

    def one_pass(self, epoch: int = 0) -> Iterator[list[Row]]:
        """This rank's batches of one epoch, the last perhaps shorter; for validation, as the position stays."""
        starts = range(0, len(self.plan.mixture), self.data.window)
        rows = (row for start in starts for row in self._prepare((epoch, start)))
        batches = iter(lambda: list(islice(rows, self.training.rows)), [])
        return (batch for k, batch in enumerate(batches) if k % self.world == self.rank)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able position after the last batch that was handed out; the same on every rank."""
        return self.plan.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after a saved position, with any number of ranks and workers; InputError if the data changed."""
        self.plan.load_state_dict(state, self.data.accept_changed)

    def close(self) -> None:
        """Ends the threads that work ahead."""
        for pool in filter(None, (self._planner, self._encoders)):
            pool.shutdown(cancel_futures=True)

    def _next_row(self) -> Row:
        while self.plan.consumed >= len(self._window()):
            self.plan.next_window()
        self.plan.consumed += 1
        return self._window()[self.plan.consumed - 1]

    def _window(self) -> list[Row]:
        """Rows of the current window; with workers, the next window is begun in the background."""
        position = self.plan.position
        if self._rows and self._rows[0] == position:
            return self._rows[1]
        prepared = self._ahead[1].result() if self._ahead and self._ahead[0] == position else self._prepare(position)
        self._rows = position, prepared
        if self._planner:
            following = self.plan.after(position)
            self._ahead = following, self._planner.submit(self._prepare, following)
        return prepared

    def _prepare(self, position: Position) -> list[Row]:
        """Arranges, tokenises and packs the samples of a window: a pure function of seed and position."""
        encode = map if self._encoders is None else self._encoders.map
        encoded = encode(self._encode, self.plan.showings(position))
        kept = [sample for sample in encoded if sample is not None]
        rows = plan_rows([document_length(sample, self.modalities) for sample in kept], self.training.row_length)
        random.Random(f"rows/{self.plan.seed}/{position}").shuffle(rows)
        return [[kept[i] for i in row] for row in rows]

    def _encode(self, showing: Showing) -> Tokenised | None:
        """One sample as spans, arranged anew each time it is shown; None if it cannot be used."""
        index, turn = showing
        sample = self.samples[index]
        parts = sample.arrange(random.Random(f"{self.plan.seed}/{turn}/{index}"), self.data)
        for part in parts:
            self._check_part(sample.id, part)
        seen: Counter[str] = Counter()
        try:
            spans = []
            for part in parts:
                spans.append(self._span(part, index, seen[part.kind], turn))
                seen[part.kind] += 1
            self._check_length(spans)
        except UNUSABLE as error:
            self._skip(index, f"{sample.id}: {error}")
            return None
        return Tokenised(spans, records.source_of(self.samples, index))

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

    def _span(self, part: records.Part, index: int, number: int, turn: int) -> Span:
        """`number`: how many parts of this kind came before it, which names it in any arrangement."""
        if isinstance(part.value, Encoded):
            return part.value.span(part.kind, part.loss)
        if part.kind == "image" and self.data.augment.active:
            return self._augmented(part, index, number, turn)
        key = (part.kind, part.value) if isinstance(part.value, str) else (part.kind, index, number)
        span = self._cache.get(key, partial(self.tokenizers[part.kind].encode, part.value))
        return replace(span, learned=part.loss)

    def _augmented(self, part: records.Part, index: int, number: int, turn: int) -> Span:
        """A picture changed by (seed, index, number, variant); a variant that comes again is kept."""
        options, tokenizer = self.data.augment, self.tokenizers[part.kind]
        variant = turn % options.variants if options.variants else turn

        def make() -> Span:
            picture = load_image(part.value, "L" if tokenizer.color_channels == 1 else "RGB")
            rng = random.Random(f"augment/{self.plan.seed}/{index}/{number}/{variant}")
            return tokenizer.encode(augmented(picture, options, rng))

        span = self._cache.get((part.kind, index, number, variant), make) if options.variants else make()
        return replace(span, learned=part.loss)

    def _check_length(self, spans: list[Span]) -> None:
        length, limit = document_length(spans, self.modalities), self.training.row_length
        if length > limit:
            raise InputError(f"{length} tokens do not fit a row of {limit}; raise training.row_length")

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
