"""Options of mixers whose heads keep a state instead of keys and values: StateOptions.

Shapes: D width, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Layer
from mot_gen.errors import InputError


@dataclass(frozen=True)
class StateOptions(parts.Mixer):
    """heads. head_dim: D / H when not given."""

    heads: int | None = None
    head_dim: int | None = None

    def fit(self, config: Any) -> Self:
        self.require_counts("heads", remedy=" (or name backbone.size)")
        assert self.heads is not None, "it is a count"
        if self.head_dim is None and config.dim % self.heads:
            raise InputError(f"backbone.dim: {config.dim} must be a multiple of backbone.heads, {self.heads}")
        fitted = replace(self, head_dim=self.head_dim or config.dim // self.heads)
        fitted.require_counts("head_dim")
        return fitted

    def width_step(self) -> int:
        return self.heads or 1

    @property
    def number(self) -> int:
        """H."""
        assert self.heads is not None, "fit sees to it"
        return self.heads

    @property
    def width(self) -> int:
        """K."""
        assert self.head_dim is not None, "fit sets it"
        return self.head_dim

    @property
    def channels(self) -> int:
        """H * K."""
        return self.number * self.width

    def repeats(self, block: Layer) -> bool:
        return False  # a pass of another length is another program
