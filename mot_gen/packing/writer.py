"""Writer: writes spans and special tokens into the rows of a batch. No other file writes special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.packing.positions import span_positions
from mot_gen.packing.rows import document_length
from mot_gen.packing.targets import token_targets
from mot_gen.scales import as_scales, bounds, scale_positions, token_count
from mot_gen.sequence.batch import Latents, PackedBatch
from mot_gen.sequence.frame import Frame
from mot_gen.sequence.layout import PADDING, Layout
from mot_gen.sequence.modality import Modality, Span
from mot_gen.sequence.vocabulary import Vocabulary

Sample = Sequence[Span]


class _Piece(NamedTuple):
    """What the slots of one piece, such as a span or a special token, have in common; the columns of a `Layout`."""

    modality: int = 0
    document: int = PADDING
    span: int = PADDING
    time: int = 0
    learned: bool = False
    block: int = PADDING
    alone: bool = False


@dataclass
class _Continuous:
    """The spans of a continuous modality that were written so far, and the slot that each begins in."""

    values: list[Tensor] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    leads: list[bool] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)


class Writer:
    """Collects the slots of a batch as lists of pieces, and makes the batch once.

    row_length: how many tokens a row may hold. slots: how many slots it has, if they are more.
    """

    def __init__(self, modalities: Sequence[Modality], row_length: int, slots: int | None = None):
        self.modalities = list(modalities)
        self.index = {m.name: number for number, m in enumerate(modalities)}
        self.vocabulary = vocabulary_of(tuple(modalities))
        self.row_length, self.slots = row_length, slots or row_length
        self.rows = 0
        # Tensors of a few values are made once for all pieces: each would cost as much as many slots.
        self.pieces: list[_Piece] = []
        self.positions: list[Tensor] = []  # of each piece (n, 3), from time 0 on
        self.ids: list[Tensor] = []  # of each piece (n,)
        self.continuous = {m.name: _Continuous() for m in modalities if not m.discrete}
        self.counts = [0] * len(self.modalities)  # of the slots of each modality
        self.tokens = 0

    def open_row(self) -> None:
        self.used = self.documents = self.spans = 0

    def close_row(self) -> None:
        padding = self.slots - self.used
        if padding:
            self._write(_Piece(), torch.zeros(padding, 3, dtype=torch.long), _zeros(padding))
        self.rows += 1

    def document(self, sample: Sample, name: str) -> None:
        """Write a sample, to be learned from. name: of the sample in messages."""
        if not sample:
            raise InputError(f"{name}: an empty document cannot be learned from; give it at least one span")
        needed, left = document_length(sample, self.modalities), self.row_length - self.used
        if needed > left:
            raise InputError(f"{name}: {needed} tokens do not fit the {left} slots left of a row of {self.row_length}")
        self._spans(sample, name)
        if not self.vocabulary.wraps:
            self._special(self.vocabulary.document_end, learned=sample[-1].learned)
        self.documents += 1

    def prompt(self, sample: Sample, opens: str | None, name: str) -> None:
        """Write a document that is to be continued. opens: the modality whose span comes next."""
        self._spans(sample, name)
        if opens is None:
            return
        if opens == self.modalities[0].name:
            self._special(self.vocabulary.document_begin, learned=False)
        elif not (self.modalities[self.index[opens]].block or self.modalities[self.index[opens]].timed):
            self._special(self.vocabulary.begin[opens], learned=False)

    def batch(self) -> PackedBatch:
        """All that was written."""
        shape = (self.rows, self.slots)
        lengths = torch.tensor(list(map(len, self.ids)))
        columns = [torch.tensor(column).repeat_interleave(lengths).view(shape) for column in zip(*self.pieces)]
        modality, document, span, time, learned, block, alone = columns
        position = torch.cat(self.positions).view(*shape, 3)
        position[..., 0] += time
        layout = Layout(modality, document, span, position, block, alone, self.counts)
        ids = torch.cat(self.ids).view(shape)
        latents = {name: self._latents(name, spans) for name, spans in self.continuous.items()}
        whole = torch.tensor([m.whole for m in self.modalities])
        slots, targets = token_targets(layout, ids, learned, latents, whole)
        return PackedBatch(layout, ids, learned, latents, slots, targets, tokens=self.tokens)

    # ---------------------------------------------------------------- spans

    def _spans(self, sample: Sample, name: str) -> None:
        for number, span in enumerate(sample):
            self._check(span, f"{name}, span {number}")
        self.time = 0
        if not self.vocabulary.wraps:
            self._special(self.vocabulary.document_begin, learned=False)
        last_learned = max((n for n, span in enumerate(sample) if self._is_learned_token(span)), default=-1)
        for number, span in enumerate(sample):
            self._span(span, leads=number < last_learned)

    def _is_learned_token(self, span: Span) -> bool:
        return span.learned and self._modality(span).discrete

    def _modality(self, span: Span) -> Modality:
        return self.modalities[self.index[span.modality]]

    def _check(self, span: Span, where: str) -> None:
        """InputError for a span that is none of the model's."""
        if span.modality not in self.index:
            raise InputError(
                f"{where}: modality {span.modality!r} is not one of the model's" + nearest(span.modality, self.index)
            )
        where = f"{where} ({span.modality})"
        if len(span) == 0:
            raise InputError(f"{where}: is empty; leave the span out")
        if span.grid is not None and span.grid[0] * span.grid[1] != len(span):
            raise InputError(f"{where}: a grid of {span.grid[0]} x {span.grid[1]} does not hold {len(span)} tokens")
        modality = self._modality(span)
        if modality.scales and len(span) != (count := token_count(as_scales(modality.scales))):
            raise InputError(f"{where}: {len(span)} tokens are not the {count} of its scales")
        modality.framed(span.grid)  # which refuses a span without a grid
        if modality.vocab_size is not None:
            _check_ids(span.values, modality.vocab_size, where)
        else:
            _check_latents(span.values, modality.channels, where)

    def _span(self, span: Span, leads: bool) -> None:
        modality, n = self._modality(span), len(span)
        positions = _positions(n, tuple(span.grid) if span.grid else None, modality.position)
        if modality.block:
            self._block(span, leads, positions)
            return
        if modality.scales or modality.block_size:
            self._in_blocks(span)
            return
        begin_end = self._bounds_of(modality)
        if begin_end is not None:
            self._special(begin_end[0], span.learned and not (modality is self.modalities[0] or modality.timed))
        if modality.frame is not None:
            self._framed(span, modality.frame)
            return
        self.time += modality.margin
        if modality.discrete:
            ids = self._ids(span)
        else:
            ids = _zeros(n)
            self._keep(span, leads)
        block = self.spans if modality.bidirectional else PADDING
        self._piece(self.index[span.modality], positions, ids, span.learned, block)
        self.time += 1 if modality.position == "grid" else n
        if begin_end is not None and modality.ends:
            self._special(begin_end[1], span.learned and modality.one_by_one)

    def _ids(self, span: Span) -> Tensor:
        """The joint ids of a discrete span. A tokenizer on a device gives ids there; a batch is put together on the CPU
        and moved as one."""
        return span.values.long().cpu() + self.vocabulary.offset[span.modality]

    def _in_blocks(self, span: Span) -> None:
        """A span of several blocks, its scales or as many tokens each, all under one number."""
        modality, name, ids = self._modality(span), span.modality, self._ids(span)
        if modality.scales:
            scales = as_scales(modality.scales)
            positions, blocks, time = scale_positions(scales), bounds(scales), len(scales)
        else:
            time, size = modality.slots(len(span)), modality.block_size
            positions, blocks = _positions(time, None, "sequence"), [(n, n + size) for n in range(0, time, size)]
            ids = torch.nn.functional.pad(ids, (0, time - len(span)), value=self.vocabulary.fill[name])
        begin_end = self._bounds_of(modality)
        if begin_end is not None:
            self._special(begin_end[0], span.learned)
        index, number = self.index[name], self.spans
        for first, end in blocks:
            block = self.spans
            self._piece(index, positions[first:end], ids[first:end], span.learned, block, number=number)
        self.time += time
        if begin_end is not None:
            self._special(begin_end[1], learned=False)

    def _framed(self, span: Span, frame: Frame) -> None:
        """A picture row by row, with what says its shape. Its size is given, and all that follows is learned."""
        assert span.grid is not None, "_check has seen it"
        for token in frame.header(span.grid):
            self._special(token, learned=False)
        for row in self._ids(span).split(span.grid[1]):
            self._piece(self.index[span.modality], _positions(len(row), None, "sequence"), row, span.learned)
            self.time += len(row)
            self._special(frame.row_end, span.learned)
        self._special(frame.closed, span.learned)
        self._special(self.vocabulary.end[span.modality], span.learned)

    def _bounds_of(self, modality: Modality) -> tuple[int, int] | None:
        """The tokens around a span; none around a text of a model that does not wrap texts."""
        if modality is not self.modalities[0]:
            return self.vocabulary.begin[modality.name], self.vocabulary.end[modality.name]
        if self.vocabulary.wraps:
            return self.vocabulary.document_begin, self.vocabulary.document_end
        return None

    def _block(self, span: Span, leads: bool, positions: Tensor) -> None:
        """A span whose bounds see all of it and stand at its position; nothing of it is a target of next tokens."""
        modality = self._modality(span)
        alone = modality.alone and span.learned
        block = self.spans
        bound = _positions(1, None, "sequence")
        self._piece(0, bound, _token(self.vocabulary.begin[span.modality]), False, block, alone)
        self._keep(span, leads)
        self._piece(self.index[span.modality], positions, _zeros(len(span)), span.learned, block, alone)
        self._piece(0, bound, _token(self.vocabulary.end[span.modality]), False, block, alone)
        self.time += 0 if alone else 1

    def _special(self, token: int, learned: bool) -> None:
        self._piece(0, _positions(1, None, "sequence"), _token(token), learned)
        self.time += 1

    def _piece(
        self,
        modality: int,
        positions: Tensor,
        ids: Tensor,
        learned: bool,
        block: int = PADDING,
        alone: bool = False,
        number: int | None = None,
    ) -> None:
        """number: of the span, where it is not the next one."""
        number = self.spans if number is None else number
        piece = _Piece(modality, self.documents, number, self.time, learned, block, alone)
        self._write(piece, positions, ids)
        self.spans += 1
        self.used += len(ids)
        self.tokens += len(ids)

    def _write(self, piece: _Piece, positions: Tensor, ids: Tensor) -> None:
        self.pieces.append(piece)
        self.positions.append(positions)
        self.ids.append(ids)
        self.counts[piece.modality] += len(ids)

    # ---------------------------------------------------------------- continuous tokens

    def _keep(self, span: Span, leads: bool) -> None:
        """Note a continuous span that begins in the next slot."""
        kept = self.continuous[span.modality]
        kept.values.append(span.values.cpu())
        kept.start.append(self.rows * self.slots + self.used)
        kept.learned.append(span.learned)
        kept.leads.append(leads)
        kept.grids.append((span.grid[0], span.grid[1]) if span.grid else (1, len(span)))

    def _latents(self, name: str, kept: _Continuous) -> Latents:
        channels = self.modalities[self.index[name]].channels
        assert channels is not None
        lengths = torch.tensor(list(map(len, kept.values)), dtype=torch.long)
        span = torch.arange(len(lengths)).repeat_interleave(lengths)
        start = torch.tensor(kept.start, dtype=torch.long)
        within = torch.arange(len(span)) - (lengths.cumsum(0) - lengths)[span]
        return Latents(
            values=torch.cat(kept.values) if kept.values else torch.zeros(0, channels),
            slots=start[span] + within,
            span=span,
            learned=torch.tensor(kept.learned, dtype=torch.bool),
            leads=torch.tensor(kept.leads, dtype=torch.bool),
            grids=kept.grids,
        )


