"""LatentImageTokenizer: the latents of any diffusers autoencoder, standardised, in patches, as continuous tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline that is loaded looks for ModelMixin beside the class
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.files.image_files import image_tensor
from mot_gen.patches import patchify, unpatchify
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_base import ImageTokenizer, size_pairs
from mot_gen.tokenizers.pretrained import loading, pretrained_class, whole
from mot_gen.tokenizers.residual_autoencoder import ResidualAutoencoder

HALVING = ("AutoencoderKL", "ResidualAutoencoder")  # the sides, at every width but the first
OF_VIDEO = ("AutoencoderKLWan",)  # a picture is a video of one frame


class LatentImageTokenizer(ImageTokenizer):
    """(C, H, W) in [0, 1] <-> (n, p * p * L): latents (z - shift) * scale of an autoencoder, in patches of p x p.

    Encoding is deterministic: the mode of the posterior, no sample of it. The autoencoder is an AutoencoderKL,
    AutoencoderTiny, AutoencoderDC or any other 2-D one of diffusers, or a ResidualAutoencoder, and is part of this
    model (`vae`): its class and config are fields of this config, its weights are saved with it. fold: the
    autoencoder sees f x f pixels as one, with f * f * C channels, which is what makes small images fast (1 for
    others' models).

    Make one with `from_pretrained` (of this class or of an autoencoder) or `from_autoencoder`. `shift` and `scale`
    have one value per latent channel; they come from the autoencoder's config, or from `measure`. layout: further
    fields of the modality, see `sequence.Modality`.
    """

    discrete = False  # its tokens are numbers

    @register_to_config
    def __init__(
        self,
        vae_class: str,
        vae_config: dict,
        image_size: int | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, int],
        patch_size: int,
        shift: Sequence[float],
        scale: Sequence[float],
        fold: int = 1,
        name: str = "image",
        layout: dict | None = None,
    ):
        super().__init__()
        self.vae: Any = _autoencoder_class(vae_class).from_config(vae_config)
        self.set_sizes(image_size)
        if not len(shift) == len(scale) == self.latent_channels:
            raise InputError(f"shift and scale need {self.latent_channels} values, got {len(shift)} and {len(scale)}")

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of the latents of a picture of this size; InputError where they do not fit."""
        config = self.config
        shape = _latent_shape(config.vae_class, config.vae_config, _folded(size, config.fold))
        self.latent_channels, rows, columns = shape
        if config.patch_size < 1 or rows % config.patch_size or columns % config.patch_size:
            raise InputError(f"patch_size {config.patch_size} must divide the latents of {rows} x {columns}")
        return rows // config.patch_size, columns // config.patch_size

    @classmethod
    def from_autoencoder(cls, vae: Any, image_size=None, patch_size: int = 1, fold: int = 1, name: str = "image"):
        """Wrap a diffusers autoencoder (not copied).

        image_size: one side, (height, width), or a list of such pairs; the autoencoder's `sample_size` where it has
        one. The shift and scale are those of its config: `(z - shift_factor) * scaling_factor`, or `latents_mean` and
        `latents_std`.
        """
        fields = inspect.signature(type(vae).__init__).parameters
        config = {key: value for key, value in vae.config.items() if key in fields}
        image_size = image_size or config.get("sample_size")
        if image_size is None:
            raise InputError(f"{type(vae).__name__} states no sample_size: give image_size")
        sizes = size_pairs(image_size)
        channels = _latent_shape(type(vae).__name__, config, _folded(sizes[0], fold))[0]
        stated = sizes[0] if len(sizes) == 1 else sizes
        shift, scale = _standardisation(config, channels)
        with torch.device("meta"):  # no second set of weights is made
            tokenizer = cls(type(vae).__name__, config, stated, patch_size, shift, scale, fold, name)
        tokenizer.vae = vae
        return tokenizer.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, image_size=None, patch_size: int = 1, **kwargs):
        """From a folder or hub name of this class, or of a diffusers autoencoder (`subfolder="vae"` inside a pipeline).

        image_size and patch_size say how to use an autoencoder; a saved tokenizer knows its own.
        """
        kind = pretrained_class(cls, pretrained_model_name_or_path, **kwargs)
        if kind == cls.__name__:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        name = kwargs.pop("name", "image")
        autoencoder = _autoencoder_class(kind, f"{pretrained_model_name_or_path}: ")
        with loading(pretrained_model_name_or_path, autoencoder):
            vae = autoencoder.from_pretrained(pretrained_model_name_or_path, **({"use_safetensors": True} | kwargs))
            whole(vae, pretrained_model_name_or_path)
        return cls.from_autoencoder(vae, image_size, patch_size, name=name)

    @torch.no_grad()
    def measure(self, images: Sequence, batch_size: int = 16) -> LatentImageTokenizer:
        """Set shift and scale so that the latents of these raw images have mean 0 and variance 1 in each channel."""
        count = 0
        total = squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for start in range(0, len(images), batch_size):
            raws = images[start : start + batch_size]
            pixels = torch.stack([image_tensor(raw, self.size, self.color_channels) for raw in raws])
            z = self._latents((pixels * 2 - 1).to(self.device, self.dtype)).double()
            count += z.numel() // z.shape[1]
            total, squares = total + z.sum((0, 2, 3)), squares + z.square().sum((0, 2, 3))
        if count < 2:
            raise InputError("measuring the latents needs at least one image of two latent pixels")
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        if (deviation < 1e-8).any():
            raise InputError("a latent channel does not vary over these images: its scale cannot be measured")
        self.register_to_config(shift=mean.tolist(), scale=(1 / deviation).tolist())
        return self

    @property
    def color_channels(self) -> int:
        if self.config.vae_class in OF_VIDEO:
            return 3
        return self.config.vae_config["in_channels"] // self.config.fold**2

    @property
    def modality(self) -> Modality:
        channels = self.config.patch_size**2 * self.latent_channels
        fields = {"bidirectional": True, "objective": "flow", "position": self.position}
        return Modality(self.config.name, None, channels, **(fields | (self.config.layout or {})))

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n, p * p * L)."""
        shift, scale = self._shift_scale()
        return patchify((self._latents(pixels) - shift) * scale, self.config.patch_size)[0]

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n, p * p * L) -> (B, C, H, W)."""
        shift, scale = self._shift_scale()
        z = unpatchify(tokens, grid, self.config.patch_size) / scale + shift
        if self.config.vae_class in OF_VIDEO:
            return self.vae.decode(z[:, :, None]).sample[:, :, 0]
        return F.pixel_shuffle(self.vae.decode(z).sample, self.config.fold)

    def _shift_scale(self) -> tuple[Tensor, Tensor]:
        pair = torch.tensor([self.config.shift, self.config.scale], device=self.device, dtype=self.dtype)
        shift, scale = pair[:, :, None, None]
        return shift, scale

    def _latents(self, pixels: Tensor) -> Tensor:
        if self.config.vae_class in OF_VIDEO:
            return _mode(self.vae.encode(pixels[:, :, None]))[:, :, 0]
        return _mode(self.vae.encode(F.pixel_unshuffle(pixels, self.config.fold)))


