"""Samples -> PackedBatch and back: document_length, plan_rows, best_fit_rows, pack_rows, pack, pack_prompts, unpack.

A sample of spans becomes one document. With text T and an image of four tokens I it is laid out as

    <document> T T T <image> I I I I </image> </document>

Only this file writes special tokens. A document never crosses a row; `plan_rows` says which documents share one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import PADDING, Latents, Layout, Modality, PackedBatch, Span, Vocabulary

Sample = Sequence[Span]


@lru_cache(maxsize=64)
def _vocabulary(modalities: tuple[Modality, ...]) -> Vocabulary:
    """The vocabulary of some modalities, made once and not for every batch."""
    return Vocabulary(modalities)


class _Sized(Protocol):
    """A span, or what stands for one before it is made."""

    @property
    def modality(self) -> str: ...

    def __len__(self) -> int: ...


def document_length(sample: Sequence[_Sized], modalities: Sequence[Modality]) -> int:
    """Slots that a sample takes: its tokens, a begin and an end around each non-text span, and two bounds of the
    document, or of every text where the model wraps texts."""
    text = modalities[0]
    bounded = sum(text.wraps or span.modality != text.name for span in sample)
    return sum(map(len, sample)) + 2 * bounded + 2 * (not text.wraps)


def plan_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Indices of documents per row, none longer than `row_length`: the plan of fewer rows of two, best-fit-decreasing
    and, where that is not sure to be the best, fullest rows. InputError for a document that fits no row."""
    rows = best_fit_rows(lengths, row_length)
    if len(rows) * row_length - sum(lengths) < row_length:
        return rows
    return min(rows, _fullest_rows(lengths, row_length), key=len)


def best_fit_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Best-fit-decreasing: indices of documents per row. It is poor where a row holds a few documents of about one
    length, such as pictures with captions: the longest of them end up together."""
    rows: list[list[int]] = []
    rooms: list[int] = []  # what is left in the rows, each number once, ascending
    rows_by_room: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[index]
        if need > row_length:
            raise InputError(
                f"sample {index}: {need} tokens do not fit a row of {row_length}; raise training.row_length"
            )
        tightest = bisect_left(rooms, need)
        if tightest == len(rooms):
            row, room = len(rows), row_length
            rows.append([])
        else:
            room = rooms[tightest]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rooms[tightest], rows_by_room[room]
        rows[row].append(index)
        if room - need not in rows_by_room:
            insort(rooms, room - need)
            rows_by_room[room - need] = []
        rows_by_room[room - need].append(row)
    return rows


def _fullest_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Each row begins with the longest document left and takes those that together fill what room there is the most
    (the minimum bin slack of Gupta and Ho, 1999)."""
    left: dict[int, list[int]] = {}  # length, descending -> indices
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], -i)):
        left.setdefault(lengths[index], []).append(index)
    rows: list[list[int]] = []
    while left:
        longest = next(iter(left))
        rows.append([left[longest].pop()])
        for length in _fullest({n: len(found) for n, found in left.items()}, row_length - longest):
            rows[-1].append(left[length].pop())
        left = {n: found for n, found in left.items() if found}
    return rows


