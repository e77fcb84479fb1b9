"""TextToImagePipeline: pictures from captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.base import repeat_each
from mot_gen.pipelines.engine import Guidance
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import ImageOptions, takes


class TextToImagePipeline(ImageDrawingPipeline):
    """Reads a prompt and draws a picture of it.

    pipe = TextToImagePipeline.from_pretrained("runs/digits/model")
    pipe("a handwritten seven", num_images_per_prompt=4).images
    """

    @torch.inference_mode()
    @takes(options=ImageOptions)
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        options: ImageOptions,
    ):
        """Draw pictures of each prompt in turn, `num_images_per_prompt` of each.

        prompt: a text, or a list of texts.
        negative_prompt: what guidance leads away from; nothing by default.
        height, width: one of the sizes that the image tokenizer was made for, the first of them by default. One side is
        enough where it tells which.

        Raises InputError, before any work, for what does not fit.
        """
        self._needs("image", "image_tokenizer")
        grid = self._grid(height, width)
        how = options.settled(self._own)
        guidance = Guidance.of(how)
        size = self.image_tokenizer.size_of(grid)
        prompts = repeat_each(self._text(prompt, unread=guidance.scale == 0, size=size), options.num_images_per_prompt)
        if guidance.scale != 0:
            self._warn_of_untaught(prompt)
        documents = {"conditional": prompts, "unconditional": self._negative(negative_prompt, prompts, size=size)}
        drawn = self._draw(documents, how, guidance, [grid] * len(prompts))
        return self._as_output(self._decode_images(drawn, options.output_type), options)
