"""What the measurements share: tokenizers, models of a named size, documents of a caption and a picture."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.gpu.setting import Setting
from mot_gen.model import MultimodalModel
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

WORDS = 32_000  # the vocabulary of Transfusion's models (arXiv 2408.11039)
CAPTION = 64  # tokens of text beside a picture
TINY = {"dim": 32, "layers": 2, "heads": 2}


@cache
def text_tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270)


def image_tokenizer(setting: Setting) -> PatchImageTokenizer:
    """Pictures of 256 tokens, as the paper's of 256 x 256 pixels are; here patches of 4 x 4 pixels."""
    side = setting.pick(64, 16)
    return PatchImageTokenizer((side, side), 4, 3)


def shape(size: str, setting: Setting) -> dict:
    """Options of a backbone of this size."""
    return setting.pick({"size": size}, TINY)


def model(kind: str, size: str, text: Modality, setting: Setting) -> MultimodalModel:
    """A model of text and pictures with random weights, on the device."""
    torch.manual_seed(0)
    modalities = [vars(text), vars(image_tokenizer(setting).modality)]
    return MultimodalModel(modalities, {"kind": kind, **shape(size, setting)}).to(setting.device)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def documents(count: int, words: int, setting: Setting) -> list[list[Span]]:
    """Captions of random tokens, each with a picture of random values."""
    side, channels = setting.pick(16, 4), image_tokenizer(setting).modality.channels

    def document() -> list[Span]:
        picture = Span("image", torch.randn(side**2, channels), (side, side))
        return [Span("text", torch.randint(words, (CAPTION,))), picture]

    return [document() for _ in range(count)]
