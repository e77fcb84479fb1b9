"""FD-DINOv2 by its name: `dinov2`, the extractor with the recipe that the distance is published with.

The distance between features of DINOv2 ViT-L/14 follows people's judgement of pictures better than the Inception's
(Stein et al. 2023, arXiv 2306.04675). The recipe is pinned: pictures squashed to 224 x 224 by `clean` (bicubic in
float, as clean-fid), ImageNet's mean and deviation, the class token after the last norm (1024 features), float32.
DINOv2's own processor would resize to 256 and crop, which gives another number.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.eval.images.extractors import IMAGENET_MEAN, IMAGENET_STD, Extractor
from mot_gen.eval.transformers_folders import network_of

NAME, ADDRESS = "dinov2-vitl14", "https://huggingface.co/facebook/dinov2-large"
SIZE = 224
SHAPE = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}  # of ViT-L/14


class ClassToken(nn.Module):
    """(N, 3, H, W) -> (N, d): the class token after the last norm."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


def dinov2(
    *,
    weights: str | Path | None = None,
    output: str = "features",
    resize: str = "clean",
    dtype: str = "float32",
) -> Extractor:
    """The extractor. weights: the folder of facebook/dinov2-large as transformers saves it."""
    from transformers import AutoModel

    require(output == "features", "extractor dinov2: has no classes, so it gives no Inception Score; use fid-inception")
    if resize != "clean" or dtype != "float32":
        raise InputError(
            f"extractor dinov2: its recipe is pinned to clean and float32, got {resize} and {dtype}; "
            "use transformers:FOLDER for another"
        )
    if weights is None:
        raise InputError(f"extractor dinov2: no weights given; download {ADDRESS} and pass weights=FOLDER (--weights)")
    folder = Path(weights)
    model = network_of(AutoModel, folder, f"give the folder of {ADDRESS}")
    if model.config.model_type != "dinov2":
        raise InputError(f"{folder}: holds a {model.config.model_type}; give the folder of {ADDRESS}")
    for key, wanted in SHAPE.items():
        if (found := getattr(model.config, key)) != wanted:
            raise InputError(f"{folder}: {key} is {found}, that of ViT-L/14 is {wanted}; use transformers:{folder}")
    return Extractor(ClassToken(model), NAME, SIZE, resize="clean", mean=IMAGENET_MEAN, std=IMAGENET_STD)
