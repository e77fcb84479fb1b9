"""ImageToImagePipeline: pictures from pictures, by instruction, by noise, or inside a mask.

Shapes: N pictures, n tokens of a picture, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.light_diffusers import ImagePipelineOutput
from mot_gen.pipelines.base import repeat_each, row_generators
from mot_gen.pipelines.engine import Known
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline, Picturing
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_base import size_pair
from mot_gen.tokenizers.image_files import center_crop_resize, image_tensor, load_image, to_tensor


class ImageToImagePipeline(ImageDrawingPipeline):
    """Draws a new picture from a picture, in one of three ways.

    pipe = ImageToImagePipeline.from_pretrained("runs/digits/model")
    pipe("make it a nine", "seven.png").images                       edited: it is read, then another is drawn
    pipe("a handwritten seven", "seven.png", strength=0.5).images    varied: noise is added and taken off again
    pipe("a seven", "seven.png", mask_image="mask.png").images       inpainted: only the white of the mask changes
    """

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image=None,
        mask_image=None,
        strength: float | None = None,
        condition_on_image: bool | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
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
        """`num_images_per_prompt` pictures of each prompt and picture in turn; the others as in TextToImagePipeline.

        prompt: an instruction, or what the picture is of; None for none, and then guidance_scale has nothing to act on.
        image: a picture or a list, a list of one or of as many as there are prompts. mask_image: likewise, of the same
        size as its picture; white is drawn anew, and what is black stays as it is, pixel for pixel. strength: how much
        noise is added, from 0, which changes nothing, to 1; without it the picture is not drawn from (with a mask: 1).
        condition_on_image: whether the picture stands before the prompt; so it does by default where neither a mask
        nor a strength is given. image_guidance_scale: how strongly it then counts (1 = off; BAGEL: 1.5).
        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        self._check_output_type(output_type)
        _check_strength(strength)
        if condition_on_image is None:
            condition_on_image = mask_image is None and strength is None
        guidance = self._guidance(
            prompt is not None or negative_prompt is not None,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale
            if condition_on_image or image_guidance_scale is not None
            else 1.0,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
        )
        if guidance.image_scale != 1 and not condition_on_image:
            raise InputError("image_guidance_scale needs the picture as a condition; say condition_on_image=True")
        images, texts = self._pairs(image, prompt)
        masks = None if mask_image is None else self._masks(mask_image, images)
        steps = self._default("num_inference_steps", num_inference_steps, 50)
        if strength and int(steps * strength) < 1:
            raise InputError(f"strength: {strength} of {steps} steps is no step at all; raise either")
        images, texts = (repeat_each(items, num_images_per_prompt) for items in (images, texts))
        masks = None if masks is None else masks.repeat_interleave(num_images_per_prompt, 0)
        pixels = torch.stack([self._pixels(picture) for picture in images])
        spans = [
            Span("image", s.values, s.grid, learned=False) for s in self.image_tokenizer.encode_batch(list(pixels))
        ]
        before = [[span] if condition_on_image else [] for span in spans]
        documents = {
            "conditional": [b + t for b, t in zip(before, texts)],
            "unconditional": [b + t for b, t in zip(before, self._negative(negative_prompt, texts))],
            "without_image": texts,
        }
        how = Picturing(
            steps,
            guidance,
            row_generators(generator, len(images)),
            self._default("image_temperature", temperature, 1.0),
            self._default("image_top_k", top_k, 0),
            self._default("image_top_p", top_p, 1.0),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        known = None
        if strength is not None or masks is not None:
            known = self._known(torch.stack([span.values for span in spans]), strength, masks)
        drawn = self._draw(documents, how, latents, known)
        made = self._finish(drawn, pixels, masks, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=made) if return_dict else (made,)

    def _pairs(self, image, prompt) -> tuple[list, list[list[Span]]]:
        """As many pictures as texts; InputError where their numbers differ."""
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        if image is None or not images:
            raise InputError("image: none was given; give a picture or a list of them (or use TextToImagePipeline)")
        texts = [[] for _ in images] if prompt is None else self._text(prompt)
        if len(texts) != len(images) and 1 not in (len(texts), len(images)):
            raise InputError(f"prompt: {len(texts)} texts were given for {len(images)} pictures")
        count = max(len(texts), len(images))
        return images * (count // len(images)), texts * (count // len(texts))

    def _pixels(self, image) -> Tensor:
        """A picture as the tokenizer sees it, (C, H, W) in [0, 1]."""
        return image_tensor(
            image, size_pair(self.image_tokenizer.config.image_size), self.image_tokenizer.color_channels
        )

    def _masks(self, mask_image, images: list) -> Tensor:
        """(N, 1, H, W) bool at the tokenizer's size, True where to draw; InputError for one of another size."""
        masks = list(mask_image) if isinstance(mask_image, (list, tuple)) else [mask_image]
        if len(masks) not in (1, len(images)):
            raise InputError(f"mask_image: {len(masks)} masks were given for {len(images)} pictures")
        made, size = [], size_pair(self.image_tokenizer.config.image_size)
        for mask, image in zip(masks * (len(images) // len(masks)), images):
            mask, (width, height) = load_image(mask, "L"), load_image(image).size
            if mask.size != (width, height):
                raise InputError(
                    f"mask_image: {mask.height} x {mask.width} for a picture of {height} x {width}; make them one size"
                )
            made.append(to_tensor(center_crop_resize(mask, size)) >= 0.5)
        return torch.stack(made)

    def _known(self, values: Tensor, strength: float | None, masks: Tensor | None) -> Known:
        """What drawing begins from. A token is kept if no pixel of it is masked."""
        strength, keep = 1.0 if strength is None else strength, None
        discrete = not values.is_floating_point()
        if discrete and strength != 1:
            self._only_continuous(strength=strength)
        if masks is not None:
            rows, columns = self.image_tokenizer.grid
            cell = (masks.shape[-2] // rows, masks.shape[-1] // columns)
            keep = (F.max_pool2d(masks.float(), cell) == 0).flatten(1).to(values.device)
            if keep.all():
                raise InputError("mask_image: is black all over, so that nothing would be drawn; white is drawn anew")
        if discrete:
            return Known(values if keep is None else values.masked_fill(~keep, -1))
        return Known(values, strength, keep)

    def _finish(self, drawn: list[Span], pixels: Tensor, masks: Tensor | None, output_type: str):
        """Pictures as asked for, with the pixels outside of the masks put back."""
        if masks is None or output_type == "latent":
            return self._decode_images(drawn, output_type)
        made = self._decode_images(drawn, "pt")
        return self._as(list(torch.where(masks.to(made.device), made, pixels.to(made.device))), output_type)


def _check_strength(strength) -> None:
    if strength is None:
        return
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise InputError(f"strength must be a number from 0 (nothing changes) to 1, got {strength!r}")
