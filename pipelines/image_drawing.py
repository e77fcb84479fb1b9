"""What the pipelines that draw pictures share: ImageDrawingPipeline, Picturing.

Shapes: N pictures, n tokens of a picture, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline, repeat_each
from mot_gen.pipelines.engine import Guidance, Known, Rules, Stream, TextSampling, Writer, draw
from mot_gen.pipelines.samplers import Step, evaluations
from mot_gen.sequence import Span


@dataclass
class Picturing:
    """How pictures are drawn: diffusers' arguments under diffusers' names, a generator a picture.

    temperature, top_k, top_p: of pictures that are discrete tokens. callback and inputs: `callback_on_step_end` and its
    tensor inputs.
    """

    num_inference_steps: int
    guidance: Guidance
    generators: list[torch.Generator] | None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    callback: Callable | None = None
    inputs: Sequence[str] = ("latents",)


class ImageDrawingPipeline(MultimodalPipeline):
    """Opens an image span after each document and draws it: by diffusion or flow, or token by token (VQ images)."""

    _callback_tensor_inputs = ("latents", "pred_original_sample")

    def decode_latents(self, latents: Tensor, output_type: str = "pil"):
        """(N, n, C) of a callback -> pictures as `output_type` "pil", "pt" or "np" has them, for previews."""
        grid = self.image_tokenizer.grid
        return self._decode_images([Span("image", values, grid) for values in latents], output_type)

    def _guidance(self, prompted: bool, **given) -> Guidance:
        """Guidance by what was given or the checkpoint recommends; off where there is nothing to be guided by."""
        fields = {
            "scale": self._default("guidance_scale", given["guidance_scale"], 3.0),
            "image_scale": self._default("image_guidance_scale", given.get("image_guidance_scale"), 1.0),
            "interval": self._default("guidance_interval", given["guidance_interval"], (0.0, 1.0)),
            "rescale": self._default("guidance_rescale", given["guidance_rescale"], 0.0),
        }
        checked = Guidance(**fields)
        return checked if prompted else Guidance(**fields | {"scale": 1.0})

    def _draw(
        self,
        documents: Mapping[str, list[list[Span]]],
        how: Picturing,
        latents: Tensor | None = None,
        known: Known | None = None,
    ) -> list[Span]:
        """One picture after each document: documents by the branches of guidance, N each. InputError, before any work,
        for what does not fit. latents: the noise to begin with; known: what is drawn from, see `drawing.Known`."""
        steps, modality = how.num_inference_steps, self.model.modalities[self.model.index_of["image"]]
        shown = self._callback_tensor_inputs[: 1 if modality.discrete else 2]
        for name in how.inputs:
            if name not in shown:
                raise InputError(f"callback_on_step_end_tensor_inputs: {name!r} is not one of {', '.join(shown)} here")
        drawing = self._drawing(steps, how.guidance, how.generators)
        branches = how.guidance.branches
        rows = [document for branch in branches for document in documents[branch]]
        grid = drawing.grids["image"]
        tokens, samples = grid[0] * grid[1], len(documents[branches[0]])
        self._check_context(rows, tokens + 2)  # with its begin and end token
        strength = 1.0 if known is None else known.strength
        total = tokens if modality.discrete else evaluations(self.scheduler, steps, strength)
        with self.progress_bar(total=total) as bar:
            if modality.discrete:
                self._only_continuous(latents=latents, **_guided_in_time(how.guidance))
                sampling = TextSampling(tokens, how.temperature, how.top_k, how.top_p)
                stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
                rules = Rules(order=["image"], room=tokens + 1, known=None if known is None else known.values)
                on_token = _Shown(self, how, bar, samples)
                return [spans[0] for spans in Writer(stream, samples, sampling, drawing, rules, on_token).run()]
            self._check_latents(latents, (samples, tokens, modality.channels))
            drawing.on_step = self._on_step(how, bar)
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            alive = torch.ones(len(rows), dtype=torch.bool, device=stream.device)
            values = draw(stream.open("image", [grid] * len(rows), alive), drawing, latents, known)
        return [Span("image", v, grid) for v in values]

    def _only_continuous(self, **given) -> None:
        """InputError where something was given that only diffusion and flow know."""
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: this checkpoint's pictures are discrete tokens, for which it has no meaning")

    @staticmethod
    def _check_latents(latents: Tensor | None, shape: tuple[int, int, int]) -> None:
        if latents is not None and tuple(latents.shape) != shape:
            raise InputError(f"latents must be of shape {shape}, got {tuple(latents.shape)}")

    def _on_step(self, how: Picturing, bar=None):
        """diffusers' callback_on_step_end(pipe, step, timestep, {"latents": x}) -> dict, as the engine's on_step."""

        def on_step(step: Step) -> Tensor:
            if bar is not None:
                bar.update()
            if how.callback is None:
                return step.x
            made = {"latents": lambda: step.x, "pred_original_sample": step.clean}
            given = {name: made[name]() for name in how.inputs}
            return (how.callback(self, step.number, step.timestep, given) or {}).get("latents", step.x)

        return on_step

    def _negative(self, negative_prompt, prompts: list[list[Span]]) -> list[list[Span]]:
        """A negative document for each prompt: empty ones where nothing was said."""
        if negative_prompt is None:
            return [[] for _ in prompts]
        negatives = self._text(negative_prompt, "negative_prompt")
        if len(prompts) % len(negatives):
            raise InputError(f"negative_prompt: {len(negatives)} texts were given for {len(prompts)} images")
        return repeat_each(negatives, len(prompts) // len(negatives))


def _guided_in_time(guidance: Guidance) -> dict:
    """The parts of guidance that only pictures drawn in steps have, where they were asked for."""
    interval = None if tuple(guidance.interval) == (0, 1) else guidance.interval
    return {"guidance_interval": interval, "guidance_rescale": guidance.rescale or None}


class _Shown:
    """Shows discrete pictures token by token, as a Writer's on_token: callback_on_step_end with (N, tokens so far)."""

    def __init__(self, pipe: MultimodalPipeline, how: Picturing, bar, samples: int):
        self.pipe, self.how, self.bar, self.written = pipe, how, bar, [[] for _ in range(samples)]

    def __call__(self, number: int, modality: str, token: int) -> None:
        self.written[number].append(token)
        if number < len(self.written) - 1:
            return
        self.bar.update()
        if self.how.callback is not None:
            step = len(self.written[0]) - 1
            given = {"latents": torch.tensor(self.written)} if "latents" in self.how.inputs else {}
            self.how.callback(self.pipe, step, torch.tensor(step), given)
