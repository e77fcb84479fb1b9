"""VQImageTokenizer: images as ids of a learned codebook, on a grid; discrete tokens for next-token prediction."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.light_diffusers import ModelMixin, VQModel, register_to_config  # noqa: F401  a pipeline that is loaded looks for ModelMixin beside the class
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_base import ImageTokenizer, loading, pretrained_class, size_pair
from mot_gen.tokenizers.quantizers import FiniteScalar, NearestEntry


class VQImageTokenizer(ImageTokenizer):
    """(C, H, W) in [0, 1] <-> (n,) ids of a codebook, row by row: a convolutional encoder, a quantiser, a decoder.

    The network is a diffusers VQModel (`vq`), trained here (mot_gen.tokenizers.train_image) or by others
    (`from_pretrained` of its folder or hub name). vq_config is its config. levels: None for the learned codebook of
    `num_vq_embeddings` entries with the nearest chosen; else those of finite scalar quantisation. fold: the network
    sees f x f pixels as one, with f * f * C channels, which is what makes small images fast (1 for others' models).
    """

    @register_to_config
    def __init__(
        self,
        vq_config: dict,
        image_size: int | Sequence[int],
        levels: Sequence[int] | None = None,
        fold: int = 1,
        name: str = "image",
    ):
        super().__init__()
        self.vq = VQModel.from_config(vq_config)
        d = self.vq.post_quant_conv.in_channels
        self.vq.quantize = FiniteScalar(levels) if levels else NearestEntry(vq_config["num_vq_embeddings"], d)
        if levels and len(levels) != d:
            raise InputError(f"levels {list(levels)} need a vq_embed_dim of {len(levels)}, got {d}")
        self.grid = self._grid(size_pair(image_size))

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        shrink = self.config.fold * 2 ** (len(self.vq.config.block_out_channels) - 1)
        if size[0] % shrink or size[1] % shrink:
            raise InputError(
                f"image_size {size[0]} x {size[1]} must be a multiple of {shrink}, by which the network shrinks"
            )
        return size[0] // shrink, size[1] // shrink

    @classmethod
    def from_vq_model(cls, vq: VQModel, image_size=None, name: str = "image") -> VQImageTokenizer:
        """Wrap a diffusers VQModel, sharing its weights; image_size is its `sample_size` unless given."""
        fields = inspect.signature(type(vq).__init__).parameters
        config = {key: value for key, value in vq.config.items() if key in fields}
        with torch.device("meta"):  # no second set of weights is made
            tokenizer = cls(config, size_pair(image_size or config["sample_size"]), name=name)
        tokenizer.vq.load_state_dict(vq.state_dict(), assign=True)
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
        return cls.from_vq_model(vq, image_size, name)

    @property
    def color_channels(self) -> int:
        return self.vq.config.in_channels // self.config.fold**2

    @property
    def modality(self) -> Modality:
        return Modality(self.config.name, vocab_size=self.vq.quantize.size)

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, rows, columns, d), before quantisation."""
        z = self.vq.quant_conv(self.vq.encoder(F.pixel_unshuffle(pixels, self.config.fold)))
        return z.movedim(1, -1)

    def reconstruct(self, entries: Tensor) -> Tensor:
        """(B, rows, columns, d) entries of the codebook -> (B, C, H, W)."""
        z = entries.movedim(-1, 1)
        spatial = z if self.vq.config.norm_type == "spatial" else None
        return F.pixel_shuffle(self.vq.decoder(self.vq.post_quant_conv(z), spatial), self.config.fold)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n) ids."""
        return self.vq.quantize.ids(self.latents(pixels)).flatten(1)

    def pixels(self, tokens: Tensor) -> Tensor:
        """(B, n) ids -> (B, C, H, W)."""
        entries = self.vq.quantize.entries(tokens.view(-1, *self.grid))
        return self.reconstruct(entries.to(self.dtype))
