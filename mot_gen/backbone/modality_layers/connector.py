"""Connector: how features of another network, which are only read, enter the backbone.

Shapes: N tokens of n spans, C channels of a token, D width of the backbone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.modality_layers.embeddings import GridTable, weights_in
from mot_gen.errors import require
from mot_gen.sequence import Latents, Modality


class Connector(nn.Module):
    """Features of another network, which are read and never predicted: linear, GELU, linear (LLaVA 1.5, BAGEL).

    hidden: the width between the two, the backbone's by default.
    table: as of `PatchLinear`.
    gelu: "tanh", by which it is approximated (BAGEL), or "none" (Janus).
    layers: 1 for one linear layer alone (JanusFlow).
    """

    def __init__(
        self,
        dim: int,
        modality: Modality,
        hidden: int | None = None,
        table: int | None = None,
        gelu: str = "tanh",
        layers: int = 2,
    ):
        super().__init__()
        where = f"patch_layers.{modality.name}"
        require(gelu in ("tanh", "none"), f"{where}.gelu: {gelu!r} is not known; it is tanh or none")
        require(layers in (1, 2), f"{where}.layers: must be 1 or 2, got {layers!r}")
        assert modality.channels is not None
        between = hidden or dim
        self.gelu = gelu
        self.fc1 = nn.Linear(modality.channels, dim if layers == 1 else between)
        self.fc2 = nn.Linear(between, dim) if layers == 2 else None
        self.table = None if table is None else GridTable(table, dim, modality.name)

    def flops(self, latents: Latents) -> int:
        return 2 * len(latents.values) * weights_in(self)

    def activations(self, latents: Latents) -> int:
        """The input of either layer, and that of the GELU."""
        inner = 0 if self.fc2 is None else 2 * self.fc2.in_features
        return len(latents.values) * (self.fc1.in_features + inner)

    def encode(self, latents: Latents) -> tuple[Tensor, None]:
        tokens = self.fc1(latents.values.to(self.fc1.weight.dtype))
        if self.fc2 is not None:
            tokens = self.fc2(F.gelu(tokens, approximate=self.gelu))
        if self.table is not None:
            tokens = tokens + self.table(latents.grids)
        return tokens, None
