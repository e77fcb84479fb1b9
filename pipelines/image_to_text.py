"""ImageToTextPipeline: captions of pictures, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.options import AnswerOptions, takes
from mot_gen.pipelines.pictures import listed
from mot_gen.pipelines.text_writing import TextWritingPipeline


class ImageToTextPipeline(TextWritingPipeline):
    """Reads a picture, and a prompt where one is given, and writes text until the document ends.

    pipe = ImageToTextPipeline.from_pretrained("runs/digits/model")
    pipe("seven.png").texts
    """

    @torch.inference_mode()
    @takes(options=AnswerOptions)
    def __call__(self, image, prompt: str | Sequence[str] | None = None, *, options: AnswerOptions):
        """One text per picture. image: a PIL image, path, bytes, (C, H, W) tensor, (H, W, C) array, or a list or batch
        of them, brought to the tokenizer's size that is nearest. prompt: text that follows each picture and is
        continued. Raises InputError for what is no image or does not fit the context."""
        self._needs("image", "image_tokenizer")
        prompts = self._asked(self._media(listed(image), self.image_tokenizer, "image"), prompt, "pictures")
        return self._as_output(self._continued(prompts, options), options)
