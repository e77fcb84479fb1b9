"""Options of the mixer `kda`: KimiOptions, with the modules that they ask for and how these begin.

Shapes: D width, H heads, K head width, W convolution width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.owners import ones, zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.one_way import OneWayMixer
from mot_gen.backbone.recurrent.running_cache import RunningCache
from mot_gen.backbone.recurrent.state_options import StateOptions
from mot_gen.backbone.routing import Initial


def rates(logarithms: Tensor) -> None:
    """Write the logarithms of rates that are uniform in [1, 16]."""
    logarithms.copy_(torch.empty_like(logarithms).uniform_(1, 16).log())


@dataclass(frozen=True)
class KimiOptions(OneWayMixer, StateOptions):
    """heads, head_dim: see `StateOptions`. bidirectional, d_conv: see `OneWayMixer`."""

    display_name = "KDA"
    untied = ("in_proj", "decay", "gate", "out_proj")

    def fit(self, config: Any) -> Self:
        self.require_counts("d_conv")
        return super().fit(config)

    def modules(self, block: Layer) -> parts.Modules:
        owners, channels = block.owners, self.channels
        block.sizes = [3 * channels, self.width, self.width, self.number]
        return {
            "in_proj": owners.inward("in_proj", sum(block.sizes)),
            "conv": nn.Parameter(torch.empty(self.d_conv, 3 * channels)),
            "decay": owners.linear("decay", self.width, channels),
            "A_log": nn.Parameter(torch.empty(self.number)),
            "dt_bias": nn.Parameter(torch.empty(channels)),
            "gate": owners.linear("gate", self.width, channels, bias=True),
            "state_norm": nn.Parameter(torch.empty(self.width)),
            "out_proj": owners.outward("out_proj", channels),
        }

    def initial(self, block: Layer) -> Mapping[str, Initial]:
        conv = {"conv": lambda weight: weight.normal_(std=len(weight) ** -0.5)}
        return conv | {"A_log": rates, "dt_bias": zeros, "state_norm": ones}

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> RunningCache:
        inputs = like.new_zeros(rows, self.d_conv - 1, 3 * self.channels)
        state = like.new_zeros(rows, self.number, self.width, self.width)
        return RunningCache(inputs=inputs, state=state)