def _fullest(counts: dict[int, int], room: int) -> list[int]:
    """The lengths, of so many of each, whose sum is the largest that is not above `room`. The sums that can be reached
    are the bits of an integer, to which each length is added once, twice, four times, ... so often as it is there."""
    sums, within, steps = 1, (1 << room + 1) - 1, []
    for length, count in counts.items():
        count, times = min(count, room // length), 1
        while count and not sums >> room:
            times = min(times, count)
            steps.append((length, times, sums))
            sums |= (sums << length * times) & within
            count, times = count - times, 2 * times
    total, chosen = sums.bit_length() - 1, []
    for length, times, before in reversed(steps):
        if not before >> total & 1:
            chosen += [length] * times
            total -= length * times
    return chosen


def pack(
    samples: Sequence[Sample], modalities: Sequence[Modality], row_length: int, rows: int | None = None
) -> PackedBatch:
    """Put samples into rows of `row_length` slots; as many rows as needed, padded to `rows` where that is given."""
    plan = plan_rows([document_length(sample, modalities) for sample in samples], row_length)
    if rows is not None and len(plan) > rows:
        raise InputError(f"{len(samples)} samples need {len(plan)} rows of {row_length}, but rows is {rows}")
    plan += [[] for _ in range((rows or 0) - len(plan))]
    return pack_rows([[samples[i] for i in row] for row in plan], modalities, row_length)


def pack_rows(rows: Sequence[Sequence[Sample]], modalities: Sequence[Modality], row_length: int) -> PackedBatch:
    """Pack with the assignment of samples to rows already made: rows[b] are the documents of row b, in order."""
    writer = _Writer(modalities, row_length)
    number = 0
    for row in rows:
        writer.open_row()
        for sample in row:
            writer.document(sample, f"sample {number}")
            number += 1
        writer.close_row()
    return writer.batch()


def pack_prompts(
    prompts: Sequence[Sample], modalities: Sequence[Modality], opens: Sequence[str | None] | None = None
) -> tuple[PackedBatch, Tensor]:
    """Documents to be continued, one a row: their end is left out, and they may be empty.

    opens: per prompt the modality whose begin token stands last, so that its span comes next; where that token is part
    of the span's block it is not written yet. Returns the batch, as long as its longest prompt, and the (B,) lengths.
    """
    opens = opens or [None] * len(prompts)
    in_block = {m.name for m in modalities if m.block}
    document_end = 0 if modalities[0].wraps else 1
    lengths = [
        document_length(prompt, modalities) - document_end + (opened is not None and opened not in in_block)
        for prompt, opened in zip(prompts, opens)
    ]
    writer = _Writer(modalities, max(lengths))
    for number, (prompt, modality) in enumerate(zip(prompts, opens)):
        writer.open_row()
        writer.prompt(prompt, modality, f"prompt {number}")
        writer.close_row()
    return writer.batch(), torch.tensor(lengths)


def unpack(batch: PackedBatch, modalities: Sequence[Modality]) -> list[list[Span]]:
    """The inverse of `pack`, in row order: every document's spans, special tokens and padding removed.

    Adjacent spans of text come back as one, since nothing stands between them; so does a grid of 1 x 1 as none.
    """
    vocabulary = _vocabulary(tuple(modalities))
    samples: list[list[Span]] = []
    taken = dict.fromkeys(batch.latents, 0)
    for b in range(batch.layout.shape[0]):
        document, span = batch.layout.document[b], batch.layout.span[b]
        starts = torch.cat(
            [span.new_zeros(1), 1 + (span[1:] != span[:-1]).nonzero().flatten(), span.new_tensor([len(span)])]
        )
        previous = PADDING
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist()):
            if document[start] == PADDING:
                continue
            if document[start] != previous:
                samples.append([])
                previous = int(document[start])
            modality = modalities[int(batch.layout.modality[b, start])]
            grid = _grid(batch.layout.position[b, start:end])
            if modality.discrete:
                ids = batch.ids[b, start:end]
                if modality is modalities[0] and int(ids[0]) in vocabulary.special:
                    continue
                values = ids - vocabulary.offset[modality.name]
            else:
                latents, first = batch.latents[modality.name], taken[modality.name]
                taken[modality.name] = last = first + end - start
                values = latents.values[first:last]
            samples[-1].append(Span(modality.name, values, grid, bool(batch.learned[b, start])))
    return samples


def _grid(position: Tensor) -> tuple[int, int] | None:
    rows, columns = (position[:, 1:].amax(0) + 1).tolist()
    return (rows, columns) if rows > 1 or columns > 1 else None


