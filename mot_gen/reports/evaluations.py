"""How good pictures are, by how many evaluations of the network they are drawn in: by_evaluations, Passes.

An evaluation is a pass of the network. Drawing takes one to read the prompt, then one a step, a scale or a token, as
the objective has it, and perhaps one to write what was drawn into the cache. All of them are counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mot_gen.datasets.task import Task
from mot_gen.eval.images.judge import Judge
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reports.generated import draw
from mot_gen.reports.hooks import pipeline_of
from mot_gen.reports.measure import prompts_of
from mot_gen.training.loop import Run


class Passes:
    """Counts the passes of a network while it is entered: `with Passes(backbone) as passes: ...; passes.count`."""

    def __init__(self, network: nn.Module):
        self.network, self.count = network, 0

    def __enter__(self) -> Passes:
        self._hook = self.network.register_forward_hook(self._passed)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _passed(self, *given: object) -> None:
        self.count += 1


def by_evaluations(run: Run, task: Task, judge: Judge, steps: Sequence[int], count: int) -> list[dict]:
    """For each number of steps: `steps`, `passes` a picture, `class_accuracy` of `n` pictures, and `cpu_seconds` a
    picture, at the recipe's own guidance.

    Numbers that change nothing are left out, as where a picture is drawn token by token; so are those that the model
    cannot draw in.
    """
    pipe = pipeline_of(run, TextToImagePipeline)
    prompts, wanted = prompts_of(task, count)
    found: list[dict] = []
    for number in _possible(pipe.model, steps):
        _, passes, _ = _draw(pipe, prompts[:1], number)
        if found and found[-1]["passes"] == passes:
            continue
        images, _, seconds = _draw(pipe, prompts, number)
        accuracy = (judge.predict(images) == wanted).double().mean().item()
        row = {"steps": number, "passes": passes, "class_accuracy": accuracy, "cpu_seconds": seconds / count}
        found.append(row | {"n": count})
    return found


def _possible(model: MultimodalModel, steps: Sequence[int]) -> list[int]:
    """Those numbers of steps, in order, in which the model can draw pictures. Scale by scale there is one alone, a
    step a scale; an objective may have a least number that it was trained for."""
    scales = model.modality["image"].scales
    if scales:
        return [len(scales)]
    fewest = getattr(model.objectives["image"], "fewest", 1)
    return [number for number in sorted(set(steps)) if number >= fewest]


def _draw(pipe: TextToImagePipeline, prompts: Sequence[str], steps: int) -> tuple[Tensor, int, float]:
    """Pictures (N, C, H, W), the passes of the network, and the CPU seconds."""
    started = time.process_time()
    with Passes(pipe.model.backbone) as passes:
        images = list(draw(pipe, prompts, range(len(prompts)), num_inference_steps=steps, output_type="pt"))
    return torch.stack(images), passes.count, time.process_time() - started
