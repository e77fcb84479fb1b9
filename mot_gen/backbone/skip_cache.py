"""The cache of a layer that tokens may skip: SkipCache."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone.cache import Cache, LayerCache, Slots


class SkipCache:
    """A cache of one layer, which counts the tokens that were kept in it and no others.

    kept: (B, n) bool, the tokens of the last pass that went through the layer.
    """

    def __init__(self, inner: Cache):
        self.inner = inner
        self.kept: Tensor | None = None

    @classmethod
    def of(cls, layer: LayerCache, rows: int, length: int, device: torch.device) -> SkipCache:
        return cls(Cache([layer], rows, length, device))

    def begin(self, kept: Tensor) -> Cache:
        """A pass in which these tokens go through the layer; the cache that it reads and writes."""
        self.kept = kept
        return self.inner

    def place(self, slots: Slots) -> None:
        """Nothing to do: the kept tokens have places of their own."""

    def advance(self, counts: Tensor) -> None:
        """Keep the first counts[b] of the tokens last read in row b; counts: (B,) int64."""
        assert self.kept is not None, "a pass comes before what it keeps"
        first = torch.arange(self.kept.shape[1], device=counts.device) < counts[:, None]
        self.inner.advance((self.kept & first).sum(1))

    def narrow(self, rows: int) -> SkipCache:
        view = copy(self)
        view.inner = self.inner.narrow(rows)
        return view

    def snapshot(self) -> Any:
        return self.inner.snapshot()

    def restore(self, snapshot: Any, rows: Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""
        self.inner.restore(snapshot, rows)

    def mark_dynamic(self) -> None:
        """Nothing to do: it is never compiled."""
