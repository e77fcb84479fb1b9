"""OneWayMixer: what mixers with a running state, such as Mamba, share. Their state runs from left to right.

Shapes: B rows, S slots, W convolution width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.mamba_scan import ScanLayout
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Modality

READINGS = ("refuse", "causal", "two_pass")


@dataclass(frozen=True)
class OneWayMixer(parts.Mixer):
    """A mixer that reads one way.

    bidirectional: what to do with modalities whose tokens see later ones. "refuse" raises an error; "causal" reads them
    in order; "two_pass" also reads each of their spans from its end to its start, by the same parameters, and adds both
    readings. d_conv: W.
    """

    bidirectional: str = "refuse"
    d_conv: int = 4

    display_name: ClassVar[str] = "Mamba"  # in error messages

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
                    f"{self.where}.bidirectional: {self.display_name} reads one way and tokens of {modality.name!r} "
                    f"see later ones; make the modality causal, or say {self.where}.bidirectional=causal, or two_pass"
                )

    @property
    def reading(self) -> str:
        """The name of the `ScanLayout` among what is derived from a batch."""
        return f"reading {self.d_conv} {self.bidirectional}"

    def prepare(self, block: Layer, batch: Batch) -> None:
        batch.once(self.reading, lambda: ScanLayout.of(batch, self.d_conv - 1, self.both_ways(batch)))

    def both_ways(self, batch: Batch) -> Tensor:
        """(B, S) bool, the tokens that are read backwards too."""
        return batch.bidirectional[batch.layout.modality] & (self.bidirectional == "two_pass")

    def passes(self, batch: Batch) -> int:
        """How often the batch is read: twice where some tokens are read backwards too."""
        return 2 if self.both_ways(batch).any() else 1

    def repeats(self, block: Layer) -> bool:
        return False  # every length of a scan would be a program of its own
