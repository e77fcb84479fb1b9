"""unpack: the samples that a packed batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mot_gen.packing.cached import vocabulary_of
from mot_gen.sequence.batch import PackedBatch
from mot_gen.sequence.layout import PADDING
from mot_gen.sequence.modality import Modality, Span


def unpack(batch: PackedBatch, modalities: Sequence[Modality]) -> list[list[Span]]:
    """The inverse of `pack`, in row order: every document's spans, special tokens and padding removed.

    Adjacent spans of text come back as one, since nothing stands between them; so does a grid of 1 x 1 as none.
    """
    samples: list[list[Span]] = []
    reader = _Reader(batch, modalities)
    frames = _Frames(modalities)
    for row in range(batch.layout.shape[0]):
        previous = PADDING
        for document, start, end in _pieces(batch, row):
            if document != previous:
                samples.append([])
                previous = document
            if reader.is_text(row, start) and frames.holds(int(batch.ids[row, start])):
                continue
            span = reader.span(row, start, end)
            if span is not None and not frames.takes(span):
                samples[-1].append(span)
    return samples


def _pieces(batch: PackedBatch, row: int) -> Iterator[tuple[int, int, int]]:
    """(document, first slot, one past the last) of each span and special token of a row, in order."""
    for start, end in _runs(batch.layout.span[row]):
        document = int(batch.layout.document[row, start])
        if document != PADDING:
            yield document, start, end


class _Frames:
    """Puts together the rows of framed pictures, and passes over what states their shapes."""

    def __init__(self, modalities: Sequence[Modality]):
        begin = vocabulary_of(tuple(modalities)).begin
        self._opened_by: dict[int, int] = {}  # the begin token of a framed modality -> the last one of its header
        self._framed: set[str] = set()
        for modality in modalities:
            if modality.frame is not None:
                self._framed.add(modality.name)
                self._opened_by[begin[modality.name]] = modality.frame.opened
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


class _Reader:
    """Reads the spans of a batch one after the other, in the order of their slots."""

    def __init__(self, batch: PackedBatch, modalities: Sequence[Modality]):
        self.batch, self.modalities = batch, modalities
        self.vocabulary = vocabulary_of(tuple(modalities))
        self.taken = dict.fromkeys(batch.latents, 0)  # of each continuous modality, the tokens that were read

    def is_text(self, row: int, slot: int) -> bool:
        return int(self.batch.layout.modality[row, slot]) == 0

    def span(self, row: int, start: int, end: int) -> Span | None:
        """What stands in some slots of a row; None where it is a special token."""
        modality = self.modalities[int(self.batch.layout.modality[row, start])]
        if modality.discrete:
            values = self._ids(modality, row, start, end)
        else:
            values = self._next_latents(modality.name, end - start)
        if values is None:
            return None
        grid: tuple[int, int] | None = (1, end - start)
        if not modality.scales:
            grid = _grid(self.batch.layout.position[row, start : start + len(values)])
        return Span(modality.name, values, grid, bool(self.batch.learned[row, start]))

    def _ids(self, modality: Modality, row: int, start: int, end: int) -> Tensor | None:
        """(n,) ids in the modality's own vocabulary; None for a special token."""
        ids = self.batch.ids[row, start:end]
        if modality.block_size and self._in_block(row, start):
            ids = ids[ids != self.vocabulary.fill[modality.name]]
        elif self.is_text(row, start) and int(ids[0]) in self.vocabulary.special:
            return None
        return ids - self.vocabulary.offset[modality.name]

    def _next_latents(self, name: str, count: int) -> Tensor:
        """(count, C), those that follow what was read before."""
        first = self.taken[name]
        self.taken[name] = first + count
        return self.batch.latents[name].values[first : first + count]

    def _in_block(self, row: int, slot: int) -> bool:
        """Whether a slot belongs to a block; special tokens do not."""
        block = self.batch.layout.block
        return block is not None and int(block[row, slot]) != PADDING


def _grid(position: Tensor) -> tuple[int, int] | None:
    """(rows, columns) of a span's positions, (n, 3); None for a grid of 1 x 1."""
    rows, columns = (position[:, 1:].amax(0) + 1).tolist()
    if rows == columns == 1:
        return None
    return rows, columns
