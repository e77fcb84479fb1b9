"""Options of the mixer `mamba`: MambaOptions, which checks them and fills in what is not given; and INITIAL, the
initial values of its own parameters, as in the paper (arXiv 2312.00752).

Shapes: D width, N states of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone.owners import ones, zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.one_way import OneWayMixer
from mot_gen.backbone.routing import Initial


def uniform(weight: Tensor) -> None:
    """Write values that are uniform in +-1 / sqrt(fan in), the same for all towers."""
    weight.copy_((2 * torch.rand(weight.shape[1:]) - 1) / math.sqrt(weight.shape[-1]))


def time_steps(bias: Tensor) -> None:
    """Write a bias for which softplus(bias) is log-uniform in [0.001, 0.1]."""
    step = torch.exp(torch.rand(bias.shape[1:]) * math.log(100.0) + math.log(1e-3))
    bias.copy_(step + torch.log(-torch.expm1(-step)))


INITIAL = {
    "conv": lambda weight: weight.normal_(std=1 / math.sqrt(len(weight))),
    "conv_bias": zeros,
    "dt_bias": time_steps,
    "A_log": lambda states: states.copy_(torch.arange(1.0, len(states) + 1).log()[:, None]),
    "D": ones,
}


@dataclass(frozen=True)
class MambaOptions(OneWayMixer):
    """dt_rank: ceil(D / 16) when not given. bidirectional, d_conv: see `OneWayMixer`."""

    d_state: int = 16
    expand: int = 2
    dt_rank: int | None = None

    untied = ("in_proj", "x_proj", "dt_proj", "out_proj")
    norm = "norm"

    def fit(self, config: Any) -> Self:
        fitted = replace(self, dt_rank=math.ceil(config.dim / 16)) if self.dt_rank is None else self
        fitted.require_counts("d_state", "d_conv", "expand", "dt_rank")
        return super(MambaOptions, fitted).fit(config)

    def initial(self, block: Layer) -> Mapping[str, Initial]:
        return INITIAL