class _Writer:
    """Collects the slots of a batch as Python lists and tensors per span, and makes the batch once."""

    def __init__(self, modalities: Sequence[Modality], row_length: int):
        self.modalities = list(modalities)
        self.index = {m.name: i for i, m in enumerate(modalities)}
        self.vocabulary = _vocabulary(tuple(modalities))
        self.row_length = row_length
        self.rows = 0
        # Per piece of slots: (modality, document, span, time, learned, block, alone), positions (n, 3) from time 0 on,
        # and ids (n,).
        # Tensors of a few values are made once for all pieces: each would cost as much as many slots.
        self.pieces: list[tuple[int, int, int, int, bool, int, bool]] = []
        self.positions: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.continuous: dict[str, dict[str, list]] = {
            m.name: {"values": [], "start": [], "learned": [], "leads": [], "grids": []}
            for m in modalities
            if not m.discrete
        }

    def open_row(self):
        self.used = self.documents = self.spans = 0

    def close_row(self):
        padding = self.row_length - self.used
        if padding:
            self.pieces.append((0, PADDING, PADDING, 0, False, PADDING, False))
            self.positions.append(torch.zeros(padding, 3, dtype=torch.long))
            self.ids.append(_zeros(padding))
        self.rows += 1

    def document(self, sample: Sample, name: str):
        if not sample:
            raise InputError(f"{name}: an empty document cannot be learned from; give it at least one span")
        needed, left = document_length(sample, self.modalities), self.row_length - self.used
        if needed > left:
            raise InputError(f"{name}: {needed} tokens do not fit the {left} slots left of a row of {self.row_length}")
        self._spans(sample, name)
        if not self.vocabulary.wraps:
            self._special(self.vocabulary.document_end, learned=sample[-1].learned)
        self.documents += 1

    def prompt(self, sample: Sample, opens: str | None, name: str):
        self._spans(sample, name)
        if opens is not None and opens == self.modalities[0].name:
            self._special(self.vocabulary.document_begin, learned=False)
        elif opens is not None and not self.modalities[self.index[opens]].block:
            self._special(self.vocabulary.begin[opens], learned=False)

    def _spans(self, sample: Sample, name: str):
        for s, span in enumerate(sample):
            self._check(span, f"{name}, span {s}")
        self.time = 0
        if not self.vocabulary.wraps:
            self._special(self.vocabulary.document_begin, learned=False)
        for s, span in enumerate(sample):
            self._span(span, leads=any(x.learned and self._modality(x).discrete for x in sample[s + 1 :]))

    def _modality(self, span: Span) -> Modality:
        return self.modalities[self.index[span.modality]]

    def _check(self, span: Span, where: str):
        if span.modality not in self.index:
            raise InputError(
                f"{where}: modality {span.modality!r} is not one of the model's" + nearest(span.modality, self.index)
            )
        modality, values, where = self._modality(span), span.values, f"{where} ({span.modality})"
        if len(span) == 0:
            raise InputError(f"{where}: is empty; leave the span out")
        if span.grid is not None and span.grid[0] * span.grid[1] != len(span):
            raise InputError(f"{where}: a grid of {span.grid[0]} x {span.grid[1]} does not hold {len(span)} tokens")
        if modality.vocab_size is not None:
            if values.dim() != 1 or values.is_floating_point():
                raise InputError(f"{where}: needs integer ids of shape (n,), got {values.dtype} {tuple(values.shape)}")
            low, high = (value.item() for value in values.aminmax())
            if low < 0 or high >= modality.vocab_size:
                worst = low if low < 0 else high
                raise InputError(f"{where}: id {worst} is outside the vocabulary of {modality.vocab_size}")
            return
        if values.dim() != 2 or values.shape[1] != modality.channels:
            raise InputError(f"{where}: needs latents of shape (n, {modality.channels}), got {tuple(values.shape)}")
        if not torch.isfinite(values).all():
            raise InputError(f"{where}: latents hold NaN or infinity")

    def _special(self, token: int, learned: bool):
        self._piece(0, _positions(1, None, "sequence"), _token(token), learned)
        self.time += 1

    def _span(self, span: Span, leads: bool):
        modality, n = self._modality(span), len(span)
        text = modality is self.modalities[0]
        grid = tuple(span.grid) if span.grid else None
        ids = _zeros(n)
        if modality.discrete:
            # A tokenizer on a device gives ids there. A batch is put together on the CPU and moved as one.
            ids = span.values.long().cpu() + self.vocabulary.offset[span.modality]
        positions = _positions(n, grid, modality.position)
        if modality.block:
            self._block(span, leads, positions)
            return
        begin, end = self._bounds_of(modality)
        if begin is not None:
            self._special(begin, span.learned and not text)
        if not modality.discrete:
            self._keep(span, leads)
        block = self.spans if modality.bidirectional else PADDING
        self._piece(self.index[span.modality], positions, ids, span.learned, block)
        self.time += 1 if modality.position == "grid" else n
        if end is not None:
            one_by_one = modality.discrete and not modality.bidirectional
            self._special(end, span.learned and one_by_one)

    def _bounds_of(self, modality: Modality) -> tuple[int, int] | tuple[None, None]:
        """The tokens around a span; none around a text of a model that does not wrap texts."""
        if modality is not self.modalities[0]:
            return self.vocabulary.begin[modality.name], self.vocabulary.end[modality.name]
        if self.vocabulary.wraps:
            return self.vocabulary.document_begin, self.vocabulary.document_end
        return None, None

    def _block(self, span: Span, leads: bool, positions: Tensor):
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

    def _keep(self, span: Span, leads: bool):
        """Note a continuous span that begins in the next slot."""
        kept = self.continuous[span.modality]
        kept["values"].append(span.values.cpu())
        kept["start"].append(self.rows * self.row_length + self.used)
        kept["learned"].append(span.learned)
        kept["leads"].append(leads)
        kept["grids"].append(tuple(span.grid) if span.grid else (1, len(span)))

    def _piece(
        self, modality: int, positions: Tensor, ids: Tensor, learned: bool, block: int = PADDING, alone: bool = False
    ):
        self.pieces.append((modality, self.documents, self.spans, self.time, learned, block, alone))
        self.positions.append(positions)
        self.ids.append(ids)
        self.spans += 1
        self.used += len(ids)

    def batch(self) -> PackedBatch:
        shape = (self.rows, self.row_length)
        lengths = torch.tensor(list(map(len, self.ids)))
        modality, document, span, time, learned, block, alone = (
            torch.tensor(column).repeat_interleave(lengths).view(shape) for column in zip(*self.pieces)
        )
        position = torch.cat(self.positions).view(*shape, 3)
        position[..., 0] += time
        layout = Layout(modality, document, span, position, block, alone)
        ids = torch.cat(self.ids).view(shape)
        latents = {name: self._latents(name, kept) for name, kept in self.continuous.items()}
        whole = torch.tensor([m.bidirectional for m in self.modalities])
        return PackedBatch(layout, ids, learned, latents, *token_targets(layout, ids, learned, latents, whole))

    def _latents(self, name: str, kept: dict[str, list]) -> Latents:
        channels = self.modalities[self.index[name]].channels
        assert channels is not None
        lengths = torch.tensor([len(values) for values in kept["values"]], dtype=torch.long)
        span = torch.arange(len(lengths)).repeat_interleave(lengths)
        start = torch.tensor(kept["start"], dtype=torch.long)
        within = torch.arange(len(span)) - (lengths.cumsum(0) - lengths)[span]
        return Latents(
            values=torch.cat(kept["values"]) if kept["values"] else torch.zeros(0, channels),
            slots=start[span] + within,
            span=span,
            learned=torch.tensor(kept["learned"], dtype=torch.bool),
            leads=torch.tensor(kept["leads"], dtype=torch.bool),
            grids=kept["grids"],
        )


