"""Our pipelines with untrained models: a picture and a greedy text of fixed length, as functions of nothing; and
switched, a function with one of our switches on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.gpu.models import image_tokenizer, model, text_tokenizer
from benchmarks.gpu.setting import Setting
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

PROMPT = "a handwritten seven"
T = TypeVar("T")


def untrained(kind: str, size: str, setting: Setting) -> MultimodalModel:
    """A model in bf16 on a GPU, whose texts never end by themselves."""
    tokenizer = text_tokenizer()
    built = model(kind, size, tokenizer.modality, setting).to(setting.dtype).eval()
    with torch.no_grad():
        built.head.weight[tokenizer.modality.vocab_size :] = 0.0  # so that the likeliest token is always a word
    return built


def pictures(built: MultimodalModel, count: int, steps: int, setting: Setting) -> Callable[[], object]:
    """So many pictures at once, in so many evaluations, without guidance, as a tensor of pixels."""
    tokenizers = {"text_tokenizer": text_tokenizer(), "image_tokenizer": image_tokenizer(setting)}
    scheduler = built.objectives["image"].scheduler()
    pipe = TextToImagePipeline(model=built, **tokenizers, scheduler=scheduler).to(setting.device)
    pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "pt"}
    return lambda: pipe([PROMPT] * count, **how)


def switched(use: Callable[[bool], None], on: bool, action: Callable[[], T]) -> Callable[[], T]:
    """The action, before which a switch that is off is set, and put back after it."""

    def with_switch() -> T:
        use(on)
        try:
            return action()
        finally:
            use(False)

    return with_switch


def texts(built: MultimodalModel, count: int, tokens: int, setting: Setting) -> Callable[[], object]:
    """So many texts at once, of so many tokens each."""
    pipe = TextGenerationPipeline(model=built, text_tokenizer=text_tokenizer()).to(setting.device)
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe([PROMPT] * count, max_new_tokens=tokens)
