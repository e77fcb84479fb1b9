"""The settings of training an image tokenizer, ImageTraining and VQTraining, and how pictures are varied: augmented.

small_vq, small_scales, small_kl: untrained networks for small images, which a CPU can train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_scales import ScalesImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder


@dataclass(frozen=True)
class ImageTraining:
    """steps of batch_size images; the learning rate rises over warmup_steps and falls to zero as a cosine.

    augment: "none"; "flip" mirrors half of the images; "strong" also turns them and permutes their channels.
    commitment, kl, perceptual, adversarial: weights beside a reconstruction of weight 1; the last joins after
    adversarial_start steps. average_decay: of the running average of the weights, which is what is kept.
    """

    steps: int = 5000
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    commitment: float = 0.25
    kl: float = 1e-6
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 2000
    codebook_decay: float = 0.99
    average_decay: float = 0.998
    augment: str = "flip"
    precision: str = "bf16"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self):
        for field in ("steps", "batch_size", "lr", "checkpoint_every", "log_every"):
            if not getattr(self, field) > 0:
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")
        for field, allowed in (("precision", ("bf16", "fp32")), ("augment", ("none", "flip", "strong"))):
            if getattr(self, field) not in allowed:
                raise InputError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}")

    def lr_at(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class VQTraining(ImageTraining):
    """The settings of a VQImageTokenizer: its error is soon the codebook's, so it needs fewer steps."""

    steps: int = 3000


def small_vq(
    image_size: int | Sequence[int] = 32,
    entries: int = 1024,
    levels: Sequence[int] | None = None,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
) -> VQImageTokenizer:
    """An untrained VQImageTokenizer that shrinks by 4: 8 x 8 ids of a 32 x 32 image."""
    channels, d = color_channels * fold**2, len(levels) if levels else 8
    network = ResidualAutoencoder(channels, d, list(widths), encoder_layers, decoder_layers, posterior=False)
    return VQImageTokenizer.from_network(network, image_size, entries, levels, fold)


def small_scales(
    image_size: int | Sequence[int] = 32,
    scales: Sequence[int | Sequence[int]] = (1, 2, 3, 4, 6, 8),
    entries: int = 1024,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
) -> ScalesImageTokenizer:
    """An untrained ScalesImageTokenizer that shrinks by 4: 130 ids in six scales of a 32 x 32 image."""
    network = ResidualAutoencoder(color_channels * fold**2, 8, list(widths), encoder_layers, decoder_layers, False)
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    tokenizer = ScalesImageTokenizer(config, image_size, scales, entries, fold)
    tokenizer.network.load_state_dict(network.state_dict())
    return tokenizer.eval()


def small_kl(
    image_size: int | Sequence[int] = 32,
    latent_channels: int = 8,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
    patch_size: int = 1,
) -> LatentImageTokenizer:
    """An untrained LatentImageTokenizer that shrinks by 4: 8 x 8 x 8 latents of a 32 x 32 image."""
    channels = color_channels * fold**2
    network = ResidualAutoencoder(channels, latent_channels, list(widths), encoder_layers, decoder_layers)
    return LatentImageTokenizer.from_autoencoder(network, image_size, patch_size, fold)


def augmented(pixels: Tensor, augment: str, generator: torch.Generator) -> Tensor:
    """(B, C, H, W), each image mirrored at random ("flip"), also transposed (if square), turned upside down and its
    channels permuted ("strong"): the 8 symmetries of the square times the C! orders of the channels."""

    def half(changed: Tensor) -> Tensor:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        return torch.where(chosen[:, None, None, None], changed, pixels)

    if augment == "none":
        return pixels
    pixels = half(pixels.flip(-1))
    if augment == "strong":
        pixels = half(pixels.flip(-2))
        pixels = half(pixels.mT) if pixels.shape[-1] == pixels.shape[-2] else pixels
        orders = torch.rand(pixels.shape[:2], generator=generator).argsort(1)
        pixels = pixels.gather(1, orders[:, :, None, None].expand_as(pixels))
    return pixels
