"""What the pipelines that draw pictures share: ImageDrawingPipeline.

Shapes: N pictures, n tokens of a picture (of the longest, where sizes differ), C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.engine import Drawing, Grid, Guidance, Known, Rules, Stream, TextSampling, Writer, draw
from mot_gen.pipelines.masked import OpenTokens, Pass, draw_masked
from mot_gen.pipelines.options import StepOptions
from mot_gen.pipelines.samplers import Step, evaluations
from mot_gen.pipelines.scales import OpenScales, Scale, draw_scales
from mot_gen.pipelines.settings import USUAL
from mot_gen.sequence import Span


class ImageDrawingPipeline(MultimodalPipeline):
    """Opens an image span after each document and draws it: by diffusion or flow, or token by token (VQ images)."""

    _writes = "image"
    _callback_tensor_inputs = ("latents", "pred_original_sample")
    _without_text = ", or guidance_scale=0 for a picture of nothing in particular"
    _grids: Sequence[Grid] = ()  # of the pictures that are being drawn

    def decode_latents(self, latents: Tensor, output_type: str = "pil"):
        """(N, n, C) of a callback -> pictures as `output_type` "pil", "pt" or "np" has them, for previews."""
        usual = next(iter(self.image_tokenizer.grids.values()))
        grids = self._grids if len(self._grids) == len(latents) else [usual] * len(latents)
        return self._decode_images(_spans(latents, grids), output_type)

    def _grid(self, height: int | None, width: int | None) -> Grid:
        """The grid of pictures of a size, of which one side may be left open; InputError for one that is not drawn."""
        grid = self.image_tokenizer.drawn_grid(height, width)
        if grid is not None:
            return grid
        asked = " x ".join("any" if side is None else str(side) for side in (height, width))
        raise InputError(f"height, width: this model draws {self.image_tokenizer.sizes}, got {asked}")

    def _sampling(self, options: StepOptions, tokens: int) -> TextSampling:
        """How the tokens of discrete pictures are chosen, where `options` or else the checkpoint says so."""
        usual = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        chosen = {n: self._default(f"image_{n}", getattr(options, n, None), value) for n, value in usual.items()}
        return TextSampling(tokens, **chosen)

    def _draw(
        self,
        documents: Mapping[str, list[list[Span]]],
        how: StepOptions,
        guidance: Guidance,
        grids: Sequence[Grid],
        known: Known | None = None,
    ) -> list[Span]:
        """One picture after each document: documents by the branches of guidance, N each. InputError, before any work,
        for what does not fit. how: settled. known: what is drawn from, see `drawing.Known`."""
        modality = self.model.modalities[self.model.index_of["image"]]
        shown = self._callback_tensor_inputs[: 1 if modality.discrete else 2]
        for name in how.callback_on_step_end_tensor_inputs:
            if name not in shown:
                raise InputError(f"callback_on_step_end_tensor_inputs: {name!r} is not one of {', '.join(shown)} here")
        rows = [document for branch in guidance.branches for document in documents[branch]]
        self._check_context(rows, _longest(grids) + modality.framed(grids[0]) + 2)  # with its begin and end token
        self._grids = grids
        drawing = self._drawing(how, guidance, len(grids))
        if not modality.discrete:
            return self._draw_latents(rows, drawing, how, known)
        self._only_continuous(latents=getattr(how, "latents", None), **_guided_in_time(guidance))
        if modality.scales:
            return self._draw_scales(rows, drawing, how, known)
        draw_tokens = self._draw_masked if modality.bidirectional else self._draw_ids
        return draw_tokens(rows, drawing, how, known)

    def _draw_ids(self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: Known | None) -> list[Span]:
        """Pictures of discrete tokens, one grid for all."""
        grid, samples = self._grids[0], len(self._grids)
        tokens = grid[0] * grid[1]
        drawing.grids["image"] = grid
        room = tokens + self.model.modalities[self.model.index_of["image"]].framed(grid)
        rules = Rules(order=["image"], room=room + 1, known=None if known is None else known.values)
        with self.progress_bar(total=tokens) as bar:
            stream = Stream(self.model, rows, room, opens=["image"] * len(rows))
            on_token = _Shown(self, how, bar, samples)
            written = Writer(stream, samples, self._sampling(how, tokens), drawing, rules, on_token).run()
        return [_filled(spans, grid) for spans in written]

    def _draw_masked(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: Known | None
    ) -> list[Span]:
        """Pictures of masked tokens, all tokens of a picture in a few passes; one grid for all."""
        tokens = _longest(self._grids)
        with self.progress_bar(total=min(drawing.num_inference_steps, tokens)) as bar:
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            alive = torch.ones(len(rows), dtype=torch.bool, device=stream.device)
            span = OpenTokens(stream, "image", [*self._grids] * len(drawing.guidance.branches), alive)
            given = None if known is None else known.values
            ids = draw_masked(span, drawing, self._sampling(how, tokens), given, self._on_pass(how, bar))
            return _spans(ids, self._grids)

    def _draw_scales(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: Known | None
    ) -> list[Span]:
        """Pictures of several scales, a pass for each."""
        if known is not None:
            raise InputError("mask_image: this checkpoint's pictures are drawn scale by scale, and only as a whole")
        tokens, passes = _longest(self._grids), len(self.model.modalities[self.model.index_of["image"]].scales)
        if how.steps not in (passes, self._own.get("num_inference_steps", USUAL["num_inference_steps"])):
            raise InputError(
                f"num_inference_steps: this checkpoint draws {passes} scales in as many passes, got {how.steps}"
            )
        with self.progress_bar(total=passes) as bar:
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            alive = torch.ones(len(rows), dtype=torch.bool, device=stream.device)
            span = OpenScales(stream, "image", alive)
            ids = draw_scales(span, drawing, self._sampling(how, tokens), self._on_pass(how, bar))
            return _spans(ids, self._grids)

    def _draw_latents(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: Known | None
    ) -> list[Span]:
        """Pictures of continuous tokens, by the scheduler."""
        tokens, noise = _longest(self._grids), getattr(how, "latents", None)
        channels = self.model.modalities[self.model.index_of["image"]].channels
        assert channels is not None  # continuous tokens have them
        self._check_latents(noise, (len(self._grids), tokens, channels))
        strength = 1.0 if known is None else known.strength
        with self.progress_bar(total=evaluations(self.scheduler, drawing.num_inference_steps, strength)) as bar:
            drawing.on_step = self._on_step(how, bar)
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            if self._default("unconditional", None, None) == "hidden":
                stream.stand_as(len(self._grids))
            alive = torch.ones(len(rows), dtype=torch.bool, device=stream.device)
            span = stream.open("image", [*self._grids] * len(drawing.guidance.branches), alive)
            return _spans(draw(span, drawing, noise, known), self._grids)

    def _only_continuous(self, **given) -> None:
        """InputError where something was given that only diffusion and flow know."""
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: this checkpoint's pictures are discrete tokens, for which it has no meaning")

    @staticmethod
    def _check_latents(latents: Tensor | None, shape: tuple[int, int, int]) -> None:
        if latents is None:
            return
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise InputError(f"latents must be a tensor of floats, got {getattr(latents, 'dtype', type(latents))}")
        if tuple(latents.shape) != shape:
            raise InputError(f"latents must be of shape {shape}, got {tuple(latents.shape)}")
        if not latents.isfinite().all():
            raise InputError("latents hold NaN or infinity; draw them with torch.randn")

    def _as_output(self, images, options: StepOptions):
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if options.return_dict else (images,)

    def _on_pass(self, how: StepOptions, bar) -> Callable[[Pass | Scale], None]:
        """callback_on_step_end with the ids (N, n) so far, -1 where they are masked, 0 in scales to come."""

        def on_pass(done: Pass | Scale) -> None:
            bar.update()
            if how.callback_on_step_end is not None:
                given = dict.fromkeys(how.callback_on_step_end_tensor_inputs, done.ids)
                how.callback_on_step_end(self, done.number, torch.tensor(done.number), given)

        return on_pass

    def _on_step(self, how: StepOptions, bar=None):
        """diffusers' callback_on_step_end(pipe, step, timestep, {"latents": x}) -> dict, as the engine's on_step."""

        def on_step(step: Step) -> Tensor:
            if bar is not None:
                bar.update()
            if how.callback_on_step_end is None:
                return step.x
            made: dict[str, Any] = {"latents": lambda: step.x, "pred_original_sample": step.clean}
            given = {name: made[name]() for name in how.callback_on_step_end_tensor_inputs}
            return (how.callback_on_step_end(self, step.number, step.timestep, given) or {}).get("latents", step.x)

        return on_step


def _longest(grids: Sequence[Grid]) -> int:
    """Tokens of the largest picture."""
    return max(rows * columns for rows, columns in grids)


def _spans(values: Tensor | Sequence[Tensor], grids: Sequence[Grid]) -> list[Span]:
    """(n, C) of each picture, padded where others are longer, -> spans."""
    return [Span("image", v[: rows * columns], (rows, columns)) for v, (rows, columns) in zip(values, grids)]


def _filled(spans: list[Span], grid: Grid) -> Span:
    """The picture that was written. If it was interrupted, the tokens that are missing have the id 0."""
    written = spans[0].values if spans else torch.zeros(0, dtype=torch.long)
    missing = grid[0] * grid[1] - len(written)
    return Span("image", torch.nn.functional.pad(written, (0, missing)), grid) if missing else spans[0]


def _guided_in_time(guidance: Guidance) -> dict:
    """The parts of guidance that only pictures drawn in steps have, where they were asked for."""
    interval = None if tuple(guidance.interval) == (0, 1) else guidance.interval
    return {"guidance_interval": interval, "guidance_rescale": guidance.rescale or None}


class _Shown:
    """Shows discrete pictures token by token, as a Writer's on_token: callback_on_step_end with (N, tokens so far)."""

    def __init__(self, pipe: MultimodalPipeline, how: StepOptions, bar, samples: int):
        self.pipe, self.how, self.bar = pipe, how, bar
        self.written: list[list[int]] = [[] for _ in range(samples)]

    def __call__(self, number: int, modality: str, token: int) -> None:
        self.written[number].append(token)
        if number < len(self.written) - 1:
            return
        self.bar.update()
        if self.how.callback_on_step_end is not None:
            step = len(self.written[0]) - 1
            given = {name: torch.tensor(self.written) for name in self.how.callback_on_step_end_tensor_inputs}
            self.how.callback_on_step_end(self.pipe, step, torch.tensor(step), given)
