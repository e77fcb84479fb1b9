"""TextGenerationPipeline: text continued as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.base import MultimodalPipeline, TextOutput
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
        logits_processor: Sequence = (),
        stop: str | Sequence[str] | None = None,
        streamer=None,
        return_full_text: bool = False,
        return_dict: bool = True,
    ):
        """One text per prompt, with the prompt in front where return_full_text.

        max_new_tokens: by default the checkpoint's, as far as the context has room. do_sample: False is greedy and
        draws no random number. generator: one, or a list of one per text; a text does not depend on its batch.
        logits_processor: a LogitsProcessorList of transformers; `model.vocabulary.document_end` is its end of text.
        stop: a text or texts that end what is written and are not part of it. streamer: a TextStreamer or
        TextIteratorStreamer of transformers over `text_tokenizer`, for one prompt.
        Raises InputError for an empty prompt or one that does not fit the context."""
        prompts = self._text(prompt)
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = self._sampling(max_new_tokens, temperature, top_k, top_p, do_sample, logits_processor)
        texts = write_texts(self, prompts, sampling, generator, stop, streamer)
        if return_full_text:
            given = [prompt] if isinstance(prompt, str) else prompt
            texts = [before + after for before, after in zip(given, texts)]
        return TextOutput(texts=texts) if return_dict else (texts,)
