"""TextGenerationPipeline: text continued as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.options import AnswerOptions, takes
from mot_gen.pipelines.settings import listed_texts
from mot_gen.pipelines.text_writing import TextWritingPipeline


class TextGenerationPipeline(TextWritingPipeline):
    """Continues each prompt until its document ends, or the model would begin a span of another modality.

    pipe = TextGenerationPipeline.from_pretrained("runs/digits/model")
    pipe("a handwritten").texts
    """

    @torch.inference_mode()
    @takes(options=AnswerOptions)
    def __call__(self, prompt: str | Sequence[str], return_full_text: bool = False, *, options: AnswerOptions):
        """Continue each prompt with one text.

        prompt: a text, or a list of texts.
        return_full_text: whether the prompt stands in front of what was written.

        Raises InputError for an empty prompt, or one that does not fit the context.
        """
        texts = self._continued(self._text(prompt), options)
        if return_full_text:
            texts = [before + after for before, after in zip(listed_texts(prompt), texts)]
        return self._as_output(texts, options)
