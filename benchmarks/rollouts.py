"""Throughput of sampling for rewards beside that of generating, in the same batch: `python -m benchmarks rollouts`.

The sampler of `mot_gen.reinforce` and the pipelines draw the same number of pictures with the same number of steps, and
write as many texts, in turn; the ratio of the fastest rounds is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from mot_gen.datasets import digits
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.sections import Data, Reinforce
from mot_gen.reinforce.prompts import Prompts
from mot_gen.reinforce.rollouts import Sampler

BATCH, STEPS, TOKENS, ROUNDS = 16, 10, 12, 3


def run() -> Iterator[dict[str, Any]]:
    """The ratio for pictures and for texts, by the shipped model."""
    pairs = list(digits.load(Data()).train)[:BATCH]
    for name, cls in (("pictures", TextToImagePipeline), ("texts", ImageToTextPipeline)):
        pipe = load_pipeline(cls, "openmoji")
        section = _section(name)
        sampler, prompts = Sampler(pipe, section), Prompts(pairs, section, seed=0)
        sampled = partial(_sampled, sampler, prompts, pipe)
        yield {"what": name, "ratio": _ratio(sampled, _generated(name, pipe, pairs)), "batch": BATCH}


def _sampled(sampler: Sampler, prompts: Prompts, pipe: Any) -> None:
    sampler(pipe, prompts.take(pipe, range(BATCH)), _generators())


def _section(name: str) -> Reinforce:
    writes = ["image"] if name == "pictures" else ["text"]
    return Reinforce(writes=writes, rewards={"length": 1.0}, num_inference_steps=STEPS, max_new_tokens=TOKENS)


def _generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(BATCH)]


def _generated(name: str, pipe: Any, pairs: list) -> Callable:
    if name == "pictures":
        captions = [pair.captions[0] for pair in pairs]
        options = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "pt"}
        return lambda: pipe(captions, generator=_generators(), **options)
    images = [pair.image for pair in pairs]
    return lambda: pipe(images, generator=_generators(), do_sample=True, max_new_tokens=TOKENS)


def _ratio(sampled: Callable, generated: Callable) -> float:
    """How many times as fast sampling for rewards is as generating."""
    times: dict[str, list[float]] = {"sampled": [], "generated": []}
    for _ in range(ROUNDS):
        for name, call in (("sampled", sampled), ("generated", generated)):
            started = time.process_time()
            call()
            times[name].append(time.process_time() - started)
    return round(min(times["generated"]) / min(times["sampled"]), 3)
