"""A gated linear unit, down(activation(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer, arXiv 2002.05202).

Shapes: n tokens, D width of the model, F width of the unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import fused, parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.gates import Gated, RecomputedHidden, gated
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Routing


@dataclass(frozen=True)
class FeedForward(parts.FeedForward):
    """ffn_dim: F; int(2/3 * 4 * D) rounded up to a multiple of `multiple_of` when it is not given."""

    ffn_dim: int | None = None
    multiple_of: int = 256

    untied = ("ffn",)
    matrices = 3

    def fit(self, config: Any) -> Self:
        self.require_counts("multiple_of")
        width = self.ffn_dim
        if width is None:
            width = math.ceil(int(2 / 3 * 4 * config.dim) / self.multiple_of) * self.multiple_of
        fitted = replace(self, ffn_dim=width)
        fitted.require_counts("ffn_dim")
        return fitted

    def unit(self, block: Layer, owners: Owners, times: int = 1) -> nn.Module:
        assert self.ffn_dim is not None, "fit sets it"
        hidden = times * self.ffn_dim
        gate_up, down = owners.up("ffn", hidden, parts=2), owners.down("ffn", hidden)
        return GatedLinearUnit(gate_up, down, block.parts.activation, owners)

    def flops(self, block: Layer, batch: Batch) -> int:
        assert self.ffn_dim is not None, "fit sets it"
        return 2 * self.matrices * block.owners.products(batch.routing, self.ffn_dim)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Gate and up as one, and what goes down."""
        assert self.ffn_dim is not None, "fit sets it"
        return batch.layout.modality.numel() * 3 * self.ffn_dim


class GatedLinearUnit(nn.Module):
    """Gate and up are one product, `gate_up`. learned: the activation's own parameters, or None."""

    def __init__(self, gate_up: nn.Module, down: nn.Module, activation: parts.Activation, owners: Owners):
        super().__init__()
        self.gate_up, self.down, self.activation = gate_up, down, activation
        self.learned = activation.module(owners)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        gate_up = self.gate_up(x, routing)
        if self.learned is None and getattr(self.down, "learns_beside", False):
            again = RecomputedHidden(gate_up.detach(), self.activation)
            return self.down(self.activated(gate_up, again), routing, again)
        return self.down(self._hidden(gate_up, routing), routing)

    def hidden_channels(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, F), what goes down."""
        return self._hidden(self.gate_up(x, routing), routing)

    def _hidden(self, gate_up: Tensor, routing: Routing) -> Tensor:
        """(n, 2 F) -> (n, F), what goes down."""
        if self.learned is None:
            return self.activated(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.learned(gate, routing) * up

    def activated(self, gate_up: Tensor, again: RecomputedHidden | None = None) -> Tensor:
        """(n, 2 F), gate and up side by side -> (n, F). again: what makes them once more in the backward pass."""
        if self.activation.function is F.silu and fused.is_used(gate_up):
            return fused.gate(gate_up)
        # The compiler fuses the plain formula, and would break off at a gradient that is written by `out=`.
        plain = self.activation.gradient is None or torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if plain:
            return gated(gate_up, self.activation)
        return Gated.apply(gate_up, self.activation, again)
