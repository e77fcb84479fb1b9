"""Two residual streams (Dual-Stream Transformer, arXiv 2603.07461): mixers write to one, feed-forwards to the other.

    token stream    t <- t + mixer(...)           begins as the embedding
    context stream  e <- e + feed_forward(...)    begins at zero
    read out        t + e

Which stream a sublayer reads could not be found in the paper's abstract and notes: `mixer` and `feed_forward` say it,
"sum", "token" or "context". With both reading the sum this is the usual stream, in two parts. frozen_tokens: the token
stream stays the embedding, and mixers write to the context as well. Its mixing of heads is `mixers/mixed_heads.py`.

Shapes: T tokens, D width; the two streams stand side by side, (T, 2 D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Layer
from mot_gen.errors import nearest

STREAMS = ("sum", "token", "context")


@dataclass(frozen=True)
class Residual(parts.Residual):
    """mixer, feed_forward: the stream that each reads. frozen_tokens: whether mixers write to the context too."""

    mixer: str = "sum"
    feed_forward: str = "sum"
    frozen_tokens: bool = False

    def check(self, config: Any, towers: Sequence[str]) -> None:
        for option in ("mixer", "feed_forward"):
            stream = getattr(self, option)
            if stream not in STREAMS:
                raise self.refuse(option, f"{stream!r} is not known" + nearest(stream, STREAMS))
        if len(config.roles.parts["residual"]) > 1 or config.depth != "every" or config.widths:
            raise self.refuse("kind", "dual is for all layers and tokens and one width; drop depth, widths or the list")
        if self.mixer == "context":
            raise self.refuse("mixer", "the context begins at zero, and the first mixer would read nothing; say sum")

    def begin(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x)], -1)

    def end(self, x: Tensor) -> Tensor:
        token, context = x.chunk(2, dim=-1)
        return token + context

    def read(self, block: Layer, x: Tensor, sublayer: str) -> Tensor:
        token, context = x.chunk(2, dim=-1)
        streams = {"sum": token + context, "token": token, "context": context}
        return streams[self.mixer if sublayer == "mixer" else self.feed_forward]

    def add(self, block: Layer, x: Tensor, y: Tensor, sublayer: str) -> Tensor:
        token, context = x.chunk(2, dim=-1)
        if sublayer == "mixer" and not self.frozen_tokens:
            return torch.cat([token + y, context], -1)
        return torch.cat([token, context + y], -1)

    def activations(self, block: Layer, batch: Any) -> float:
        """Both streams once more for each sublayer, and their sum."""
        return 6 * batch.layout.modality.numel() * block.owners.dim
