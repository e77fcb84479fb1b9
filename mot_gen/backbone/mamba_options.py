"""Options of the mixer `mamba`: MambaOptions, with what follows from them and what does not fit; INITIAL, how its own
parameters begin, as in the paper (arXiv 2312.00752); and Reads, of all mixers that read one way.

Shapes: D width, N states of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.owners import ones, zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Initial
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Modality

READINGS = ("refuse", "causal", "two_pass")


def uniform(weight: Tensor) -> None:
    """Uniform in +-1 / sqrt(fan in), alike for all towers."""
    weight.copy_((2 * torch.rand(weight.shape[1:]) - 1) / math.sqrt(weight.shape[-1]))


def time_steps(bias: Tensor) -> None:
    """So that softplus(bias) is log-uniform in [0.001, 0.1]."""
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
class Reads(parts.Mixer):
    """A mixer that reads one way. bidirectional: how such modalities are read: "refuse" them; "causal", in order; or
    "two_pass", each span from its end to its start as well, by the same parameters, and both readings added."""

    bidirectional: str = "refuse"

    reader: ClassVar[str] = "Mamba"  # its name in messages

    def fit(self, config: Any) -> Self:
        if self.bidirectional not in READINGS:
            known = nearest(self.bidirectional, READINGS)
            raise self.refuse("bidirectional", f"{self.bidirectional!r} is not known" + known)
        return super().fit(config)

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        if self.bidirectional != "refuse":
            return
        for modality in modalities:
            if modality.bidirectional or modality.scales:
                raise InputError(
                    f"{self.where}.bidirectional: {self.reader} reads one way and tokens of {modality.name!r} see "
                    f"later ones; make the modality causal, or say {self.where}.bidirectional=causal, or two_pass"
                )

    def twice(self, batch: Batch) -> Tensor:
        """(B, S) bool, the tokens that are read backwards too."""
        return batch.bidirectional[batch.layout.modality] & (self.bidirectional == "two_pass")

    def repeats(self, block: Layer) -> bool:
        return False  # every length of a scan would be a program of its own


@dataclass(frozen=True)
class MambaOptions(Reads):
    """dt_rank: ceil(D / 16) when not given. bidirectional: how such modalities are read, see `Reads`."""

    d_state: int = 16
    d_conv: int = 4
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
