"""VQImageTokenizer: images as ids of a learned codebook, on a grid; discrete tokens for next-token prediction."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ModelMixin, VQModel  # noqa: F401  a pipeline looks for ModelMixin here
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_base import ImageTokenizer
from mot_gen.tokenizers.image_sizes import refuse_misfit, size_pair
from mot_gen.tokenizers.pretrained import loading, pretrained_class, whole
from mot_gen.tokenizers.quantizers import FiniteScalar, NearestEntry
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder

_NETWORKS: dict[str, Any] = {kind.__name__: kind for kind in (VQModel, ResidualAutoencoder)}


class VQImageTokenizer(ImageTokenizer):
    """(C, H, W) in [0, 1] <-> (n,) ids of a codebook, row by row: a convolutional encoder, a quantiser, a decoder.

    The network `vq`, of class vq_class and config vq_config, is a diffusers VQModel (`from_pretrained` of its folder
    or hub name), or a ResidualAutoencoder without posterior, trained here (mot_gen.tokenizers.train_image). levels:
    None for a learned codebook of `entries` (by default the VQModel's) with the nearest chosen; else those of finite
    scalar quantisation. fold: the network sees f x f pixels as one, with f * f * C channels, which is what makes small
    images fast (1 for others' models).
    """

    discrete = True  # its tokens are ids

    @register_to_config
    def __init__(
        self,
        vq_config: dict,
        image_size: int | Sequence[int],
        levels: Sequence[int] | None = None,
        fold: int = 1,
        name: str = "image",
        vq_class: str = "VQModel",
        entries: int | None = None,
    ):
        super().__init__()
        if vq_class not in _NETWORKS:
            raise InputError(f"vq_class must be one of {', '.join(_NETWORKS)}, got {vq_class!r}")
        self.vq: Any = _NETWORKS[vq_class].from_config(vq_config)  # a VQModel or a ResidualAutoencoder
        d = self.vq.post_quant_conv.in_channels if vq_class == "VQModel" else self.vq.config.latent_channels
        if levels and len(levels) != d:
            raise InputError(f"levels {list(levels)} need as many channels of a latent, got {d}")
        size = entries or vq_config.get("num_vq_embeddings")
        if levels:
            self.vq.quantize = FiniteScalar(levels)
        elif size is None:
            raise InputError("a codebook needs entries: give entries or levels")
        else:
            self.vq.quantize = NearestEntry(size, d)
        self.set_sizes(size_pair(image_size))  # one: ids come one by one, and nothing says where a row of them ends

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of ids of a picture of this size; InputError where the network does not fit it."""
        shrink = self.config.fold * 2 ** (len(self.vq.config.block_out_channels) - 1)
        refuse_misfit(size, self.config.fold, shrink)
        return size[0] // shrink, size[1] // shrink

    @classmethod
    def from_network(
        cls,
        vq: VQModel | ResidualAutoencoder,
        image_size=None,
        entries: int | None = None,
        levels=None,
        fold: int = 1,
        name: str = "image",
    ) -> VQImageTokenizer:
        """Wrap a diffusers VQModel or a ResidualAutoencoder, sharing its weights.

        image_size: a VQModel's `sample_size` unless given. A VQModel brings its codebook; a ResidualAutoencoder is
        given a new one of `entries`, or `levels`.
        """
        fields = inspect.signature(type(vq).__init__).parameters
        network: Any = vq  # diffusers says of a VQModel's attributes that they are not there
        config = {key: value for key, value in network.config.items() if key in fields}
        size, kind = size_pair(image_size or config["sample_size"]), type(vq).__name__
        with torch.device("meta"):  # no second set of weights is made
            tokenizer = cls(config, size, levels, fold, name, kind, entries)
        weights = network.state_dict()
        if isinstance(vq, ResidualAutoencoder) and not levels:
            assert entries is not None  # or the line above would have refused
            weights["quantize.embedding.weight"] = NearestEntry(entries, config["latent_channels"]).embedding.weight
        tokenizer.vq.load_state_dict(weights, assign=True)
        return tokenizer.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, image_size=None, **kwargs) -> VQImageTokenizer:
        """From a folder or hub name of this class, or of a diffusers VQModel, for which image_size may be given."""
        kind = pretrained_class(cls, pretrained_model_name_or_path, **kwargs)
        if kind == cls.__name__:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if kind != VQModel.__name__:
            raise InputError(f"{pretrained_model_name_or_path}: holds a {kind}; a VQModel is needed")
        name = kwargs.pop("name", "image")
        with loading(pretrained_model_name_or_path, VQModel):
            vq = VQModel.from_pretrained(pretrained_model_name_or_path, **({"use_safetensors": True} | kwargs))
            whole(vq, pretrained_model_name_or_path)
        return cls.from_network(vq, image_size, name=name)

    @property
    def color_channels(self) -> int:
        return self.vq.config.in_channels // self.config.fold**2

    @property
    def modality(self) -> Modality:
        return Modality(self.config.name, vocab_size=self.vq.quantize.size)

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, rows, columns, d), before quantisation."""
        folded = F.pixel_unshuffle(pixels, self.config.fold)
        vq = self.vq
        if isinstance(self.vq, VQModel):
            return vq.quant_conv(vq.encoder(folded)).movedim(1, -1)
        return vq.encode(folded).latent_dist.mode().movedim(1, -1)

    def reconstruct(self, entries: Tensor) -> Tensor:
        """(B, rows, columns, d) entries of the codebook -> (B, C, H, W)."""
        z, vq = entries.movedim(-1, 1), self.vq
        if isinstance(self.vq, VQModel):
            spatial = z if vq.config.norm_type == "spatial" else None
            images = vq.decoder(vq.post_quant_conv(z), spatial)
        else:
            images = vq.decode(z).sample
        return F.pixel_shuffle(images, self.config.fold)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n) ids."""
        return self.vq.quantize.ids(self.latents(pixels)).flatten(1)

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n) ids -> (B, C, H, W)."""
        entries = self.vq.quantize.entries(tokens.view(-1, *grid))
        return self.reconstruct(entries.to(self.dtype))
