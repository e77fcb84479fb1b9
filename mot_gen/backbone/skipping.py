"""Layers that only some tokens pass through: SkippingDepth, base of such depths; blocks_of, run_on.

Shapes: B rows, S slots, T = B * S tokens, k the most tokens kept of a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.attention import Places
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.skip_cache import SkipCache
from mot_gen.sequence import PADDING, Modality


class SkippingDepth(parts.Depth):
    """A depth by which tokens of bidirectional spans may skip a layer; which ones is decided while the layer runs."""

    plans = True

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        self.require_spans(modalities)

    def repeats(self, block: Layer) -> bool:
        return False  # the number of tokens differs from pass to pass

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> SkipCache:
        return SkipCache.of(block.parts.mixer.cache(block, rows, length, like), rows, length, like.device)

    def activations(self, block: Layer, batch: Batch) -> float:
        """The tokens on their way into the layer and back."""
        return 3 * batch.layout.modality.numel() * block.owners.dim


def blocks_of(batch: Batch) -> Tensor:
    """(B, S) the bidirectional span of each token, else PADDING."""
    block = Places.of(batch.layout, batch.bidirectional).block
    return torch.where(batch.layout.document == PADDING, PADDING, block)


def run_on(
    kept: Tensor,
    name: str | None,
    fed: Tensor,
    left: Tensor | float,
    block: Layer,
    x: Tensor,
    plan: Plan,
    cache: SkipCache | None,
) -> Tensor:
    """What a layer makes of x (T, D) in tower order, of which it reads the tokens `kept` (B, S) alone. name: of what
    decides how many they are, see `Batch.thinned`.

    fed: (B, S, 1) what the feed-forward's output of a kept token is multiplied by. left: (B, S, 1) or a number, what
    the others are multiplied by, which pass the layer by. cache: a pass begins here, of the kept tokens.
    """
    shape = plan.batch.layout.shape
    inner = None if cache is None else cache.begin(kept)
    thin, slots = plan.batch.thinned(kept, inner, name)
    with torch.no_grad():
        own = thin.plan([block])
    # In sequence order all tokens of a row stand together: that is where they are gathered and put back.
    rows = plan.routing.unsort(x).view(*shape, -1)
    at = slots[..., None]
    y = own.routing.sort(rows.gather(1, at.expand(-1, -1, rows.shape[2])).flatten(0, 1))
    own_cache = None if inner is None else inner.layers[0]
    y = block.mix(y, own, own_cache)
    y = block.feed(y, own, own.routing.sort(fed.gather(1, at).flatten(0, 1)))
    y = own.routing.unsort(y).view(len(slots), -1, rows.shape[2])
    passed = torch.zeros_like(rows).scatter(1, at.expand_as(y), y.to(rows.dtype))
    return plan.routing.sort(torch.where(kept[..., None], passed, left * rows).flatten(0, 1))
