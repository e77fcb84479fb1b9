"""Layout: all that a backbone may see of a batch. PADDING: the document and span of a slot that holds nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.sequence.memo import Memo
from mot_gen.sequence.moving import Movable

PADDING = -1  # the document and span number of a slot that holds nothing


@dataclass
class Layout(Movable, Memo):
    """All that a backbone may see of a batch; int64 tensors.

    modality: (B, S) index into the model's modalities; padding counts as the first.
    document: (B, S) number of the document in its row, PADDING where there is none.
    span: (B, S) number of the span in its row, a special token being a span of its own; PADDING likewise.
    position: (B, S, 3) time within the document, row and column within the span's grid.
    block: (B, S) number of the span, or of the scale in it, whose tokens all see each other, PADDING where a token sees
    only what came before; None: the span itself where its modality is bidirectional.
    alone: (B, S) bool, tokens that only their own block sees; None: no token is.
    counts: how many slots each modality has, on the host, as the packer knows it; None: to be counted.
    made: numbers that the host has counted. They go along to a device, so that the host need not wait to count again.
    """

    modality: Tensor
    document: Tensor
    span: Tensor
    position: Tensor
    block: Tensor | None = None
    alone: Tensor | None = None
    counts: list[int] | None = None
    made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed = super().with_tensors(change)
        if changed.shape == self.shape:  # moved, not cut
            changed.made = self.made
        return changed

    @property
    def shape(self) -> torch.Size:
        return self.modality.shape

    def select_rows(self, rows: Tensor) -> Layout:
        """Some of the rows, (R,). If slots of each modality were counted, they are counted anew."""
        chosen = replace(self.with_tensors(lambda part: part[rows]))  # without what was counted in all rows
        if self.counts is None:
            return chosen
        counts = torch.bincount(chosen.modality.flatten(), minlength=len(self.counts)).tolist()
        return replace(chosen, counts=counts)
