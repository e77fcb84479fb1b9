"""What every image tokenizer shares: ImageTokenizer.

A child declares `modality` and two maps between pixels and tokens; raw pictures, batches, spans, device and
fingerprint are here. As diffusers models (`ModelMixin`, `ConfigMixin`) they save and load with their weights, alone
or as a component of a `DiffusionPipeline`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.light_diffusers import ConfigMixin, ModelMixin
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_files import image_tensor


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or a pair; raises InputError unless both are at least 1."""
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(f"image_size must be one side or (height, width), each at least 1, got {image_size!r}")
    return pair


def pretrained_class(cls: type[ConfigMixin], name, **kwargs) -> str | None:
    """Name of the class whose config.json lies in a folder or under a hub name; raises InputError where none does."""
    where = ("subfolder", "revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
    try:
        return cls.load_config(name, **{key: kwargs[key] for key in where if key in kwargs}).get("_class_name")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no {cls.config_name} of a model found in this folder or hub name") from error


@contextmanager
def loading(name, kind: type):
    """What diffusers raises for weights that are missing, broken or of other shapes, as one line that names them."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: does not fit a {kind.__name__} ({reason})") from error


class ImageTokenizer(ModelMixin, ConfigMixin):
    """Images of one size <-> spans with a 2-D grid.

    A child's config has `name` (of its modality) and `image_size`, and it defines:
    - `modality -> Modality`, `color_channels -> int` (1 or 3), `grid -> (rows, columns)`;
    - `tokens(pixels (B, C, H, W) in [-1, 1]) -> (B, n) ids or (B, n, D) latents`;
    - `pixels(tokens) -> (B, C, H, W)`, about [-1, 1].
    """

    config_name = "config.json"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """From a folder that `save_pretrained` wrote, or a hub name; raises InputError where the weights do not fit."""
        with loading(pretrained_model_name_or_path, cls):
            return super().from_pretrained(pretrained_model_name_or_path, **({"use_safetensors": True} | kwargs))

    def encode(self, raw) -> Span:
        """A PIL image, path, bytes or tensor (C, H, W), cropped to image_size -> a span of rows * columns tokens."""
        return self.encode_batch([raw])[0]

    @torch.no_grad()
    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many raw images in one pass of the network; the same spans as one by one."""
        if len(raws) == 0:
            return []
        size = size_pair(self.config.image_size)
        pixels = torch.stack([image_tensor(raw, size, self.color_channels).to(self.device) for raw in raws])
        tokens = self.tokens((pixels * 2 - 1).to(self.dtype))
        tokens = tokens.float() if tokens.is_floating_point() else tokens
        return [Span(self.config.name, values, self.grid) for values in tokens]

    def decode(self, span: Span) -> Tensor:
        """A span -> float tensor (C, H, W) in [0, 1]; raises InputError for one that is not of this tokenizer."""
        return self.decode_batch([span])[0]

    @torch.no_grad()
    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans in one pass of the network; the same images as one by one."""
        if len(spans) == 0:
            return []
        for span in spans:
            self._check(span)
        tokens = torch.stack([span.values.to(self.device) for span in spans])
        tokens = tokens.to(self.dtype) if tokens.is_floating_point() else tokens
        return list(self.pixels(tokens).float().add(1).div(2).clamp(0, 1))

    def _check(self, span: Span) -> None:
        name, modality, (rows, columns) = self.config.name, self.modality, self.grid
        if len(span) != rows * columns or tuple(span.grid or self.grid) != (rows, columns):
            raise InputError(f"{name} span of {len(span)} tokens, grid {span.grid}; expected {rows} x {columns}")
        if modality.discrete:
            low, high = span.values.min().item(), span.values.max().item()
            if low < 0 or high >= modality.vocab_size:
                raise InputError(f"{name} ids {low} to {high} lie outside 0 to {modality.vocab_size - 1}")
        elif span.values.shape[1:] != (modality.channels,):
            shape = tuple(span.values.shape)
            raise InputError(f"{name} span of shape {shape}; expected {modality.channels} channels a token")

    @property
    def device(self) -> torch.device:
        return self._first_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        return self._first_tensor().dtype

    def _first_tensor(self) -> Tensor:
        return next(itertools.chain(self.parameters(), self.buffers()))

    @property
    def fingerprint(self) -> str:
        """sha256 over config and weights, in hex: what stored tokens were made by. The device does not count."""
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps([type(self).__name__, config], sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
