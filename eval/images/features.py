"""FeatureSource: what a feature metric is given, features (N, d) as they are, or images or sound by an extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.eval.images.batches import batch_of
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.statistics import ReferenceStatistics

# What distances are called with the extractors that they were published with.
KNOWN = {
    ("FD", "fid-inception"): "FID",
    ("KD", "fid-inception"): "KID",
    ("FD", "dinov2-vitl14"): "FD-DINOv2",
    ("KD", "dinov2-vitl14"): "KD-DINOv2",
}


class FeatureSource(nn.Module):
    """Calls an extractor on images and passes features through; names and records what it did.

    extractor: None for features alone, else what `load_extractor` takes.
    """

    def __init__(self, extractor=None, clamp: bool = False):
        super().__init__()
        known = extractor is None or hasattr(extractor, "provenance")
        self.extractor = extractor if known else load_extractor(extractor)
        self.clamp = clamp
        # A batch of waveforms looks like one of features; a source that hears takes waveforms only.
        self.hears = getattr(extractor, "hears", False)

    def forward(self, batch: Any) -> Tensor:
        """(N, d) of features, or of images or sound, as `batch_of` takes them."""
        batch = batch_of(batch)
        if batch.ndim == 2 and not self.hears:
            return batch
        if self.extractor is None:
            raise InputError(
                f"got a batch of shape {tuple(batch.shape)} without a feature extractor; give features (N, d), or name "
                "one with feature_extractor=, such as 'efficientnet-lite0'"
            )
        return self.extractor(batch, self.clamp)

    def label(self, short: str) -> str:
        """`"FD[dinov2-base]"`, or the name that everyone uses: FID, KID and FD-DINOv2."""
        name = self.provenance()["extractor"]
        if self.hears and short == "FD":
            short = "FAD"
        return KNOWN.get((short, name), f"{short}[{name}]")

    def provenance(self) -> dict:
        return {"extractor": "features"} if self.extractor is None else self.extractor.provenance()

    def load_reference(self, reference: ReferenceStatistics | str | Path) -> ReferenceStatistics:
        """Reference statistics, refused where they were made by another extractor, other weights or another resize."""
        if isinstance(reference, ReferenceStatistics):
            reference.require(self.provenance(), "reference")
            return reference
        loaded = ReferenceStatistics.load(reference)
        loaded.require(self.provenance(), reference)
        return loaded
