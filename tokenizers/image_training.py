"""The settings of training an image tokenizer, ImageTraining and VQTraining, and augment_batch, which varies pictures.

small_vq, small_scales, small_kl: untrained networks for small images, which a CPU can train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_scales import ScalesImageTokenizer
from mot_gen.tokenizers.image_sizes import refuse_misfit, size_pairs
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.pretrained import stated_config
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder
from mot_gen.tokenizers.training_loop import TrainingSettings

# The words that a field may have.
_WORDS = {"precision": ("bf16", "fp32"), "augment": ("none", "flip", "strong")}


@dataclass(frozen=True)
class ImageTraining(TrainingSettings):
    """`TrainingSettings` of images, and how they are learned.

    augment: "none"; "flip" mirrors half of the images; "strong" also turns them and permutes their channels.
    commitment, kl, perceptual, adversarial: weights beside a reconstruction of weight 1; the last joins after
    adversarial_start steps. average_decay: of the running average of the weights, which is what is kept.
    """

    steps: int = 5000
    batch_size: int = 32
    commitment: float = 0.25
    kl: float = 1e-6
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 2000
    codebook_decay: float = 0.99
    average_decay: float = 0.998
    augment: str = "flip"
    precision: str = "bf16"

    def __post_init__(self):
        super().__post_init__()
        for field, allowed in _WORDS.items():
            value = getattr(self, field)
            if value not in allowed:
                raise InputError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")


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
    channels = _channels(image_size, fold, widths, color_channels)
    d = len(levels) if levels else 8
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
    channels = _channels(image_size, fold, widths, color_channels)
    network = ResidualAutoencoder(channels, 8, list(widths), encoder_layers, decoder_layers, posterior=False)
    tokenizer = ScalesImageTokenizer(stated_config(network), image_size, scales, entries, fold)
    tokenizer.network.load_state_dict(network.state_dict())
    return tokenizer.eval()


def small_kl(
    image_size: int | Sequence[int] | Sequence[Sequence[int]] = 32,
    latent_channels: int = 8,
    fold: int = 4,
    widths: Sequence[int] = (128,),
    encoder_layers: int = 2,
    decoder_layers: int = 4,
    color_channels: int = 3,
    patch_size: int = 1,
) -> LatentImageTokenizer:
    """An untrained LatentImageTokenizer that shrinks by 4: 8 x 8 x 8 latents of a 32 x 32 image.

    image_size: of several sizes it is trained on pictures of the first, and then takes all.
    """
    channels = _channels(image_size, fold, widths, color_channels)
    network = ResidualAutoencoder(channels, latent_channels, list(widths), encoder_layers, decoder_layers)
    return LatentImageTokenizer.from_autoencoder(network, image_size, patch_size, fold)


def _channels(image_size: int | Sequence, fold: int, widths: Sequence[int], color_channels: int) -> int:
    """Channels of what a network sees; InputError where one of these widths does not fit the sizes."""
    require(fold >= 1, f"fold {fold} must be at least 1; it is the pixels a side that the network sees as one")
    for size in size_pairs(image_size):
        refuse_misfit(size, fold, shrink=fold * 2 ** max(0, len(widths) - 1))
    return color_channels * fold**2


def augment_batch(pixels: Tensor, augment: str, generator: torch.Generator) -> Tensor:
    """(B, C, H, W), each image mirrored at random ("flip"), also transposed (if square), turned upside down and its
    channels permuted ("strong"): the 8 symmetries of the square times the C! orders of the channels."""

    def half(changed: Tensor) -> Tensor:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        return torch.where(chosen[:, None, None, None], changed, pixels)

    if augment == "none":
        return pixels
    pixels = half(pixels.flip(-1))
    if augment == "flip":
        return pixels
    pixels = half(pixels.flip(-2))
    square = pixels.shape[-1] == pixels.shape[-2]
    if square:
        pixels = half(pixels.mT)
    orders = torch.rand(pixels.shape[:2], generator=generator).argsort(1)
    return pixels.gather(1, orders[:, :, None, None].expand_as(pixels))
