"""ImageToTextPipeline: captions of pictures, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from mot_gen.errors import require
from mot_gen.pipelines.languages import Languages
from mot_gen.pipelines.options import CaptionOptions, takes
from mot_gen.pipelines.pictures import listed
from mot_gen.pipelines.text_choices import Choices
from mot_gen.pipelines.text_writing import TextWritingPipeline


class ImageToTextPipeline(TextWritingPipeline):
    """Reads a picture, and a prompt where one is given, and writes text until the document ends.

    pipe = ImageToTextPipeline.from_pretrained("runs/digits/model")
    pipe("seven.png").texts
    """

    @torch.inference_mode()
    @takes(options=CaptionOptions)
    def __call__(self, image, prompt: str | Sequence[str] | None = None, *, options: CaptionOptions):
        """One text per picture. image: a PIL image, path, bytes, (C, H, W) tensor, (H, W, C) array, or a list or batch
        of them, brought to the tokenizer's size that is nearest. prompt: text that follows each picture and is
        continued. Raises InputError for what is no image or does not fit the context."""
        self._needs("image", "image_tokenizer")
        choices = self._captions(prompt is not None, options)
        prompts = self._asked(self._media(listed(image), self.image_tokenizer, "image"), prompt, "pictures")
        return self._as_output(self._continued(prompts, options, choices), options)

    @cached_property
    def languages(self) -> Languages:
        """Those in which the checkpoint captions pictures."""
        return Languages.of_file(self.model.answers)

    def _captions(self, prompted: bool, options: CaptionOptions) -> Choices | None:
        """The captions of the language that is wanted; None where the model is free in what it writes."""
        free = prompted or not options.plain
        if free and options.language is None:
            return None
        language = self.languages.wanted(options.language)
        if language is None:
            return None
        require(not prompted, "language: a prompt is continued in its own words; leave one of the two out")
        return self.languages.choices(language, self.text_tokenizer, self.model.vocabulary.document_end)