def _mode(encoded) -> Tensor:
    """The latents (B, L, h, w) in what an autoencoder's `encode` returns; each class has its own name for them."""
    if "latent_dist" in encoded:
        return encoded.latent_dist.mode()
    name = "latents" if "latents" in encoded else "latent"
    return encoded[name]


def _autoencoder_class(name: str | None, where: str = "") -> Any:
    """A class of autoencoders by its name. where: begins the error, where there is none of that name."""
    if name == ResidualAutoencoder.__name__:
        return ResidualAutoencoder
    import diffusers

    found = getattr(diffusers, name, None) if name and "Autoencoder" in name else None
    if found is None:
        known = "give AutoencoderKL, AutoencoderTiny or AutoencoderDC"
        raise InputError(f"{where}{name} is no autoencoder of diffusers; {known}")
    return found


def _folded(size: tuple[int, int], fold: int) -> tuple[int, int]:
    height, width = size
    if fold < 1 or height % fold or width % fold:
        raise InputError(f"fold {fold} must divide image_size {height} x {width}; give another of the two")
    return height // fold, width // fold


def _latent_shape(vae_class: str, config: dict, size: tuple[int, int]) -> tuple[int, int, int]:
    """(L, h, w) for images of this size, from the shapes alone."""
    shapes = dict.fromkeys(HALVING, _halving_shape) | dict.fromkeys(OF_VIDEO, _video_shape)
    shape = shapes.get(vae_class, _traced_shape)(vae_class, config, size)
    if shape is None:
        raise InputError(
            f"image_size {size[0]} x {size[1]} is not a multiple of what {vae_class} shrinks by; give another"
        )
    return shape


def _halving_shape(vae_class: str, config: dict, size: tuple[int, int]) -> tuple[int, int, int] | None:
    shrink = 2 ** (len(config["block_out_channels"]) - 1)
    return _shrunk(config["latent_channels"], size, shrink)


def _video_shape(vae_class: str, config: dict, size: tuple[int, int]) -> tuple[int, int, int] | None:
    return _shrunk(config["z_dim"], size, config["scale_factor_spatial"])


def _shrunk(channels: int, size: tuple[int, int], shrink: int) -> tuple[int, int, int] | None:
    height, width = size
    if height % shrink or width % shrink:
        return None
    return channels, height // shrink, width // shrink


def _traced_shape(vae_class: str, config: dict, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """On the meta device nothing is computed, but torch loads its compiler for it: some two seconds."""
    with torch.device("meta"):
        vae, image = _autoencoder_class(vae_class).from_config(config), torch.zeros(1, config["in_channels"], *size)
        try:
            latents = _mode(vae.encode(image))
            fits = vae.decode(latents).sample.shape == image.shape
        except (RuntimeError, ValueError):
            fits = False
    if not fits:
        return None
    channels, rows, columns = latents.shape[1:]
    return channels, rows, columns


def _standardisation(config: dict, channels: int) -> tuple[list[float], list[float]]:
    """The shift and scale per channel that a diffusers autoencoder's config states."""
    factor = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") and config.get("latents_std"):
        return list(config["latents_mean"]), [factor / deviation for deviation in config["latents_std"]]
    return [config.get("shift_factor") or 0.0] * channels, [factor] * channels
