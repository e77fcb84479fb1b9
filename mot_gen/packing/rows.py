"""Which documents share a row: document_length, plan_rows, best_fit_rows, fullest_rows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Protocol

from mot_gen.errors import InputError
from mot_gen.sequence.modality import Modality


class Sized(Protocol):
    """A span, or what stands for one before it is made."""

    @property
    def modality(self) -> str: ...

    @property
    def grid(self) -> tuple[int, int] | None: ...

    def __len__(self) -> int: ...


def document_length(sample: Sequence[Sized], modalities: Sequence[Modality]) -> int:
    """Slots that a sample takes: its tokens, a begin and an end around each non-text span and what frames it, and two
    bounds of the document, or of every text where the model wraps texts."""
    text = modalities[0]
    added = {m.name: 1 + m.ends for m in modalities} | {text.name: 2 * text.wraps}
    bounds = sum(added.get(span.modality, 2) for span in sample) + 2 * (not text.wraps)
    blocks = {m.name: m for m in modalities if m.block_size}
    tokens = sum(blocks[s.modality].slots(len(s)) if s.modality in blocks else len(s) for s in sample)
    framed = {m.name: m for m in modalities if m.frame is not None}
    frames = sum(framed[span.modality].framed(span.grid) for span in sample if span.modality in framed)
    return tokens + bounds + frames


def plan_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Indices of documents per row, none longer than `row_length`: the plan of fewer rows of two, best-fit-decreasing
    and, where that is not sure to be the best, fullest rows. InputError for a document that fits no row."""
    rows = best_fit_rows(lengths, row_length)
    if len(rows) * row_length - sum(lengths) < row_length:
        return rows
    return min(rows, fullest_rows(lengths, row_length), key=len)


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


def fullest_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
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
