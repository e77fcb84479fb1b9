"""Which documents share a row: document_length, plan_rows, best_fit_rows, fullest_rows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
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
    by_name = {m.name: m for m in modalities}
    length = 0 if text.wraps else 2
    for span in sample:
        length += _span_length(span, by_name.get(span.modality), text)
    return length


def _span_length(span: Sized, modality: Modality | None, text: Modality) -> int:
    """Slots that a span takes with its bounds and frame. The writer refuses a modality that the model lacks."""
    if modality is None:
        return len(span) + 2
    return modality.slots(len(span)) + modality.framed(span.grid) + _bounds(modality, text)


def _bounds(modality: Modality, text: Modality) -> int:
    """How many tokens bound a span."""
    if modality is text:
        return 2 if text.wraps else 0
    return 2 if modality.ends else 1


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
    open_rows = _OpenRows()
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[index]
        if need > row_length:
            raise InputError(
                f"sample {index}: {need} tokens do not fit a row of {row_length}; raise training.row_length"
            )
        found = open_rows.take(need)
        if found is None:
            found = len(rows), row_length
            rows.append([])
        row, room = found
        rows[row].append(index)
        open_rows.put(row, room - need)
    return rows


class _OpenRows:
    """Numbers of rows by the room that is left in them, in slots."""

    def __init__(self) -> None:
        self._rooms: list[int] = []  # each number once, ascending
        self._rows: dict[int, list[int]] = {}

    def take(self, need: int) -> tuple[int, int] | None:
        """The row with the least room that is enough, and its room; None where there is no such row."""
        tightest = bisect_left(self._rooms, need)
        if tightest == len(self._rooms):
            return None
        room = self._rooms[tightest]
        row = self._rows[room].pop()
        if not self._rows[room]:
            del self._rooms[tightest], self._rows[room]
        return row, room

    def put(self, row: int, room: int) -> None:
        if room not in self._rows:
            insort(self._rooms, room)
            self._rows[room] = []
        self._rows[room].append(row)


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
        counts = {length: len(found) for length, found in left.items()}
        for length in _fullest(counts, row_length - longest):
            rows[-1].append(left[length].pop())
        left = {length: found for length, found in left.items() if found}
    return rows


def _fullest(counts: dict[int, int], room: int) -> list[int]:
    """The lengths whose sum is the largest that is not above `room`. counts: how many there are of each length.

    Bit k of an integer says whether the sum k can be reached. Each length is added once, then twice, four times, ...
    as often as it is there; so a few steps make all sums, and going back over them finds the lengths.
    """
    sums, within = 1, (1 << room + 1) - 1
    steps: list[tuple[int, int, int]] = []  # a length, how often it is added, the sums before
    for length, times in _additions(counts, room):
        if sums >> room:
            break
        steps.append((length, times, sums))
        sums |= (sums << length * times) & within
    total = sums.bit_length() - 1
    chosen: list[int] = []
    for length, times, before in reversed(steps):
        if not before >> total & 1:
            chosen += [length] * times
            total -= length * times
    return chosen


def _additions(counts: dict[int, int], room: int) -> Iterator[tuple[int, int]]:
    """A length and how often it is added at once: 1, 2, 4, ... times and what is left, so that every number of them, up
    to those that are there and fit, is a sum of some."""
    for length, count in counts.items():
        left, times = min(count, room // length), 1
        while left:
            times = min(times, left)
            yield length, times
            left, times = left - times, 2 * times
