"""The pass that writes one token in every row of a cache, over tensors that stay where they are: NextToken.

From token to token, what such a pass reads differs only in where the tokens stand. So it is made once and renewed in
place: no mask is made anew, no slice grows with every token, and the host reads nothing back. The pass is the same
program until the keys in reach outgrow `EXTENT`, so that it can be recorded as a CUDA graph.

Each row holds one document, and the next token sees all of it that is kept.

Shapes: R rows, K slots of a row, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mot_gen.backbone.batch import Plan
from mot_gen.backbone.cache import Cache, differs
from mot_gen.backbone.rotary import rotary
from mot_gen.backbone.routing import all_to

EXTENT = 64  # keys by which those in reach grow


class NextToken:
    """Plans for the next token of every row of a cache.

    time: (R,) int64, the positions of these tokens, which the caller moves on in place. towers: the tower of each
    modality. dtype: of the model. Parts say what they read by `turn` and `see`.
    """

    def __init__(self, cache: Cache, time: Tensor, towers: Sequence[int], dtype: torch.dtype, compiled: bool = False):
        self.cache, self.time, self.towers, self.compiled = cache, time, towers, compiled
        cache.expect()
        later = torch.arange(cache.capacity, device=time.device) > cache.lengths[:, None]
        self._hidden = torch.zeros(later.shape, dtype=dtype, device=time.device).masked_fill_(later, float("-inf"))
        self._sights: set[str] = set()
        self._rotations: dict[str, Tensor] = {}
        self._renewals: list[Callable[[], object]] = []
        self._plans: dict[tuple, Plan] = {}

    def see(self, name: str) -> None:
        """Let a plan have the mask (R, 1, 1, K) of these tokens by this name."""
        self._sights.add(name)

    def turn(self, name: str, frequencies: Tensor) -> None:
        """Let a plan have the rotation (R, 1, D/2, 2) of these tokens by this name."""
        if name in self._rotations:
            return
        device = self.time.device
        # No position is beyond the slots: each slot takes at most one.
        table = rotary(torch.arange(self.cache.capacity, device=device), frequencies.to(device))
        held = self._rotations[name] = table.index_select(0, self.time)
        self._renewals.append(lambda: torch.index_select(table, 0, self.time, out=held))

    def plan(self, modality: int) -> Plan:
        """Reserve the slots of tokens of this modality, and what blocks read of them."""
        end = self.cache.place_next()
        self._hidden.scatter_(1, self.cache.lengths[:, None], 0.0)
        for renew in self._renewals:
            renew()
        tower, extent = self.towers[modality], min(-(-end // EXTENT) * EXTENT, self.cache.capacity)
        # Rows of one length write by a slice, others by an index: not the same program.
        key = tower, extent, self.cache.even
        if key not in self._plans:
            self._plans[key] = self._plan(tower, extent)
        return self._plans[key]

    def _plan(self, tower: int, extent: int) -> Plan:
        mask = self._hidden[:, None, None, :extent]
        if self.compiled:
            differs(mask, 3)
        rows = len(self.time)
        routing = all_to(tower, rows, max(self.towers) + 1)
        return Plan(None, routing, rows, {**self._rotations, **dict.fromkeys(self._sights, mask)})
