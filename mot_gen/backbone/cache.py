"""The cache of generation: LayerCache, one layer's; KeyValueCache, attention's; JoinedCache, several of one layer;
Cache, those of all layers.

A forward pass over a cache is tentative: it writes its tokens after those that are kept, and the next pass overwrites
them, as denoising steps must. `advance` keeps them. Rows may be of different lengths.

Shapes: B rows, n tokens of a pass, G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from mot_gen.backbone.attention import EMPTY, Places
from mot_gen.sequence import Layout
from mot_gen.sequence.moving import upload

# The slots of a pass: (n,) where all rows are of the same length, else rows (B, 1) and their slots (B, n).
Slots = Tensor | tuple[Tensor, Tensor]


class LayerCache(Protocol):
    """What a mixer keeps of the tokens of its layer."""

    def place(self, slots: Slots) -> None:
        """Set where the tokens of the next pass stand in every row."""

    def advance(self, counts: Tensor) -> None:
        """Keep the first counts[b] of the tokens last read in row b; counts: (B,) int64."""

    def narrow(self, rows: int) -> Self:
        """The first rows, for passes that are not to be kept."""

    def snapshot(self) -> Any:
        """What is remembered, for `restore`."""

    def restore(self, snapshot: Any, rows: Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""

    def mark_dynamic(self) -> None:
        """Tell the compiler which sizes differ from cache to cache."""


class KeyValueCache:
    """A layer's keys and values, (B, G, length, K), and where the pass at hand writes its own. both: the two as one
    tensor, (B, 2 G, length, K), if they are parts of one."""

    def __init__(self, keys: Tensor, values: Tensor, both: Tensor | None = None):
        self.keys, self.values, self.both = keys, values, both
        self.slots: Slots | None = None

    @classmethod
    def of(cls, both: Tensor) -> KeyValueCache:
        """Keys and values in one tensor, (B, 2 G, length, K)."""
        keys, values = both.chunk(2, dim=1)
        return cls(keys, values, both)

    def place(self, slots: Slots) -> None:
        self.slots = slots

    def write(self, k: Tensor, v: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Put k, v (B, G, n, K) into the slots; the first `end` keys and values, (B, G, end, K)."""
        self._put(k, self.keys)
        self._put(v, self.values)
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)

    def write_both(self, kv: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """As `write`, for keys and values in one tensor, (B, 2 G, n, K)."""
        assert self.both is not None, "made by `of`"
        self._put(kv, self.both)
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)

    def _put(self, new: Tensor, held: Tensor) -> None:
        assert self.slots is not None, "the plan of a pass places its tokens first"
        new = new.detach().to(held.dtype)  # nothing is learned through a cache
        if isinstance(self.slots, Tensor):
            held.index_copy_(2, self.slots, new)
        else:
            row, slot = self.slots
            held[row, :, slot] = new.transpose(1, 2)

    def advance(self, counts: Tensor) -> None:
        """Nothing to do: the `Cache` knows how much of each row is kept."""

    def narrow(self, rows: int) -> KeyValueCache:
        return KeyValueCache(self.keys[:rows], self.values[:rows], None if self.both is None else self.both[:rows])

    def snapshot(self) -> None:
        """Nothing to store: tokens that are forgotten are overwritten."""

    def restore(self, snapshot: None, rows: Tensor) -> None:
        """Nothing to do."""

    def mark_dynamic(self) -> None:
        differs(self.keys, 2)
        differs(self.values, 2)


