"""What the pipelines that draw pictures share: ImageDrawingPipeline.

Shapes: N pictures, n tokens of a picture (of the longest, where sizes differ), C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from mot_gen.errors import UntaughtWarning, require
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.engine import Drawing, Grid, Guidance, KnownPicture, Stream, TextSampling, draw
from mot_gen.pipelines.engine.masked import OpenTokens, draw_masked
from mot_gen.pipelines.engine.samplers import Step, evaluations, row_generators
from mot_gen.pipelines.engine.scales import OpenScales, Scale, draw_scales
from mot_gen.pipelines.engine.token_spans import BegunSpan, Pass, draw_tokens
from mot_gen.pipelines.options import StepOptions
from mot_gen.pipelines.pictures import as_output, stack_or_list
from mot_gen.pipelines.settings import USUAL, listed_texts
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

    def _decode_images(self, values: Sequence[Span], output_type: str):
        """Image spans -> what `pictures.as_output` makes of them, or the latents as they are."""
        if output_type == "latent":
            return stack_or_list([span.values for span in values])
        return as_output(self.image_tokenizer.decode_batch(values), output_type)

    # ---------------------------------------------------------------- check, prepare

    def _grid(self, height: int | None, width: int | None) -> Grid:
        """The grid of pictures of a size, of which one side may be left open; InputError for one that is not drawn."""
        return self.image_tokenizer.drawn_grid(height, width)

    def _sampling(self, how: StepOptions, tokens: int) -> TextSampling:
        """How the tokens of discrete pictures are chosen, where `how` or else the checkpoint says so."""

        def setting(name: str, usual: float):
            return self._default(f"image_{name}", getattr(how, name, None), usual)

        return TextSampling(tokens, setting("temperature", 1.0), setting("top_k", 0), setting("top_p", 1.0))

    def _drawing(self, how: StepOptions, guidance: Guidance, samples: int) -> Drawing:
        """How so many images are drawn here; InputError for a scheduler that does not fit. how: settled."""
        self._check_scheduler(how.steps)
        generators, sigmas = row_generators(how.generator, samples), self._own.get("sigmas")
        return Drawing(self.scheduler, how.steps, guidance, generators, sigmas=sigmas, stopped=self._stopped)

    def _check_scheduler(self, steps: int) -> None:
        objective: Any = self.model.objectives.get("image")
        fewest = getattr(objective, "fewest", 1)
        if self.image_tokenizer is not None and hasattr(objective, "fits"):
            known = hasattr(self.scheduler, "config")
            wanted = objective.fits(self.scheduler) if known else "one of diffusers"
            require(not wanted, f"scheduler: {type(self.scheduler).__name__} does not fit this model; use {wanted}")
        require(steps >= fewest, f"num_inference_steps: this checkpoint was trained for at least {fewest}, got {steps}")

    def _check_shown(self, names: Sequence[str], discrete: bool) -> None:
        """InputError for a tensor that a callback cannot be given. discrete: whether pictures are discrete tokens."""
        shown = ("latents",) if discrete else self._callback_tensor_inputs
        for name in names:
            known = name in shown
            require(known, f"callback_on_step_end_tensor_inputs: {name!r} is not one of {', '.join(shown)} here")

    def _only_continuous(self, **given) -> None:
        """InputError where something was given that only diffusion and flow know."""
        for name, value in given.items():
            none = value is None
            require(none, f"{name}: this checkpoint's pictures are discrete tokens, for which it has no meaning")

    def _warn_of_untaught(self, prompt: str | Sequence[str]) -> None:
        """Warn where a prompt names what the checkpoint was never taught, as far as it lists what it was. To be called
        first thing by a pipeline's call, so that the warning points to who called it."""
        warning = self.languages.untaught(listed_texts(prompt))
        if warning is not None:
            warnings.warn(warning, UntaughtWarning, stacklevel=5)  # behind the two decorators of a call

    # ---------------------------------------------------------------- loop

    def _draw(
        self,
        documents: Mapping[str, list[list[Span]]],
        how: StepOptions,
        guidance: Guidance,
        grids: Sequence[Grid],
        known: KnownPicture | None = None,
    ) -> list[Span]:
        """One picture after each document: documents by the branches of guidance, N each. InputError, before any work,
        for what does not fit. how: settled. known: what is drawn from, see `drawing.Known`."""
        modality = self.model.modality["image"]
        self._check_shown(how.callback_on_step_end_tensor_inputs, modality.discrete)
        rows = [document for branch in guidance.branches for document in documents[branch]]
        self._check_context(rows, _longest(grids) + modality.framed(grids[0]) + 2)  # with its begin and end token
        self._grids = grids
        drawing = self._drawing(how, guidance, len(grids))
        if not modality.discrete:
            return self._draw_latents(rows, drawing, how, known)
        self._only_continuous(latents=getattr(how, "latents", None), **_guided_in_time(guidance))
        if modality.scales:
            return self._draw_scales(rows, drawing, how, known)
        if modality.bidirectional:
            return self._draw_masked(rows, drawing, how, known)
        return self._draw_ids(rows, drawing, how, known)

    def _draw_ids(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: KnownPicture | None
    ) -> list[Span]:
        """Pictures of discrete tokens, one grid for all."""
        grid, given = self._grids[0], None if known is None else known.values
        tokens = grid[0] * grid[1]
        room = tokens + self.model.modality["image"].framed(grid)
        sampling = self._sampling(how, tokens)
        with self.progress_bar(total=tokens) as bar:
            stream = Stream(self.model, rows, room, opens=["image"] * len(rows))
            begun, shown = BegunSpan(stream, "image", grid), self._on_pass(how, bar)
            ids = draw_tokens(begun, drawing, sampling, known=given, keep=False, on_pass=shown)
        return _spans(ids, self._grids)

    def _draw_masked(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: KnownPicture | None
    ) -> list[Span]:
        """Pictures of masked tokens, all tokens of a picture in a few passes; one grid for all."""
        tokens = _longest(self._grids)
        with self.progress_bar(total=min(drawing.num_inference_steps, tokens)) as bar:
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            grids = [*self._grids] * len(drawing.guidance.branches)
            span = OpenTokens(stream, "image", grids, [True] * stream.rows)
            given = None if known is None else known.values
            ids = draw_masked(span, drawing, self._sampling(how, tokens), given, self._on_pass(how, bar))
            return _spans(ids, self._grids)

    def _draw_scales(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: KnownPicture | None
    ) -> list[Span]:
        """Pictures of several scales, a pass for each."""
        whole = known is None
        require(whole, "mask_image: this checkpoint's pictures are drawn scale by scale, and only as a whole")
        tokens, passes = _longest(self._grids), len(self.model.modality["image"].scales)
        fits = how.steps in (passes, self._own.get("num_inference_steps", USUAL["num_inference_steps"]))
        require(fits, f"num_inference_steps: this checkpoint draws {passes} scales in as many passes, got {how.steps}")
        with self.progress_bar(total=passes) as bar:
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            span = OpenScales(stream, "image", [True] * stream.rows)
            ids = draw_scales(span, drawing, self._sampling(how, tokens), self._on_pass(how, bar))
            return _spans(ids, self._grids)

    def _draw_latents(
        self, rows: list[list[Span]], drawing: Drawing, how: StepOptions, known: KnownPicture | None
    ) -> list[Span]:
        """Pictures of continuous tokens, by the scheduler."""
        tokens, noise = _longest(self._grids), getattr(how, "latents", None)
        channels = self.model.modality["image"].channels
        assert channels is not None  # continuous tokens have them
        _check_latents(noise, (len(self._grids), tokens, channels))
        strength = 1.0 if known is None else known.strength
        with self.progress_bar(total=evaluations(self.scheduler, drawing.num_inference_steps, strength)) as bar:
            drawing.on_step = self._on_step(how, bar)
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            if self._default("unconditional", None, None) == "hidden":
                stream.stand_as(len(self._grids))
            grids = [*self._grids] * len(drawing.guidance.branches)
            span = stream.open("image", grids, [True] * stream.rows)
            return _spans(draw(span, drawing, noise, known), self._grids)

    def _as_output(self, images, options: StepOptions):
        return self._returned(ImagePipelineOutput(images=images), options.return_dict, "images")

    def _on_pass(self, how: StepOptions, bar) -> Callable[[Pass | Scale], None]:
        """callback_on_step_end with the ids so far, see `token_spans.Pass`; 0 in scales that are still to come."""

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
            changed = how.callback_on_step_end(self, step.number, step.timestep, given) or {}
            return changed.get("latents", step.x)

        return on_step


