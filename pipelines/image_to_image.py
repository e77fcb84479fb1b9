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

from mot_gen.errors import require
from mot_gen.files.image_files import center_crop_resize, load_image, to_tensor
from mot_gen.pipelines.base import repeat_each
from mot_gen.pipelines.engine import Grid, Guidance, KnownPicture
from mot_gen.pipelines.engine.token_spans import MASKED
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import ImageOptions, takes
from mot_gen.pipelines.pictures import as_list, as_output
from mot_gen.pipelines.settings import check_given
from mot_gen.sequence import Span, only_read


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
        """Draw `num_images_per_prompt` pictures of each prompt and picture in turn, in the size of the picture.

        prompt: an instruction, or what the picture shows. Without one, guidance_scale has no effect.
        image: a picture, or a list of one or of as many as there are prompts.
        mask_image: as image, in the same size. White is drawn anew; black stays as it is, pixel for pixel.
        strength: how much noise is added to the picture, from 0, which changes nothing, to 1. By default drawing begins
        with noise alone (with a mask: 1).
        condition_on_image: whether the model reads the picture before the prompt. By default it does if neither a mask
        nor a strength is given.
        image_guidance_scale: how strongly the picture then counts (1 = off; BAGEL: 1.5).

        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        check_given(strength=strength)
        if condition_on_image is None:
            condition_on_image = mask_image is None and strength is None
        how = options.settled(self._own)
        guidance = Guidance.of(how, self._image_scale(image_guidance_scale, condition_on_image))
        if prompt is None and negative_prompt is None:
            guidance = replace(guidance, scale=1.0)  # there is nothing to be guided by
        begun = self._begun(image, prompt, mask_image, options.num_images_per_prompt)
        if prompt is not None and not condition_on_image:  # else it says what to change
            self._warn_of_untaught(prompt)
        known = self._known(begun, strength, how.steps)
        documents = self._documents(begun, negative_prompt, condition_on_image)
        drawn = self._draw(documents, how, guidance, begun.grids, known)
        return self._as_output(self._finish(drawn, begun, options.output_type), options)

    # ---------------------------------------------------------------- check

    def _image_scale(self, given: float | None, conditioned: bool) -> float:
        """How strongly the picture before the prompt counts; InputError where there is none."""
        if conditioned:
            return self._default("image_guidance_scale", given, 1.0)
        off = given in (None, 1)
        require(off, "image_guidance_scale needs the picture as a condition; say condition_on_image=True")
        return 1.0

    def _pairs(self, image, prompt) -> tuple[list, list[list[Span]]]:
        """Pictures and texts, one for each; InputError where their numbers differ."""
        images = [] if image is None else as_list(image)
        require(images, "image: none was given; give a picture or a list of them (or use TextToImagePipeline)")
        texts = [[]] * len(images) if prompt is None else self._text(prompt)
        few, many = sorted((len(texts), len(images)))
        require(few in (1, many), f"prompt: {len(texts)} texts were given for {len(images)} pictures")
        return images * (many // len(images)), texts * (many // len(texts))

    def _masks(self, mask_image, images: list) -> list[Tensor]:
        """(1, H, W) bool at its picture's size, True where to draw; InputError for one of another size."""
        masks, count = as_list(mask_image), len(images)
        require(len(masks) in (1, count), f"mask_image: {len(masks)} masks were given for {count} pictures")
        return [self._mask(mask, image) for mask, image in zip(masks * (count // len(masks)), images)]

    def _mask(self, mask, image) -> Tensor:
        mask, image = load_image(mask, "L"), load_image(image)
        require(
            mask.size == image.size,
            f"mask_image: {mask.height} x {mask.width} for a picture of {image.height} x {image.width}; make them one "
            "size",
        )
        return to_tensor(center_crop_resize(mask, self.image_tokenizer.size_for(image))) >= 0.5

    # ---------------------------------------------------------------- prepare

    def _begun(self, image, prompt, mask_image, times: int) -> StartingPictures:
        """What is given, `times` each; InputError for what does not fit together."""
        images, texts = self._pairs(image, prompt)
        images = [image if isinstance(image, Tensor) else load_image(image) for image in images]
        masks = None if mask_image is None else repeat_each(self._masks(mask_image, images), times)
        pixels = [self.image_tokenizer.pixels_of(image) for image in images]
        spans = only_read(self.image_tokenizer.encode_batch(pixels))
        return StartingPictures(repeat_each(texts, times), repeat_each(pixels, times), repeat_each(spans, times), masks)

    def _documents(self, begun: StartingPictures, negative_prompt, conditioned: bool) -> dict[str, list[list[Span]]]:
        """What stands before each picture in the branches of guidance. conditioned: whether its beginning does."""
        before: list[list[Span]] = [[]] * len(begun.spans)
        if conditioned:
            latents = [[span] for span in begun.spans]
            before = latents if self.sight_tokenizer is None else self.seen(begun.pixels, drawn=True)
        negatives = self._negative(negative_prompt, begun.texts)
        return {
            "conditional": [image + text for image, text in zip(before, begun.texts)],
            "unconditional": [image + text for image, text in zip(before, negatives)],
            "without_image": begun.texts,
        }

    def _known(self, begun: StartingPictures, strength: float | None, steps: int) -> KnownPicture | None:
        """What drawing begins from, None for noise alone. A token is kept if no pixel of it is masked."""
        if strength is None and begun.masks is None:
            return None
        strength = 1.0 if strength is None else strength
        taken = strength == 0 or int(steps * strength) >= 1
        require(taken, f"strength: {strength} of {steps} steps is no step at all; raise either")
        values = pad_sequence([span.values for span in begun.spans], batch_first=True)
        keep = None if begun.masks is None else begun.kept().to(values.device)
        if values.is_floating_point():
            return KnownPicture(values, strength, keep)
        self._only_continuous(strength=None if strength == 1 else strength)
        if keep is not None:
            values = values.masked_fill(~keep, MASKED)
        return KnownPicture(values)

    # ---------------------------------------------------------------- decode

    def _finish(self, drawn: list[Span], begun: StartingPictures, output_type: str):
        """Pictures as asked for, with the pixels outside of the masks put back."""
        if begun.masks is None or output_type == "latent":
            return self._decode_images(drawn, output_type)
        decoded = self.image_tokenizer.decode_batch(drawn)
        parts = zip(begun.masks, decoded, begun.pixels)
        mended = [torch.where(mask.to(made.device), made, own.to(made.device)) for mask, made, own in parts]
        return as_output(mended, output_type)


@dataclass
class StartingPictures:
    """What N pictures begin from, an entry each.

    texts: the prompts' spans.
    pixels: (C, H, W) as the tokenizer sees them.
    spans: of them.
    masks: (1, H, W) bool, True where to draw; or None.
    """

    texts: list[list[Span]]
    pixels: list[Tensor]
    spans: list[Span]
    masks: list[Tensor] | None

    @property
    def grids(self) -> list[Grid]:
        """Rows and columns of each picture's tokens."""
        return [_grid_of(span) for span in self.spans]

    def kept(self) -> Tensor:
        """(N, n) bool: the tokens without a masked pixel; InputError where nothing is masked."""
        masks = self.masks or []
        drawn = any(mask.any() for mask in masks)
        require(drawn, "mask_image: is black all over, so that nothing would be drawn; white is drawn anew")
        return pad_sequence([_kept(mask, grid) for mask, grid in zip(masks, self.grids)], batch_first=True)


def _grid_of(span: Span) -> Grid:
    """A picture's, which has one."""
    assert span.grid is not None
    return span.grid


def _kept(mask: Tensor, grid: Grid) -> Tensor:
    """(1, H, W) -> (n,) bool: the tokens without a masked pixel."""
    cell = (mask.shape[-2] // grid[0], mask.shape[-1] // grid[1])
    return F.max_pool2d(mask.float(), cell).flatten() == 0