class JoinedCache:
    """Several caches of one layer that go together."""

    def __init__(self, *parts: Any):
        self.parts = parts

    def place(self, slots: Slots) -> None:
        for part in self.parts:
            part.place(slots)

    def advance(self, counts: Tensor) -> None:
        """Keep the first counts[b] of the tokens last read in row b; counts: (B,) int64."""
        for part in self.parts:
            part.advance(counts)

    def narrow(self, rows: int) -> JoinedCache:
        return JoinedCache(*(part.narrow(rows) for part in self.parts))

    def snapshot(self) -> list:
        return [part.snapshot() for part in self.parts]

    def restore(self, snapshot: list, rows: Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""
        for part, kept in zip(self.parts, snapshot):
            part.restore(kept, rows)

    def mark_dynamic(self) -> None:
        for part in self.parts:
            part.mark_dynamic()


def differs(x: Tensor, dimension: int) -> None:
    """Tell the compiler that this size differs from pass to pass; else it finds out by compiling twice."""
    import torch._dynamo

    torch._dynamo.maybe_mark_dynamic(x, dimension)


def flags(given: Sequence[bool] | Tensor) -> list[bool]:
    """Flags on the host. Of a tensor on a device the host waits for them."""
    return given.tolist() if isinstance(given, Tensor) else list(given)


class Cache:
    """The caches of all layers, and what they share: how many tokens of each row are kept, and the places of all.

    length: the tokens that a row may hold. lengths: (B,) those that are kept, a tensor that stays where it is; the host
    knows them too, as `kept`.
    """

    def __init__(self, layers: Sequence[LayerCache], batch: int, length: int, device: torch.device | None = None):
        self.layers, self.capacity = list(layers), length
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.kept = [0] * batch
        self._one = torch.ones_like(self.lengths)
        self._row = torch.arange(batch, device=device)[:, None]
        empty = torch.full((batch, length), EMPTY, dtype=torch.long, device=device)
        index = torch.arange(length, device=device).expand(batch, length)
        self.places = Places(empty, index, empty.clone())
        self.even = True  # whether all rows have the same length, so that a slice does where an index is needed
        self.longest = 0

    def place(self, layout: Layout, bidirectional: Tensor) -> tuple[Places, Places]:
        """Reserve slots for the tokens of `layout` (B, n): the places of these queries, and of all keys."""
        end = self._end_after(layout.shape[1])
        places = Places.of(layout, bidirectional, self.lengths)
        slots = self._slots(places)
        at = slots if isinstance(slots, tuple) else (slice(None), slice(self.longest, end))
        self.places.document[at] = places.document
        self.places.block[at] = places.block
        for layer in self.layers:
            layer.place(slots)
        return places, self.places[:, :end]

    def expect(self, document: int = 0) -> None:
        """Let the slots after those that are kept be of each row's one document, whose tokens come one by one. No query
        sees what comes later."""
        later = self.places.index >= self.lengths[:, None]
        self.places.document.masked_fill_(later, document)
        self.places.block.masked_fill_(later, EMPTY)

    def place_next(self) -> int:
        """Reserve the next slot of every row, which is one that it expects. Returns how many keys there are then."""
        end = self._end_after(1)
        slots: Slots = self.lengths[:1] if self.even else (self._row, self.lengths[:, None])
        for layer in self.layers:
            layer.place(slots)
        return end

    def _end_after(self, tokens: int) -> int:
        """One past the last slot after so many more tokens; ValueError where there are not so many slots."""
        end = self.longest + tokens
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, and {end} are needed")
        return end

    def _slots(self, places: Places) -> Slots:
        if self.even:
            return torch.arange(self.longest, self.longest + places.index.shape[1], device=self.lengths.device)
        return self._row[: len(places.index)], places.index

    def documents_before(self, count: int) -> Tensor:
        """(B, count) the documents of the last kept tokens of each row, EMPTY where there are fewer."""
        at = self.lengths[:, None] + torch.arange(-count, 0, device=self.lengths.device)
        found = self.places.document.gather(1, at.clamp_min(0))
        return torch.where(at < 0, EMPTY, found)

    def advance(self, counts: Sequence[int] | Tensor) -> None:
        """Keep the first counts[b] of the tokens last written in row b. Of a tensor (B,) on a device the host waits for
        the numbers."""
        each = counts.tolist() if isinstance(counts, Tensor) else list(counts)
        moved = self._counted(each, counts)
        for layer in self.layers:
            layer.advance(moved)
        self.lengths.add_(moved)
        self._keep([before + count for before, count in zip(self.kept, each)])

    def _counted(self, each: list[int], counts: Sequence[int] | Tensor) -> Tensor:
        if isinstance(counts, Tensor):
            return counts
        return self._one if set(each) == {1} else upload(each, self.lengths.device, torch.long)

    def _keep(self, lengths: list[int]) -> None:
        self.kept = lengths
        self.longest = max(lengths)
        self.even = min(lengths) == self.longest

    def narrow(self, rows: int) -> Cache:
        """The first rows of this cache, sharing its memory; for passes that are not to be kept."""
        view = copy(self)
        view.lengths, view.places, view.kept = self.lengths[:rows], self.places[:rows], self.kept[:rows]
        view.layers = [layer.narrow(rows) for layer in self.layers]
        return view

    def snapshot(self) -> tuple[list[int], list]:
        """How much is kept of every row, for `restore`."""
        return self.kept, [layer.snapshot() for layer in self.layers]

    def restore(self, snapshot: tuple[list[int], list], rows: Sequence[bool] | Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""
        lengths, layers = snapshot
        again = flags(rows)
        chosen = upload(again, self.lengths.device)
        for layer, kept in zip(self.layers, layers):
            layer.restore(kept, chosen)
        self._keep([old if back else new for old, new, back in zip(lengths, self.kept, again)])
        self.lengths.copy_(upload(self.kept, self.lengths.device), non_blocking=True)
