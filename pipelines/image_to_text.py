"""ImageToTextPipeline: captions of pictures, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mot_gen.errors import require
from mot_gen.pipelines.captions.text_choices import Choices
from mot_gen.pipelines.options import CaptionOptions, takes
from mot_gen.pipelines.pictures import as_list
from mot_gen.pipelines.text_writing import TextWritingPipeline
from mot_gen.sequence import Span

_OWN_WORDS = "language: a prompt is continued in its own words; leave one of the two out"


class ImageToTextPipeline(TextWritingPipeline):
    """Reads a picture, and a prompt where one is given, and writes text until the document ends.

    pipe = ImageToTextPipeline.from_pretrained("runs/digits/model")
    pipe("seven.png").texts
    """

    @torch.inference_mode()
    @takes(options=CaptionOptions)
    def __call__(self, image, prompt: str | Sequence[str] | None = None, *, options: CaptionOptions):
        """Write one text for each picture.

        image: a PIL image, path, bytes, (C, H, W) tensor, (H, W, C) array, or a list or batch of them. Each is brought
        to the nearest size of the tokenizer.
        prompt: text that follows each picture and is continued; or a question that the checkpoint lists, which is
        answered in its language.

        Raises InputError for what is no image, or does not fit the context.
        """
        self._needs("image", "image_tokenizer")
        asked = self.languages.asked_by(prompt)
        prompt = None if asked else prompt
        language = self._language(asked, prompt is not None, options)
        pictures = self._media(as_list(image), self.image_tokenizer, "image")
        pictures = self._questioned(pictures, self.languages.question(asked or language))
        prompts = self._asked(pictures, prompt, "pictures")
        return self._as_output(self._continued(prompts, options, self._captions(language)), options)

    def _language(self, asked: str | None, prompted: bool, options: CaptionOptions) -> str | None:
        """The language whose captions are chosen from; None where the model is free in what it writes. asked: the one
        of the question that was given."""
        free = prompted or not options.plain
        if free and options.language is None:
            return None
        language = self.languages.wanted(options.language or asked)
        require(language is None or not prompted, _OWN_WORDS)
        agrees = language is None or asked in (None, language)
        require(agrees, f"language: the question asks in {asked!r}, got {options.language!r}")
        return language

    def _captions(self, language: str | None) -> Choices | None:
        """All captions of a language."""
        if language is None:
            return None
        return self.languages.choices(language, self.text_tokenizer, self.model.vocabulary.document_end)

    def _questioned(self, pictures: list[list[Span]], question: str | None) -> list[list[Span]]:
        """Each picture after the question."""
        if question is None:
            return pictures
        span = replace(self.text_tokenizer.encode(question), learned=False)
        return [[span, *picture] for picture in pictures]
