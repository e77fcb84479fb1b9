"""Extractors of image features by name: EXTRACTORS, check_extractor, unknown_extractor. Nothing is imported."""

from __future__ import annotations

from pathlib import Path

from mot_gen.errors import InputError, nearest

# What makes the extractors of image features.
EXTRACTORS = {
    "fid-inception": "mot_gen.eval.images.inception:fid_inception",
    "dinov2": "mot_gen.eval.images.dinov2:dinov2",
    "torchvision": "mot_gen.eval.images.backbones:torchvision_extractor",
    "transformers": "mot_gen.eval.images.backbones:transformers_extractor",
    "efficientnet-lite0": "mot_gen.eval.images.efficientnet:efficientnet_lite0",
    "pixels": "mot_gen.eval.images.pixels:pixels",
}


def check_extractor(name: str) -> None:
    """InputError for an extractor that is neither one of these, nor a folder, nor "module:name"."""
    if name not in EXTRACTORS and ":" not in name and not Path(name).is_dir():
        raise unknown_extractor(name)


def unknown_extractor(name: str) -> InputError:
    """What is said of an extractor that is not known."""
    return InputError(f"extractor {name!r} is not known" + nearest(name, EXTRACTORS))
