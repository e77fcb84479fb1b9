"""The pixels themselves as features: `pixels`, an extractor for pictures so small that no network was made for them."""

from __future__ import annotations

from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.eval.images.extractors import Extractor

LARGEST = 4096  # dimensions whose covariance is still a matrix to work with


class Flatten(nn.Module):
    """(N, 3, H, W) -> (N, 3 * H * W)."""

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        if features.shape[1] > LARGEST:
            raise InputError(
                f"extractor pixels: {tuple(images.shape[1:])} gives {features.shape[1]} features, more than {LARGEST}; "
                "use efficientnet-lite0"
            )
        return features


def pixels(*, weights=None, output="features", resize="antialias", dtype="float32") -> Extractor:
    """The extractor; pictures go in as they are, so all must have one size. It has neither weights nor logits."""
    if output == "logits":
        raise InputError("extractor pixels: has no classes, so it gives no Inception Score; use efficientnet-lite0")
    return Extractor(Flatten(), "pixels", resize=resize, dtype=dtype)
