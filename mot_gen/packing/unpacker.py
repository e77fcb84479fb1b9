"""unpack: the samples that a packed batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mot_gen.packing.writer import vocabulary_of
from mot_gen.sequence.batch import PackedBatch
from mot_gen.sequence.layout import PADDING
from mot_gen.sequence.modality import Modality, Span


def unpack(batch: PackedBatch, modalities: Sequence[Modality]) -> list[list[Span]]:
    """The inverse of `pack`, in row order: every document's spans, special tokens and padding removed.

    Adjacent spans of text come back as one, since nothing stands between them; so does a grid of 1 x 1 as none.
    """
    samples: list[list[Span]] = []
    frames = _Frames(modalities)
    taken = dict.fromkeys(batch.latents, 0)
    for row in range(batch.layout.shape[0]):
        previous = PADDING
        for start, end in _runs(batch.layout.span[row]):
            document = int(batch.layout.document[row, start])
            if document == PADDING:
                continue
            if document != previous:
                samples.append([])
                previous = document
            first = int(batch.ids[row, start])
            if batch.layout.modality[row, start] == 0 and frames.holds(first):
                continue
            span = _span(batch, modalities, row, start, end, taken)
            if span is not None and not frames.takes(span):
                samples[-1].append(span)
    return samples


class _Frames:
    """Puts together the rows of framed pictures, and passes over what states their shapes."""

    def __init__(self, modalities: Sequence[Modality]):
        begin = vocabulary_of(tuple(modalities)).begin
        self._framed = {m.name for m in modalities if m.frame is not None}
        self._opened_by = {begin[m.name]: m.frame.opened for m in modalities if m.frame is not None}
        self._header: int | None = None  # the token that ends the header at hand
        self._picture: Span | None = None  # that at hand

    def holds(self, id: int) -> bool:
        """Whether a token of the text is one of a header."""
        if id in self._opened_by:
            self._header, self._picture = self._opened_by[id], None
            return True
        inside = self._header is not None
        if id == self._header:
            self._header = None
        return inside

    def takes(self, row: Span) -> bool:
        """Whether a span is a row of the picture at hand, to which it is added; the first row begins it."""
        if row.modality not in self._framed:
            return False
        if self._picture is None:
            self._picture = row
            row.grid = (1, len(row))
            return False
        values = torch.cat([self._picture.values, row.values])
        self._picture.values, self._picture.grid = values, (len(values) // len(row), len(row))
        return True


def _runs(span: Tensor) -> Iterator[tuple[int, int]]:
    """(first, one past the last) slot of each run of equal numbers in a row, (S,)."""
    changes = 1 + (span[1:] != span[:-1]).nonzero().flatten()
    bounds = [0, *changes.tolist(), len(span)]
    return pairwise(bounds)


def _span(
    batch: PackedBatch, modalities: Sequence[Modality], row: int, start: int, end: int, taken: dict[str, int]
) -> Span | None:
    """What stands in some slots of a row; None where it is a special token. taken: continuous tokens before them."""
    vocabulary = vocabulary_of(tuple(modalities))
    modality = modalities[int(batch.layout.modality[row, start])]
    if modality.discrete:
        ids = batch.ids[row, start:end]
        if modality.block_size and _in_block(batch, row, start):
            ids = ids[ids != vocabulary.fill[modality.name]]
        elif modality is modalities[0] and int(ids[0]) in vocabulary.special:
            return None
        values = ids - vocabulary.offset[modality.name]
    else:
        first = taken[modality.name]
        taken[modality.name] = first + end - start
        values = batch.latents[modality.name].values[first : taken[modality.name]]
    grid = (1, end - start) if modality.scales else _grid(batch.layout.position[row, start : start + len(values)])
    return Span(modality.name, values, grid, bool(batch.learned[row, start]))


def _in_block(batch: PackedBatch, row: int, slot: int) -> bool:
    """Whether a slot belongs to a block; special tokens do not."""
    return batch.layout.block is not None and int(batch.layout.block[row, slot]) != PADDING


def _grid(position: Tensor) -> tuple[int, int] | None:
    rows, columns = (position[:, 1:].amax(0) + 1).tolist()
    return (rows, columns) if rows > 1 or columns > 1 else None