def _check_ids(values: Tensor, size: int, where: str) -> None:
    if values.dim() != 1 or values.is_floating_point():
        raise InputError(f"{where}: needs integer ids of shape (n,), got {values.dtype} {tuple(values.shape)}")
    low, high = (value.item() for value in values.aminmax())
    if low < 0 or high >= size:
        worst = low if low < 0 else high
        raise InputError(f"{where}: id {worst} is outside the vocabulary of {size}")


def _check_latents(values: Tensor, channels: int | None, where: str) -> None:
    if values.dim() != 2 or values.shape[1] != channels:
        raise InputError(f"{where}: needs latents of shape (n, {channels}), got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise InputError(f"{where}: latents hold NaN or infinity")


@lru_cache(maxsize=64)
def vocabulary_of(modalities: tuple[Modality, ...]) -> Vocabulary:
    """The vocabulary of some modalities, made once and not for every batch."""
    return Vocabulary(modalities)


@lru_cache(maxsize=4096)
def _positions(n: int, grid: tuple[int, int] | None, kind: str) -> Tensor:
    return span_positions(n, grid, 0, kind)


@lru_cache(maxsize=4096)
def _zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


@lru_cache(maxsize=4096)
def _token(token: int) -> Tensor:
    return torch.tensor([token])
