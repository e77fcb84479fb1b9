"""ResidualAutoencoder: a convolutional network for small pictures that learns fast on a CPU.

Between its first and last convolution it is a sum of branches without any norm; each branch ends in a convolution of
zeros, so that an untrained network is linear. What it reaches is in docs/tokenizers.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.tokenizers.pretrained import ConfiguredModel

FIRST_LOGVAR = -6.0  # of an untrained posterior: a deviation of 0.05, beside latents of about 0.5


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x))), (B, C, h, w) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None, "made with a bias"
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class ResidualAutoencoder(ConfiguredModel):
    """(B, in_channels, H, W) <-> latents (B, latent_channels, H / s, W / s), s = 2 ** (number of widths - 1).

    block_out_channels: the width at each resolution, from the pixels down; encoder_layers, decoder_layers: residual
    blocks at each. posterior: whether `encode` gives a Gaussian (mean and log variance, as
    AutoencoderKL does) to sample from, or its mean alone.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 48,
        latent_channels: int = 8,
        block_out_channels: Sequence[int] = (128,),
        encoder_layers: int = 2,
        decoder_layers: int = 4,
        posterior: bool = True,
    ):
        super().__init__()
        widths = list(block_out_channels)
        if min(widths, default=0) < 1 or min(encoder_layers, decoder_layers) < 0:
            raise InputError(f"no network has widths {widths}, {encoder_layers} and {decoder_layers} layers")
        self.encoder = _encoder(in_channels, widths, encoder_layers, latent_channels * (2 if posterior else 1))
        self.decoder = _decoder(latent_channels, widths, decoder_layers, in_channels)
        if posterior:
            last = self.encoder[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None, "the encoder ends in a convolution"
            nn.init.constant_(last.bias[latent_channels:], FIRST_LOGVAR)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """(B, in_channels, H, W) -> `latent_dist`, a Gaussian over the latents; of no width without a posterior."""
        moments = self.encoder(self._laid_out(x))
        if not self.config.posterior:
            moments = torch.cat([moments, torch.zeros_like(moments)], 1)
        gaussian = DiagonalGaussianDistribution(moments, deterministic=not self.config.posterior)
        return AutoencoderKLOutput(latent_dist=gaussian)

    def decode(self, z: Tensor) -> DecoderOutput:
        """(B, latent_channels, h, w) -> `sample` (B, in_channels, H, W)."""
        return DecoderOutput(sample=self.decoder(self._laid_out(z)))

    def _laid_out(self, x: Tensor) -> Tensor:
        """Channels last, in which a CPU convolves fp32 a quarter faster; the bf16 of training is slower in it."""
        return x if self.training else x.contiguous(memory_format=torch.channels_last)


def _encoder(channels: int, widths: list[int], layers: int, out: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for i, width in enumerate(widths):
        if i:
            parts.append(nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1))
        parts += [ResidualBlock(width) for _ in range(layers)]
    return nn.Sequential(*parts, nn.Conv2d(widths[-1], out, 3, padding=1))


def _decoder(channels: int, widths: list[int], layers: int, out: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
    for i in reversed(range(len(widths))):
        parts += [ResidualBlock(widths[i]) for _ in range(layers)]
        if i:
            parts += [nn.Conv2d(widths[i], 4 * widths[i - 1], 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*parts, nn.Conv2d(widths[0], out, 3, padding=1))
