"""Writer: writes spans and special tokens into the rows of a batch. No other file writes special tokens.

`write_document` and `write_prompt` write one sample; the methods with an underscore write its pieces, in the ways that
modalities ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.packing.cached import one_token, positions_from_zero, vocabulary_of, zeros
from mot_gen.packing.latent_spans import LatentSpans
from mot_gen.packing.rows import document_length
from mot_gen.packing.span_checks import check_span
from mot_gen.packing.targets import token_targets
from mot_gen.scales import as_scales, bounds, scale_positions
from mot_gen.sequence.batch import PackedBatch
from mot_gen.sequence.frame import Frame
from mot_gen.sequence.layout import PADDING, Layout
from mot_gen.sequence.modality import Modality, Span

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
        self.pieces: list[_Piece] = []
        self.positions: list[Tensor] = []  # of each piece (n, 3), from time 0 on
        self.ids: list[Tensor] = []  # of each piece (n,)
        self.continuous = {m.name: LatentSpans(m.channels) for m in modalities if m.channels is not None}
        self.counts = [0] * len(self.modalities)  # of the slots of each modality
        self.tokens = 0

    def open_row(self) -> None:
        self.used = self.documents = self.spans = 0

    def close_row(self) -> None:
        padding = self.slots - self.used
        if padding:
            self._append(_Piece(), torch.zeros(padding, 3, dtype=torch.long), zeros(padding))
        self.rows += 1

    def write_document(self, sample: Sample, name: str) -> None:
        """Write a sample, to be learned from. name: of the sample in messages."""
        require(sample, f"{name}: an empty document cannot be learned from; give it at least one span")
        needed, left = document_length(sample, self.modalities), self.row_length - self.used
        if needed > left:
            raise InputError(f"{name}: {needed} tokens do not fit the {left} slots left of a row of {self.row_length}")
        self._write_spans(sample, name)
        if not self.vocabulary.wraps:
            self._write_special(self.vocabulary.document_end, learned=sample[-1].learned)
        self.documents += 1

    def write_prompt(self, sample: Sample, opens: str | None, name: str) -> None:
        """Write a document that is to be continued. opens: the modality whose span comes next."""
        self._write_spans(sample, name)
        if opens is None:
            return
        if opens == self.modalities[0].name:
            self._write_special(self.vocabulary.document_begin, learned=False)
        elif self.modalities[self.index[opens]].begin_is_apart:
            self._write_special(self.vocabulary.begin[opens], learned=False)

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
        latents = {name: spans.latents() for name, spans in self.continuous.items()}
        whole = torch.tensor([m.whole for m in self.modalities])
        slots, targets = token_targets(layout, ids, learned, latents, whole)
        return PackedBatch(layout, ids, learned, latents, slots, targets, tokens=self.tokens)

    # ---------------------------------------------------------------- spans

    def _write_spans(self, sample: Sample, name: str) -> None:
        """Write the begin of a document and its spans. name: of the document in messages."""
        for number, span in enumerate(sample):
            self._check(span, f"{name}, span {number}")
        self.time = 0
        if not self.vocabulary.wraps:
            self._write_special(self.vocabulary.document_begin, learned=False)
        last_learned = self._last_learned(sample)
        for number, span in enumerate(sample):
            self._write_span(span, leads=number < last_learned)

    def _last_learned(self, sample: Sample) -> int:
        """The number of the last discrete span that is learned; -1 where there is none."""
        last = -1
        for number, span in enumerate(sample):
            if span.learned and self._modality(span).discrete:
                last = number
        return last

    def _modality(self, span: Span) -> Modality:
        return self.modalities[self.index[span.modality]]

    def _check(self, span: Span, where: str) -> None:
        """InputError for a span that the model cannot hold."""
        if span.modality not in self.index:
            raise InputError(
                f"{where}: modality {span.modality!r} is not one of the model's" + nearest(span.modality, self.index)
            )
        check_span(span, self._modality(span), f"{where} ({span.modality})")

    def _write_span(self, span: Span, leads: bool) -> None:
        """Write a span in the way of its modality. leads: whether learned text follows in its document."""
        modality = self._modality(span)
        if modality.block:
            self._write_whole_block(span, leads)
        elif modality.scales:
            self._write_scales(span)
        elif modality.block_size:
            self._write_blocks(span)
        elif modality.frame is not None:
            self._write_framed(span, modality.frame)
        else:
            self._write_plain(span, leads)

    def _write_plain(self, span: Span, leads: bool) -> None:
        """Write a span between its bounds."""
        modality = self._modality(span)
        is_given = modality is self.modalities[0] or modality.timed
        self._write_begin(modality, span.learned and not is_given)
        self.time += modality.margin
        if modality.discrete:
            ids = self._ids(span)
        else:
            ids = zeros(len(span))
            self._keep_latents(span, leads)
        block = self.spans if modality.bidirectional else PADDING
        self._write_piece(self.index[span.modality], self._positions(span), ids, span.learned, block)
        self.time += 1 if modality.position == "grid" else len(span)
        if modality.ends:
            self._write_end(modality, span.learned and modality.one_by_one)

    def _positions(self, span: Span) -> Tensor:
        """(n, 3), from time 0 on."""
        grid = tuple(span.grid) if span.grid else None
        return positions_from_zero(len(span), grid, self._modality(span).position)

    def _keep_latents(self, span: Span, leads: bool) -> None:
        """Keep the latents of a continuous span that begins in the next slot."""
        self.continuous[span.modality].add(span, self.rows * self.slots + self.used, leads)

    def _ids(self, span: Span) -> Tensor:
        """The joint ids of a discrete span. A tokenizer on a device gives ids there; a batch is put together on the CPU
        and moved as one."""
        return span.values.long().cpu() + self.vocabulary.offset[span.modality]

    def _write_scales(self, span: Span) -> None:
        """Write a span of several scales, each a block."""
        scales = as_scales(self._modality(span).scales)
        self._write_in_blocks(span, self._ids(span), scale_positions(scales), bounds(scales))
        self.time += len(scales)
        self._write_end(self._modality(span), learned=False)

    def _write_blocks(self, span: Span) -> None:
        """Write a span in blocks of equal size; the last one is filled up."""
        modality = self._modality(span)
        size, length = modality.block_size, modality.slots(len(span))
        fill = self.vocabulary.fill[modality.name]
        ids = torch.nn.functional.pad(self._ids(span), (0, length - len(span)), value=fill)
        blocks = [(first, first + size) for first in range(0, length, size)]
        self._write_in_blocks(span, ids, positions_from_zero(length, None, "sequence"), blocks)
        self.time += length
        self._write_end(modality, learned=False)

    def _write_in_blocks(self, span: Span, ids: Tensor, positions: Tensor, blocks: Sequence[tuple[int, int]]) -> None:
        """Write the begin of a span and its blocks, all under one span number.

        ids: (n,). positions: (n, 3). blocks: the first token of each, and the one after its last.
        """
        self._write_begin(self._modality(span), span.learned)
        index, number = self.index[span.modality], self.spans
        for first, end in blocks:
            block = self.spans
            self._write_piece(index, positions[first:end], ids[first:end], span.learned, block, number=number)

    def _write_framed(self, span: Span, frame: Frame) -> None:
        """Write a picture row by row, in its frame. The tokens of its size are given; all that follow are learned."""
        assert span.grid is not None, "check_span has seen it"
        self._write_special(self.vocabulary.begin[span.modality], span.learned)
        for token in frame.header(span.grid):
            self._write_special(token, learned=False)
        _, columns = span.grid
        for row in self._ids(span).split(columns):
            positions = positions_from_zero(len(row), None, "sequence")
            self._write_piece(self.index[span.modality], positions, row, span.learned)
            self.time += len(row)
            self._write_special(frame.row_end, span.learned)
        self._write_special(frame.closed, span.learned)
        self._write_special(self.vocabulary.end[span.modality], span.learned)

    def _write_begin(self, modality: Modality, learned: bool) -> None:
        """Write the token before a span, where there is one."""
        around = self._bounds_of(modality)
        if around is not None:
            self._write_special(around[0], learned)

    def _write_end(self, modality: Modality, learned: bool) -> None:
        """Write the token after a span, where there is one."""
        around = self._bounds_of(modality)
        if around is not None:
            self._write_special(around[1], learned)

    def _bounds_of(self, modality: Modality) -> tuple[int, int] | None:
        """The tokens around a span; none around a text of a model that does not wrap texts."""
        if modality is not self.modalities[0]:
            return self.vocabulary.begin[modality.name], self.vocabulary.end[modality.name]
        if self.vocabulary.wraps:
            return self.vocabulary.document_begin, self.vocabulary.document_end
        return None

    def _write_whole_block(self, span: Span, leads: bool) -> None:
        """Write a span whose bounds see all of it and stand at its position. None of it is a next token to predict."""
        modality = self._modality(span)
        alone = modality.alone and span.learned
        block = self.spans
        self._write_in_place(self.vocabulary.begin[span.modality], learned=False, block=block, alone=alone)
        self._keep_latents(span, leads)
        positions = self._positions(span)
        self._write_piece(self.index[span.modality], positions, zeros(len(span)), span.learned, block, alone)
        self._write_in_place(self.vocabulary.end[span.modality], learned=False, block=block, alone=alone)
        if not alone:
            self.time += 1

    def _write_special(self, token: int, learned: bool) -> None:
        """Write a special token, which takes a position of its own."""
        self._write_in_place(token, learned)
        self.time += 1

    def _write_in_place(self, token: int, learned: bool, block: int = PADDING, alone: bool = False) -> None:
        """Write a special token at the present position, without moving on."""
        self._write_piece(0, positions_from_zero(1, None, "sequence"), one_token(token), learned, block, alone)

    def _write_piece(
        self,
        modality: int,
        positions: Tensor,
        ids: Tensor,
        learned: bool,
        block: int = PADDING,
        alone: bool = False,
        number: int | None = None,
    ) -> None:
        """Write the tokens of a span, or of a block of it. number: the span's, where it is not the next one."""
        if number is None:
            number = self.spans
        piece = _Piece(modality, self.documents, number, self.time, learned, block, alone)
        self._append(piece, positions, ids)
        self.spans += 1
        self.used += len(ids)
        self.tokens += len(ids)

    def _append(self, piece: _Piece, positions: Tensor, ids: Tensor) -> None:
        self.pieces.append(piece)
        self.positions.append(positions)
        self.ids.append(ids)
        self.counts[piece.modality] += len(ids)
