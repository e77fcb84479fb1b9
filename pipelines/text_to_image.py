"""TextToImagePipeline: pictures from captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.light_diffusers import ImagePipelineOutput
from mot_gen.pipelines.base import repeat_each, row_generators
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline, Picturing
from mot_gen.tokenizers.image_base import size_pair


class TextToImagePipeline(ImageDrawingPipeline):
    """Reads a prompt and draws a picture of it.

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
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ):
        """Pictures of each prompt in turn, `num_images_per_prompt` each.

        negative_prompt: what guidance leads away from; nothing by default. height, width: only the size that the image
        tokenizer was made for. num_inference_steps, guidance_scale (1 is conditional, 0 unconditional),
        guidance_interval (times from 0, clean, to 1, noise) and guidance_rescale, see `guidance.Guidance`: by default
        what the checkpoint recommends, else 50, 3, all times and 0. generator: one or a list of one per image; an image
        does not depend on its batch. latents: (images, n, C) noise to begin with. temperature, top_k, top_p: of images
        that are discrete tokens; by default what the checkpoint recommends, else 1 and every token. output_type: "pil",
        "pt" (N, C, H, W) in [0, 1], "np" (N, H, W, C) or "latent" (N, n, C). callback_on_step_end(pipe, step, timestep,
        given): given has the tensor inputs that were named, of "latents" and "pred_original_sample", (N, n, C); what it
        returns as {"latents": x} is gone on with. The latter is the picture as it is expected to become:
        `decode_latents` shows it.
        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        self._check_output_type(output_type)
        self._check_size(height, width)
        guidance = self._guidance(
            True,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
        )
        prompts = repeat_each(self._text(prompt), num_images_per_prompt)
        documents = {"conditional": prompts, "unconditional": self._negative(negative_prompt, prompts)}
        how = Picturing(
            self._default("num_inference_steps", num_inference_steps, 50),
            guidance,
            row_generators(generator, len(prompts)),
            self._default("image_temperature", temperature, 1.0),
            self._default("image_top_k", top_k, 0),
            self._default("image_top_p", top_p, 1.0),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        images = self._decode_images(self._draw(documents, how, latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_size(self, height: int | None, width: int | None) -> None:
        own = size_pair(self.image_tokenizer.config.image_size)
        if (height or own[0], width or own[1]) != own:
            raise InputError(f"height, width: this model draws {own[0]} x {own[1]}, got {height} x {width}")
