"""How near to its flow a picture is drawn, by solver and number of evaluations.

The shipped checkpoint draws some names with its own guidance. `distance` is the root-mean-square distance of the
pictures, in [0, 1], to those that Euler's method draws from the same noise in 400 evaluations.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mot_gen.objectives.flow import SOLVERS, Objective
from mot_gen.pipelines.text_to_image import TextToImagePipeline

PROMPTS = ("red apple", "snowman", "small pizza, top left, on green", "rocket, on purple", "sunflower", "dog face")
EVALUATIONS = (5, 8, 10, 15, 20, 40)
EXACT = 400


def run() -> Iterator[dict]:
    """distance, by number of evaluations, of each solver."""
    draw = TextToImagePipeline.from_pretrained("openmoji")
    draw.set_progress_bar_config(disable=True)
    exact = _pictures(draw, EXACT, "euler")
    for solver in SOLVERS:
        distance = {count: _distance(_pictures(draw, count, solver), exact) for count in EVALUATIONS}
        yield {"solver": solver, "distance": distance}


def _pictures(draw: Any, evaluations: int, solver: str) -> Tensor:
    """(N, 3, H, W) in [0, 1], always from the same noise."""
    draw.scheduler = Objective(solver=solver).scheduler()
    noises = [torch.Generator().manual_seed(number) for number in range(len(PROMPTS))]
    made = draw(list(PROMPTS), generator=noises, num_inference_steps=evaluations, output_type="pt")
    return torch.stack(list(made.images))


def _distance(drawn: Tensor, exact: Tensor) -> float:
    return round((drawn - exact).square().mean().sqrt().item(), 4)
