"""TextGenerationPipeline: text continued as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.base import MultimodalPipeline, TextOutput
from mot_gen.pipelines.engine import TextSampling
from mot_gen.pipelines.image_to_text import write_texts


class TextGenerationPipeline(MultimodalPipeline):
    """Continues each prompt until its document ends, or the model would begin a span of another modality.

    pipe = TextGenerationPipeline.from_pretrained("runs/digits/model")
    pipe("a handwritten").texts
    """

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        do_sample: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_full_text: bool = False,
        return_dict: bool = True,
    ):
        """One text per prompt, with the prompt in front where return_full_text. do_sample False is greedy and draws no
        random number. Raises InputError for an empty prompt or one that does not fit the context."""
        prompts = self._text(prompt)
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = TextSampling(max_new_tokens, temperature if do_sample else 0.0, top_k, top_p)
        texts = write_texts(self, prompts, sampling, generator)
        if return_full_text:
            given = [prompt] if isinstance(prompt, str) else prompt
            texts = [before + after for before, after in zip(given, texts)]
        return TextOutput(texts=texts) if return_dict else (texts,)