@lru_cache(maxsize=4096)
def _positions(n: int, grid: tuple[int, int] | None, kind: str) -> Tensor:
    return span_positions(n, grid, 0, kind)


@lru_cache(maxsize=4096)
def _zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


@lru_cache(maxsize=4096)
def _token(token: int) -> Tensor:
    return torch.tensor([token])


def token_targets(
    layout: Layout, ids: Tensor, learned: Tensor, latents: dict[str, Latents], bidirectional: Tensor
) -> tuple[Tensor, Tensor]:
    """Slots that predict a discrete token, and the tokens' ids: (M,) each. bidirectional: (modalities,) bool.

    A slot predicts its successor, if that is discrete, learned and of the same document. In a bidirectional span, which
    is learned as a whole, a slot predicts its own token. A continuous token predicts none: its output is its denoising.
    The end of a bidirectional span is given by its size.
    """
    continuous = torch.zeros(learned.numel(), dtype=torch.bool)
    for each in latents.values():
        continuous[each.slots] = True
    continuous = continuous.view_as(learned)
    whole = bidirectional[layout.modality]
    one_by_one = ~continuous & ~whole
    wanted = torch.zeros_like(learned)
    same = layout.document[:, 1:] == layout.document[:, :-1]
    wanted[:, :-1] = learned[:, 1:] & same & one_by_one[:, 1:] & one_by_one[:, :-1]
    own = learned & whole & ~continuous
    slots = (wanted | own).flatten().nonzero().flatten()
    after = (~own).flatten()[slots].long()
    return slots, ids.flatten()[slots + after]


def span_positions(n: int, grid: tuple[int, int] | None, time: int, kind: str) -> Tensor:
    """(n, 3) positions of a span whose first token stands at `time`: see `Modality.position`."""
    index = torch.arange(n)
    columns = grid[1] if grid else n
    row, column = (index // columns, index % columns) if grid else (torch.zeros_like(index), torch.zeros_like(index))
    when = torch.full_like(index, time) if kind == "grid" else time + index
    return torch.stack([when, row, column], dim=1)
