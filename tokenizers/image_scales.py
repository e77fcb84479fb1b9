"""ScalesImageTokenizer: images as ids at several scales, from coarse to fine; for next-scale prediction.

A multi-scale residual quantiser (VAR, Tian et al. 2024, arXiv 2404.02905, algorithms 1 and 2). With the latents f and
f_0 = 0, scale k of h_k x w_k tokens has the codes nearest to what is still missing, f - f_{k-1}, shrunk to h_k x w_k;
their entries, enlarged to the last scale and smoothed by phi_k, are added: f_k = f_{k-1} + phi_k(enlarged). A picture
is decoded from f_K. All scales share one codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline looks for it here
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.scales import Scales, bounds, resize, token_count
from mot_gen.sequence.modality import Modality, scale_pairs
from mot_gen.tokenizers.image_base import ImageTokenizer
from mot_gen.tokenizers.image_sizes import refuse_misfit, size_pair
from mot_gen.tokenizers.quantizers import NearestEntry
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder


class QuantisedScales(NamedTuple):
    """ids (B, n) of all scales; built (K, B, d, h, w): f_1 ... f_K; vectors (B, n, d), which chose the ids."""

    ids: Tensor
    built: Tensor
    vectors: Tensor


class ScaleQuantizer(nn.Module):
    """Latents (B, d, h, w) <-> ids (B, n) of several scales, the last of which is h x w."""

    def __init__(self, entries: int, d: int, scales: Scales):
        super().__init__()
        self.scales, self.codebook = scales, NearestEntry(entries, d)
        self.smooth = nn.ModuleList(_unchanging(d) for _ in scales)

    def forward(self, f: Tensor) -> QuantisedScales:
        """Quantise f; the codebook takes no gradient, the smoothing does."""
        built, found, chosen, vectors = torch.zeros_like(f), [], [], []
        for number, size in enumerate(self.scales):
            missing = resize(f.detach() - built.detach(), size).movedim(1, -1).flatten(1, 2)
            ids = self.codebook.ids(missing)
            built = built + self.added(number, ids)
            found.append(built)
            chosen.append(ids)
            vectors.append(missing)
        return QuantisedScales(torch.cat(chosen, 1), torch.stack(found), torch.cat(vectors, 1))

    def added(self, number: int, ids: Tensor) -> Tensor:
        """What the ids (B, h_k w_k) of one scale add, (B, d, h, w)."""
        entries = self.codebook.entries(ids).detach().movedim(1, -1).unflatten(-1, self.scales[number])
        enlarged = resize(entries, self.scales[-1])
        return (enlarged + self.smooth[number](enlarged)) / 2

    def built(self, ids: Tensor, count: int | None = None) -> Tensor:
        """f_k of the first `count` scales, by default of all, from ids (B, n): (B, d, h, w)."""
        rows, columns = self.scales[-1]
        built = self.codebook.embedding.weight.new_zeros(len(ids), self.codebook.embedding.embedding_dim, rows, columns)
        for number, (first, end) in enumerate(bounds(self.scales)[:count]):
            built = built + self.added(number, ids[:, first:end])
        return built


def _unchanging(d: int) -> nn.Conv2d:
    """A convolution that begins as the identity."""
    conv = nn.Conv2d(d, d, 3, padding=1)
    nn.init.dirac_(conv.weight)
    assert conv.bias is not None, "made with a bias"
    nn.init.zeros_(conv.bias)
    return conv


class ScalesImageTokenizer(ImageTokenizer):
    """(C, H, W) in [0, 1] <-> (n,) ids, those of each scale row by row, of a grid (1, n).

    network_config: of a ResidualAutoencoder without posterior. scales: sides, or (rows, columns), from coarse to fine;
    the last is what the network makes of a picture. fold: the network sees f x f pixels as one. Trained here
    (mot_gen.tokenizers.train_image).
    """

    discrete = True  # its tokens are ids

    @register_to_config
    def __init__(
        self,
        network_config: dict,
        image_size: int | Sequence[int],
        scales: Sequence[int | Sequence[int]],
        entries: int,
        fold: int = 1,
        name: str = "image",
    ):
        super().__init__()
        self.scales = scale_pairs(scales, "scales")
        self.network = ResidualAutoencoder.from_config(network_config)
        self.quantize = ScaleQuantizer(entries, self.network.config.latent_channels, self.scales)
        self.set_sizes(size_pair(image_size))

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(1, n); InputError where the network does not fit the size, or makes another grid than the last scale."""
        shrink = self.config.fold * 2 ** (len(self.network.config.block_out_channels) - 1)
        refuse_misfit(size, self.config.fold, shrink)
        made, last = (size[0] // shrink, size[1] // shrink), self.scales[-1]
        if made != last:
            raise InputError(
                f"scales: the last is {last[0]} x {last[1]}, and the network makes {made[0]} x {made[1]} of a picture; "
                f"end with {made[0]} x {made[1]}"
            )
        return 1, token_count(self.scales)

    @property
    def color_channels(self) -> int:
        return self.network.config.in_channels // self.config.fold**2

    @property
    def modality(self) -> Modality:
        size = self.quantize.codebook.size
        return Modality(self.config.name, vocab_size=size, objective="next_scale", scales=self.scales)

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, d, h, w), before quantisation."""
        return self.network.encode(F.pixel_unshuffle(pixels, self.config.fold)).latent_dist.mode()

    def reconstruct(self, built: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, C, H, W)."""
        return F.pixel_shuffle(self.network.decode(built).sample, self.config.fold)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n) ids."""
        return self.quantize(self.latents(pixels)).ids

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n) ids -> (B, C, H, W)."""
        return self.reconstruct(self.quantize.built(tokens).to(self.dtype))
