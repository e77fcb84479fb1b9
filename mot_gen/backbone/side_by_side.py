"""Transformers side by side, which have nothing in common but the sequence: Config, Backbone.

The width is cut into equal parts, each the residual stream of a transformer of its own, with a final norm of its own.
Under one head this is the mean of several models' logits (the second form of Growing Transformers, arXiv 2507.09129),
and it costs what all of them cost; `--grow side_by_side` makes one of two trained models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from mot_gen.backbone import transformer
from mot_gen.backbone.members import SideBySide
from mot_gen.backbone.sizes import require_counts
from mot_gen.errors import require
from mot_gen.sequence import Modality

SHARED_OUT = ("dim", "heads", "kv_heads", "ffn_dim")  # among the members


@dataclass
class Config(transformer.Config):
    """members: how many transformers. dim, heads, kv_heads and ffn_dim are those of all together, of which each has an
    equal part; the other options are those of each."""

    members: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "members")
        given = {f.name: getattr(self, f.name) for f in fields(transformer.Config)}
        given["size"] = None
        for name in SHARED_OUT:
            value = given[name] or 0
            even = value % self.members == 0
            require(even, f"backbone.{name}: {value} must be a multiple of backbone.members, {self.members}")
            given[name] = value // self.members or None
        require(not self.widths, "backbone.widths: members are of one width; drop it")
        self.member = transformer.Config(**given)


def Backbone(config: Config, modalities: Sequence[Modality]) -> SideBySide:
    """The transformers that a config describes."""
    return SideBySide(config, [transformer.Backbone(config.member, modalities) for _ in range(config.members)])
