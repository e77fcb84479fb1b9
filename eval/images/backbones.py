"""Extractors from torchvision and transformers: torchvision_extractor, transformers_extractor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.images.extractors import IMAGENET_MEAN, IMAGENET_STD, Extractor
from mot_gen.eval.images.weights import file_sha256, load_state_dict, missing_weights
from mot_gen.eval.transformers_folders import network_of, processor_of

HEADS = ("fc", "classifier", "heads", "head")  # what torchvision calls the last part of its classifiers


def torchvision_extractor(name, *, weights=None, output="features", resize="antialias", dtype="float32") -> Extractor:
    """A torchvision classifier by name; "features" takes off its head. weights: a local .pth of torchvision's."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise InputError(f"torchvision has no classifier {name!r}" + nearest(name, models.list_models(module=models)))
    meta = models.get_model_weights(name).DEFAULT
    if weights is None:
        prefix = meta.url.rsplit("-", 1)[-1].split(".")[0]
        raise missing_weights(
            f"extractor torchvision:{name}", meta.url, f"{prefix}...", "weights=FILE (--weights FILE)"
        )
    network = models.get_model(name, weights=None)
    network.load_state_dict(load_state_dict(weights))
    if output == "features":
        head = next(head for head in HEADS if hasattr(network, head))
        setattr(network, head, nn.Identity())
    size = meta.transforms().crop_size[0]
    options = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "dtype": dtype, "sha256": file_sha256(weights)}
    return Extractor(network, f"torchvision:{name}", size, resize=resize, **options)


class VisionTower(nn.Module):
    """A transformers model called with pixels; a CLIP gives its projected image embedding."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Any:
        model: Any = self.model
        if hasattr(model, "visual_projection"):
            return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        return model(pixel_values=pixels)


def transformers_extractor(folder, *, weights=None, output="features", resize="clean", dtype="float32") -> Extractor:
    """A transformers vision model saved in a local folder (DINOv2, CLIP, ViT); its own size, mean and std are used."""
    from transformers import AutoModel, AutoModelForImageClassification

    folder = Path(folder)
    if weights is not None:
        raise InputError(f"extractor transformers:{folder}: its weights are those in the folder; drop weights")
    builder = AutoModelForImageClassification if output == "logits" else AutoModel
    network = VisionTower(network_of(builder, folder, "save a transformers model there with save_pretrained"))
    size, mean, std = image_preprocessing(folder)
    return Extractor(network, folder.name, size, resize=resize, mean=mean, std=std, dtype=dtype)


def image_preprocessing(folder: Path) -> tuple[int, list[float], list[float]]:
    """(size, mean, std) of a folder's preprocessor_config.json: the side of the square that the model takes."""
    found = _preprocessor_config(folder)
    size = _side(found.get("crop_size")) or _side(found.get("size"))
    if size is None:
        raise InputError(f"{folder}/preprocessor_config.json: size is not understood; give height or shortest_edge")
    return size, found.get("image_mean", list(IMAGENET_MEAN)), found.get("image_std", list(IMAGENET_STD))


def _side(size: object) -> int | None:
    """One side of a size as configs have it: an int, {"height", "width"} or {"shortest_edge"}."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else None


def _preprocessor_config(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    require(path.exists(), f"{path}: missing; save the model's image processor beside it")
    return json.loads(path.read_text(encoding="utf-8"))


def image_processor(folder: Path) -> tuple[Callable[..., Any], str]:
    """The image processor of a folder, and its geometry in a word for signatures: `shortest-224-crop-224`."""
    from transformers import AutoImageProcessor

    _preprocessor_config(folder)
    processor = processor_of(AutoImageProcessor, folder)
    words = []
    if processor.do_resize:
        short = _side({"shortest_edge": processor.size.shortest_edge})
        if short:
            words.append(f"shortest-{short}")
        else:
            words.append(f"squash-{_side({'height': processor.size.height})}")
    if getattr(processor, "do_center_crop", False):
        words.append(f"crop-{processor.crop_size.height}")
    return processor, "-".join(words) or "none"
