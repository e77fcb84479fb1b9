"""Extractors: images to features, by name or path. `load_extractor` is the way in; `Extractor` wraps any network.

    fid-inception           the 2015 Inception of FID, 2048 features (weights: a local file, or a checked download)
    dinov2                  DINOv2 ViT-L/14 as FD-DINOv2 is defined with it (weights: its folder)
    torchvision:NAME        any torchvision classifier, features before its head (weights: a local .pth file)
    transformers:FOLDER     any transformers vision model saved in a local folder: DINOv2, CLIP, ViT
    efficientnet-lite0      1280 features, weights carried by a pip package: needs no network
    pixels                  the pixels themselves: for pictures of one size, up to 36 x 36
    package.module:NAME     a callable of your own package that returns an nn.Module

Each takes `output="features"` or `"logits"`, a named resize mode, and a dtype: "float32" (the default, TF32 off),
"tf32" or "bfloat16"; all of it is recorded with the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, nearest
from mot_gen.eval.images.extractor_names import EXTRACTORS, unknown_extractor
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.images.resizing import RESIZE_MODES, resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = ("float32", "tf32", "bfloat16")


class Extractor(nn.Module):
    """uint8 or float images (N, 1 or 3, H, W) -> features (N, d) float32, always in eval mode and without gradient.

    network: takes normalised (N, 3, size, size) and returns a tensor (N, d) or (N, d, h, w), which is averaged over
    space, or a transformers output. size None: images go in as they are. mean, std: of values in [0, 1], per channel.
    sha256: of the weights; computed from the state dict where it is not given.
    """

    mean: Tensor
    std: Tensor
    sha256: str

    def __init__(
        self,
        network: nn.Module,
        name: str,
        size: int | None = None,
        *,
        resize: str = "antialias",
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        dtype: str = "float32",
        sha256: str | None = None,
    ):
        super().__init__()
        for value, allowed, what in ((resize, RESIZE_MODES, "resize mode"), (dtype, DTYPES, "extractor dtype")):
            if value not in allowed:
                raise InputError(f"{what} {value!r} is not known" + nearest(value, allowed))
        self.network, self.name, self.size, self.resize, self.precision = network, name, size, resize, dtype
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.sha256 = sha256 or weights_sha256(network)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True):
        """Stays in eval mode: batch statistics would make an image's features depend on its neighbours."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, clamp: bool = False) -> Tensor:
        pixels = to_uint8(images, clamp).to(self.mean.device)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        pixels = pixels.float() if self.size is None else resize(pixels, self.size, self.resize)
        with precision(self.precision, self.mean.device.type):
            return pooled(self.network((pixels / 255 - self.mean) / self.std)).float()

    def provenance(self) -> dict[str, str | int | None]:
        """What must be equal for two sets of features to be compared."""
        sized = "none" if self.size is None else f"{self.resize}-{self.size}"
        return {"extractor": self.name, "sha256": self.sha256, "resize": sized, "dtype": self.precision}


@contextlib.contextmanager
def precision(dtype: str, device_type: str):
    """Float32 without TF32 (cuDNN allows it by default, and it moves features), with it, or bfloat16 autocast."""
    matmul, allowed = torch.backends.cuda.matmul, dtype == "tf32"
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        autocast = torch.autocast(device_type, torch.bfloat16, enabled=dtype == "bfloat16")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed), autocast:
            yield
    finally:
        matmul.allow_tf32 = before


def pooled(output) -> Tensor:
    """(N, d) from what a network returns: a tensor, averaged over space if it has any, or a transformers output."""
    if not isinstance(output, Tensor):
        output = _of_transformers(output)
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def _of_transformers(output) -> Tensor:
    """The features in an output of transformers, of sequences those of the first token."""
    for key in ("image_embeds", "pooler_output", "logits", "last_hidden_state"):
        found = getattr(output, key, None)
        if found is not None:
            return found[:, 0] if found.ndim == 3 else found
    raise InputError("the extractor returned neither a tensor nor a transformers output; wrap it")


def weights_sha256(network: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_extractor(extractor, *, weights: str | Path | None = None, **options) -> Extractor:
    """An Extractor from its name, a folder of transformers, an nn.Module, or an Extractor (returned as it is).

    weights: local file for those that need one. options: `output`, and `resize`, `dtype` (see the module's docstring).
    """
    if isinstance(extractor, Extractor):
        return extractor
    if isinstance(extractor, nn.Module):
        return _wrapped(extractor, type(extractor).__name__, options)
    name, _, rest = str(extractor).partition(":")
    if name in EXTRACTORS:
        module, function = EXTRACTORS[name].split(":")
        build = getattr(importlib.import_module(module), function)
        if name in TAKES_NAME:
            return build(rest, weights=weights, **options)
        return build(weights=weights, **options)
    if Path(str(extractor)).is_dir():
        return load_extractor(f"transformers:{extractor}", weights=weights, **options)
    if rest:
        return _wrapped(_from_dotted(name, rest), str(extractor), options)
    raise unknown_extractor(str(extractor))


def _wrapped(network: nn.Module, name: str, options: dict) -> Extractor:
    # A network of the user's own has one output, which serves as features or as logits.
    return Extractor(network, name, **{key: value for key, value in options.items() if key != "output"})


def _from_dotted(module: str, name: str) -> nn.Module:
    try:
        network = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as err:
        raise InputError(f"extractor {module}:{name} cannot be loaded: {err}") from err
    if not isinstance(network, nn.Module):
        raise InputError(f"extractor {module}:{name}: gives a {type(network).__name__}; it must give an nn.Module")
    return network


TAKES_NAME = ("torchvision", "transformers")
