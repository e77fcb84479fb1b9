"""A checkpoint in memory: Loaded, with a pipeline for each direction that it has; load_pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mot_gen.checkpoints import find
from mot_gen.checkpoints.storage import DTYPES, check_storage
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.directions import Direction, directions_of
from mot_gen.pipelines.pretrained import tokenizers_of


def load_pipeline(
    cls: type[MultimodalPipeline], checkpoint: str | Path, dtype: str = "fp32", weights: str = "memory"
) -> MultimodalPipeline:
    """A pipeline of the checkpoint, on the GPU if there is one.

    dtype: one of `checkpoints.storage.DTYPES`; "fp16" is half storage on a CPU, where fp32 is computed.
    weights: how they are held, see `held_model`; if not in memory, they compute on the CPU.
    InputError, which names the folder, where its files cannot be read.
    """
    from diffusers.utils import logging

    folder = find(checkpoint)
    check_storage(weights, dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    in_half = dtype == "fp16" and device == "cpu"
    logging.disable_progress_bar()  # of the components, four lines that would stand before the result
    wanted = getattr(torch, DTYPES["fp32" if in_half else dtype])
    pipe = cls.from_pretrained(folder, local_files_only=True, dtype=wanted, weights=weights)
    pipe.set_progress_bar_config(disable=True)
    if weights != "memory":
        return pipe
    if in_half:
        pipe.model.enable_half_storage()
    return pipe.to(device)


class Loaded:
    """One model and its tokenizers, and every pipeline over them."""

    def __init__(self, checkpoint: str | Path, dtype: str = "fp32", compiled: bool = False, weights: str = "memory"):
        self.base = load_pipeline(MultimodalPipeline, checkpoint, dtype, weights)
        if compiled:
            self.base.model.compile_repeated_blocks()
        self._pipelines: dict[str, MultimodalPipeline] = {}

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions whose modalities the checkpoint has."""
        pictures = getattr(self.base.image_tokenizer, "decodes", True)
        return directions_of(tokenizers_of(self.base), draws=pictures)

    def pipeline(self, direction: Direction) -> MultimodalPipeline:
        """The direction's pipeline over the components in memory."""
        if direction.pipeline not in self._pipelines:
            pipe = direction.pipeline_class()(**self.base.components)
            pipe.set_progress_bar_config(disable=True)
            self._pipelines[direction.pipeline] = pipe
        return self._pipelines[direction.pipeline]

    def run(
        self, direction: Direction, inputs: Sequence[Mapping[str, str]], seeds: Sequence[int], options: Mapping, **more
    ) -> list:
        """A result for each of the inputs, all of the same kinds; each has its own seed, so that none depends on the
        others. more: arguments for the pipeline as it has them."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        arguments = direction.gather(inputs) | direction.prepare(options) | more
        pipe: Any = self.pipeline(direction)  # whose class has a call; the base has none
        output = pipe(**arguments, generator=generators)
        results = list(getattr(output, direction.result))
        rate = getattr(output, "sampling_rate", None)
        if rate is None:
            return results
        return [(samples, rate) for samples in results]
