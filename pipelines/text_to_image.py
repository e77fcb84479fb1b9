"""TextToImagePipeline: pictures from captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline, repeat_each, row_generators
from mot_gen.pipelines.engine import Guidance, Rules, Stream, TextSampling, Writer, draw
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_base import size_pair


class TextToImagePipeline(MultimodalPipeline):
    """Reads a prompt, opens an image span and draws it: by diffusion or flow, or token by token (VQ images).

    pipe = TextToImagePipeline.from_pretrained("runs/digits/model")
    pipe("a handwritten seven", num_images_per_prompt=4).images
    """

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ):
        """Pictures of each prompt in turn, `num_images_per_prompt` each.

        negative_prompt: what guidance leads away from; nothing by default. height, width: only the size that the image
        tokenizer was made for. num_inference_steps, guidance_scale (1 is conditional, 0 unconditional): by default what
        the checkpoint recommends, else 50 and 3. generator: one or a list of one per
        image; an image does not depend on its batch. latents: (images, n, C) noise to begin with. output_type: "pil",
        "pt" (N, C, H, W) in [0, 1], "np" (N, H, W, C) or "latent" (N, n, C).
        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        self._check_output_type(output_type)
        self._check_size(height, width)
        num_inference_steps = self._default("num_inference_steps", num_inference_steps, 50)
        guidance_scale = self._default("guidance_scale", guidance_scale, 3.0)
        prompts = repeat_each(self._text(prompt), num_images_per_prompt)
        generators = row_generators(generator, len(prompts))
        with self.progress_bar(total=num_inference_steps) as bar:
            on_step = self._step_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, bar)
            drawing = self._drawing(num_inference_steps, Guidance(guidance_scale), generators, on_step)
            tokens = drawing.grids["image"][0] * drawing.grids["image"][1]
            documents = {"conditional": prompts, "unconditional": self._negative(negative_prompt, prompts)}
            self._check_context([*prompts, *documents["unconditional"]], tokens + 2)  # with its begin and end token
            self._check_latents(latents, (len(prompts), tokens))
            rows = [document for branch in drawing.guidance.branches for document in documents[branch]]
            stream = Stream(self.model, rows, tokens, opens=["image"] * len(rows))
            if self.model.modalities[self.model.index_of["image"]].discrete:
                sampling = TextSampling(tokens, temperature=1.0)
                writer = Writer(stream, len(prompts), sampling, drawing, Rules(order=["image"], room=tokens + 1))
                spans = [document[0] for document in writer.run()]
            else:
                alive = torch.ones(len(rows), dtype=torch.bool, device=stream.device)
                values = draw(stream.open("image", [drawing.grids["image"]] * len(rows), alive), drawing, latents)
                spans = [Span("image", v, drawing.grids["image"]) for v in values]
        images = self._decode_images(spans, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_size(self, height: int | None, width: int | None) -> None:
        own = size_pair(self.image_tokenizer.config.image_size)
        if (height or own[0], width or own[1]) != own:
            raise InputError(f"height, width: this model draws {own[0]} x {own[1]}, got {height} x {width}")

    def _check_latents(self, latents: Tensor | None, images_and_tokens: tuple[int, int]) -> None:
        shape = (*images_and_tokens, self.model.modalities[self.model.index_of["image"]].channels)
        if latents is not None and tuple(latents.shape) != shape:
            raise InputError(f"latents must be of shape {shape}, got {tuple(latents.shape)}")

    def _negative(self, negative_prompt, prompts: list[list[Span]]) -> list[list[Span]]:
        if negative_prompt is None:
            return [[] for _ in prompts]
        negatives = self._text(negative_prompt, "negative_prompt")
        if len(prompts) % len(negatives):
            raise InputError(f"negative_prompt: {len(negatives)} texts were given for {len(prompts)} images")
        return repeat_each(negatives, len(prompts) // len(negatives))
