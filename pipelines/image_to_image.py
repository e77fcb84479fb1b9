"""ImageToImagePipeline: pictures from pictures, by instruction, by noise, or inside a mask.

Shapes: N pictures, n tokens of a picture, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mot_gen.errors import InputError
from mot_gen.files.image_files import center_crop_resize, load_image, to_tensor
from mot_gen.pipelines.base import repeat_each
from mot_gen.pipelines.engine import Grid, Guidance, Known
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import ImageOptions, takes
from mot_gen.pipelines.settings import check
from mot_gen.sequence import Span


class ImageToImagePipeline(ImageDrawingPipeline):
    """Draws a new picture from a picture, in one of three ways.

    pipe = ImageToImagePipeline.from_pretrained("runs/digits/model")
    pipe("make it a nine", "seven.png").images                       edited: it is read, then another is drawn
    pipe("a handwritten seven", "seven.png", strength=0.5).images    varied: noise is added and taken off again
    pipe("a seven", "seven.png", mask_image="mask.png").images       inpainted: only the white of the mask changes
    """

    _task = "image_to_image"

    @torch.inference_mode()
    @takes(options=ImageOptions)
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image=None,
        mask_image=None,
        strength: float | None = None,
        condition_on_image: bool | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image_guidance_scale: float | None = None,
        *,
        options: ImageOptions,
    ):
        """`num_images_per_prompt` pictures of each prompt and picture in turn, each of its picture's size.

        prompt: an instruction, or what the picture is of; None for none, and then guidance_scale has nothing to act on.
        image: a picture or a list, a list of one or of as many as there are prompts. mask_image: likewise, of the same
        size as its picture; white is drawn anew, and what is black stays as it is, pixel for pixel. strength: how much
        noise is added, from 0, which changes nothing, to 1; without it the picture is not drawn from (with a mask: 1).
        condition_on_image: whether the picture stands before the prompt; so it does by default where neither a mask
        nor a strength is given. image_guidance_scale: how strongly it then counts (1 = off; BAGEL: 1.5).
        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        if strength is not None:
            check("strength", strength)
        if condition_on_image is None:
            condition_on_image = mask_image is None and strength is None
        image_scale = self._image_scale(image_guidance_scale, condition_on_image)
        how = options.settled(self._own)
        guidance = Guidance.of(how, image_scale)
        if prompt is None and negative_prompt is None:  # nothing to be guided by
            guidance = replace(guidance, scale=1.0)
        begun = self._begun(image, prompt, mask_image, options.num_images_per_prompt)
        before = self._before(begun) if condition_on_image else [[] for _ in begun.spans]
        documents = {
            "conditional": [b + t for b, t in zip(before, begun.texts)],
            "unconditional": [b + n for b, n in zip(before, self._negative(negative_prompt, begun.texts))],
            "without_image": begun.texts,
        }
        grids = [_grid_of(span) for span in begun.spans]
        drawn = self._draw(documents, how, guidance, grids, self._known(begun, strength, how.steps))
        return self._as_output(self._finish(drawn, begun, options.output_type), options)

    def _before(self, begun: Begun) -> list[list[Span]]:
        """What each picture stands as before its prompt."""
        if self.sight_tokenizer is None:
            return [[span] for span in begun.spans]
        return self.seen(begun.pixels, drawn=True)

    def _image_scale(self, given: float | None, conditioned: bool) -> float:
        """How strongly the picture before the prompt counts; InputError where there is none."""
        if conditioned:
            return self._default("image_guidance_scale", given, 1.0)
        if given is not None and given != 1:
            raise InputError("image_guidance_scale needs the picture as a condition; say condition_on_image=True")
        return 1.0

    def _begun(self, image, prompt, mask_image, times: int) -> Begun:
        """What is given, `times` each; InputError for what does not fit together."""
        images, texts = self._pairs(image, prompt)
        images = [load_image(each) if not isinstance(each, Tensor) else each for each in images]
        masks = None if mask_image is None else self._masks(mask_image, images)
        pixels = [self.image_tokenizer.pixels_of(each) for each in images]
        spans = [replace(span, learned=False) for span in self.image_tokenizer.encode_batch(pixels)]
        masks = masks and repeat_each(masks, times)
        return Begun(repeat_each(texts, times), repeat_each(pixels, times), repeat_each(spans, times), masks)

    def _pairs(self, image, prompt) -> tuple[list, list[list[Span]]]:
        """As many pictures as texts; InputError where their numbers differ."""
        images = self._listed(image)
        if image is None or not images:
            raise InputError("image: none was given; give a picture or a list of them (or use TextToImagePipeline)")
        texts = [[] for _ in images] if prompt is None else self._text(prompt)
        if len(texts) != len(images) and 1 not in (len(texts), len(images)):
            raise InputError(f"prompt: {len(texts)} texts were given for {len(images)} pictures")
        count = max(len(texts), len(images))
        return images * (count // len(images)), texts * (count // len(texts))

    def _masks(self, mask_image, images: list) -> list[Tensor]:
        """(1, H, W) bool at its picture's size, True where to draw; InputError for one of another size."""
        masks = self._listed(mask_image)
        if len(masks) not in (1, len(images)):
            raise InputError(f"mask_image: {len(masks)} masks were given for {len(images)} pictures")
        made = []
        for mask, image in zip(masks * (len(images) // len(masks)), images):
            mask, image = load_image(mask, "L"), load_image(image)
            if mask.size != image.size:
                raise InputError(
                    f"mask_image: {mask.height} x {mask.width} for a picture of {image.height} x {image.width}; make "
                    "them one size"
                )
            made.append(to_tensor(center_crop_resize(mask, self.image_tokenizer.size_for(image))) >= 0.5)
        return made

    def _known(self, begun: Begun, strength: float | None, steps: int) -> Known | None:
        """What drawing begins from, None for noise alone. A token is kept if no pixel of it is masked."""
        if strength is None and begun.masks is None:
            return None
        if strength and int(steps * strength) < 1:
            raise InputError(f"strength: {strength} of {steps} steps is no step at all; raise either")
        strength, keep = 1.0 if strength is None else strength, None
        values = pad_sequence([span.values for span in begun.spans], batch_first=True)
        if begun.masks is not None:
            pairs = zip(begun.masks, begun.spans)
            keep = pad_sequence([_kept(mask, _grid_of(span)) for mask, span in pairs], True).to(values.device)
            if all(not mask.any() for mask in begun.masks):
                raise InputError("mask_image: is black all over, so that nothing would be drawn; white is drawn anew")
        if values.is_floating_point():
            return Known(values, strength, keep)
        if strength != 1:
            self._only_continuous(strength=strength)
        return Known(values if keep is None else values.masked_fill(~keep, -1))

    def _finish(self, drawn: list[Span], begun: Begun, output_type: str):
        """Pictures as asked for, with the pixels outside of the masks put back."""
        if begun.masks is None or output_type == "latent":
            return self._decode_images(drawn, output_type)
        parts = zip(begun.masks, self.image_tokenizer.decode_batch(drawn), begun.pixels)
        return self._as(
            [torch.where(mask.to(made.device), made, own.to(made.device)) for mask, made, own in parts], output_type
        )


@dataclass
class Begun:
    """What N pictures begin from, an entry each. texts: the prompts' spans. pixels: (C, H, W) as the tokenizer sees
    them. spans: of them. masks: (1, H, W) bool, True where to draw; or None."""

    texts: list[list[Span]]
    pixels: list[Tensor]
    spans: list[Span]
    masks: list[Tensor] | None


def _grid_of(span: Span) -> Grid:
    """A picture's, which has one."""
    assert span.grid is not None
    return span.grid


def _kept(mask: Tensor, grid: Grid) -> Tensor:
    """(1, H, W) -> (n,) bool: the tokens without a masked pixel."""
    cell = (mask.shape[-2] // grid[0], mask.shape[-1] // grid[1])
    return F.max_pool2d(mask.float(), cell).flatten() == 0
