"""Short spans (MASFormer, arXiv 2310.12442): a query sees the last `size` tokens, and its whole bidirectional span.

MASFormer keeps full attention in a few layers: `reach: [{kind: window, size: 256}, full]` takes the two in turn, and a
list as long as the stack says it layer by layer. Tokens are counted in the document's own slots, so that a picture that
is larger than the window still sees itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.attention import Places, sees
from mot_gen.backbone.batch import Batch
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class Reach(parts.Reach):
    """size: how many tokens a query sees, itself among them, that do not belong to its span."""

    size: int = 256

    def fit(self, config: Any) -> Self:
        self.require_counts("size")
        return self

    def sees(self, query: Places, key: Places) -> Tensor:
        same_block = (query.block == key.block) & (query.block != PADDING)
        near = query.index - key.index < self.size
        return sees(query, key) & (near | same_block)

    def pairs(self, batch: Batch) -> int:
        """min(S, size + n) keys for each query, n being the length of its bidirectional span, or 0."""
        layout, (rows, length) = batch.layout, batch.layout.shape
        block = torch.where(batch.bidirectional[layout.modality], layout.span, PADDING)
        row = torch.arange(rows, device=block.device)[:, None]
        _, each, sizes = (row * (block.max() + 2) + block - PADDING).unique(return_inverse=True, return_counts=True)
        own = torch.where(block == PADDING, 0, sizes[each])
        return int((own + self.size).clamp_max(length).sum())
