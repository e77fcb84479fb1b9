"""Mamba (arXiv 2312.00752) and Mixture-of-Mamba (arXiv 2501.16295): the backbone whose layers are a Mamba mixer alone.

A layer has about half of the matrix parameters of a transformer's of the same dim. Mamba ties everything;
Mixture-of-Mamba unties in_proj, x_proj, dt_proj and out_proj, one by one if so stated. In a transformer's pattern the
same mixer is `mixer: [mamba, mamba, attention]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mot_gen.backbone import transformer
from mot_gen.backbone.mixers.mamba import Mixer
from mot_gen.backbone.named_parts import read_part
from mot_gen.backbone.sizes import MAMBA_SIZES, fill_size
from mot_gen.backbone.study_shapes import sublayers
from mot_gen.backbone.transformer import Backbone

__all__ = ["Backbone", "Config"]


class Config(transformer.Config):
    """`size` names a row of MAMBA_SIZES and stands for dim and layers. towers, untied: as of the transformer. The rest
    are options of the mixer, see `mixers.mamba`."""

    d_state: int
    d_conv: int
    expand: int
    dt_rank: int | None
    bidirectional: str

    def __init__(
        self,
        size: str | None = None,
        dim: int | None = None,
        layers: int | None = None,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        towers: dict[str, list[str]] | None = None,
        untied: Sequence[str] = Mixer.untied,
        bidirectional: str = "refuse",
        norm_eps: float = 1e-5,
    ):
        self.dim, self.layers, self.size = dim, layers, size
        fill_size(self, MAMBA_SIZES)
        self.d_state, self.d_conv, self.expand = d_state, d_conv, expand
        options = {"d_state": d_state, "d_conv": d_conv, "expand": expand, "bidirectional": bidirectional}
        if dt_rank is not None:
            options["dt_rank"] = dt_rank
        super().__init__(
            dim=self.dim,
            layers=self.layers,
            towers=towers,
            untied=untied,
            norm_eps=norm_eps,
            mixer=read_part("mixer", {"kind": "mamba", **options}, {}, "backbone"),
            feed_forward="none",
        )
        self.size, self.bidirectional = size, bidirectional
        self.dt_rank = self.roles.parts["mixer"][0].dt_rank

    @classmethod
    def shape_like(cls, other: Any) -> dict[str, Any]:
        bidirectional = getattr(other, "bidirectional", "two_pass")
        return {"dim": other.dim, "layers": sublayers(other), "bidirectional": bidirectional}