def _longest(grids: Sequence[Grid]) -> int:
    """Tokens of the largest picture."""
    return max(rows * columns for rows, columns in grids)


def _spans(values: Tensor | Sequence[Tensor], grids: Sequence[Grid]) -> list[Span]:
    """(n, C) of each picture, padded where others are longer, -> spans."""
    return [Span("image", v[: rows * columns], (rows, columns)) for v, (rows, columns) in zip(values, grids)]


def _guided_in_time(guidance: Guidance) -> dict:
    """The parts of guidance that only pictures drawn in steps have, where they were asked for."""
    interval = None if tuple(guidance.interval) == (0, 1) else guidance.interval
    rescale = guidance.rescale or None
    return {"guidance_interval": interval, "guidance_rescale": rescale, "guidance_renorm": guidance.renorm}


def _check_latents(latents: Tensor | None, shape: tuple[int, int, int]) -> None:
    """InputError for noise that is none of this shape."""
    if latents is None:
        return
    floats = isinstance(latents, Tensor) and latents.is_floating_point()
    kind = str(latents.dtype) if isinstance(latents, Tensor) else type(latents).__name__
    require(floats, f"latents must be a tensor of floats, got {kind}")
    require(tuple(latents.shape) == shape, f"latents must be of shape {shape}, got {tuple(latents.shape)}")
    require(latents.isfinite().all(), "latents hold NaN or infinity; draw them with torch.randn")
