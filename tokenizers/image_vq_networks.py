"""VQNetworkTokenizer: pictures as the ids of transformers' VQ networks: those of Chameleon, Emu3 and Janus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline that is loaded looks for ModelMixin beside the class
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_base import ImageTokenizer


@dataclass(frozen=True)
class NetworkKind:
    """What differs among them. entries: the field of the config that counts the codebook. decodes: whether transformers
    has the way back to pictures. sized: whether `encode` wants the sizes of pictures."""

    entries: str = "num_embeddings"
    decodes: bool = True
    sized: bool = False


NETWORKS = {
    "ChameleonVQVAE": NetworkKind(decodes=False),
    "Emu3VQVAE": NetworkKind(entries="codebook_size", sized=True),
    "JanusVQVAE": NetworkKind(),
}


class VQNetworkTokenizer(ImageTokenizer):
    """(3, H, W) in [0, 1] <-> (n,) ids, row by row, by the network `vq` of class vq_class and config vq_config.

    Codes are looked up as transformers does it: Janus' are normalised when a picture is made of them, and not when one
    is read. mean, std: of the colours in [0, 1] that the network is given, standardised. layout: further fields of the
    modality, see `sequence.Modality`. Chameleon's has no way back: its pictures are read alone.
    """

    discrete = True  # its tokens are ids

    @register_to_config
    def __init__(
        self,
        vq_class: str,
        vq_config: dict,
        image_size: int | Sequence[int] | Mapping[str, Any],
        layout: dict | None = None,
        name: str = "image",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        if vq_class not in NETWORKS:
            raise InputError(f"vq_class: {vq_class!r} is not known{nearest(vq_class, NETWORKS)}")
        import transformers

        config = getattr(transformers, f"{vq_class}Config")(**vq_config)
        config._attn_implementation = "sdpa" if vq_class == "Emu3VQVAE" else "eager"
        self.vq: Any = getattr(transformers, vq_class)(config)
        self.network = NETWORKS[vq_class]
        self.set_sizes(image_size)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of ids of a picture of this size; InputError where the network does not fit it."""
        shrink = 2 ** (len(self.vq.config.channel_multiplier) - 1)
        if size[0] % shrink or size[1] % shrink:
            raise InputError(
                f"image_size {size[0]} x {size[1]} must be a multiple of {shrink}, by which the network shrinks; give "
                "such an image_size"
            )
        return size[0] // shrink, size[1] // shrink

    @property
    def decodes(self) -> bool:
        return self.network.decodes

    @property
    def color_channels(self) -> int:
        return 3

    @property
    def modality(self) -> Modality:
        size = getattr(self.vq.config, self.network.entries)
        return Modality(**({"name": self.config.name, "vocab_size": size} | dict(self.config.layout or {})))

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, n) ids."""
        shift, scale = self._colours(pixels)
        given = (pixels / 2 + 0.5 - shift) / scale
        sizes = {"image_sizes": torch.tensor([pixels.shape[2:]] * len(pixels))} if self.network.sized else {}
        ids = self.vq.encode(given, **sizes).image_tokens
        ids = torch.stack(list(ids)) if self.network.sized else ids
        return ids.reshape(len(pixels), -1)

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n) ids -> (B, 3, H, W)."""
        if not self.decodes:
            raise InputError(
                f"{self.config.name}: {self.config.vq_class} only reads pictures, and none can be made of its ids; "
                "take the ids with output_type='latent'"
            )
        given = tokens.view(-1, *grid) if self.network.sized else tokens
        pictures = self.vq.decode(given)
        shift, scale = self._colours(pictures)
        return (pictures * scale + shift) * 2 - 1

    def _colours(self, like: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.tensor([list(self.config.mean), list(self.config.std)], device=like.device, dtype=like.dtype)
        shift, scale = pair[:, :, None, None]
        return shift, scale
