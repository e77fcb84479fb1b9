"""ImageToTextPipeline: captions of pictures, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline, TextOutput, row_generators
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextSampling, Writer


class ImageToTextPipeline(MultimodalPipeline):
    """Reads a picture, and a prompt where one is given, and writes text until the document ends.

    pipe = ImageToTextPipeline.from_pretrained("runs/digits/model")
    pipe("seven.png").texts
    """

    @torch.inference_mode()
    def __call__(
        self,
        image,
        prompt: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        do_sample: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        logits_processor: Sequence = (),
        stop: str | Sequence[str] | None = None,
        streamer=None,
        return_dict: bool = True,
    ):
        """One text per picture. image: a PIL image, path, bytes or (C, H, W) tensor, or a list of them, brought to the
        tokenizer's size. prompt: text that follows each picture and is continued. The others as in
        TextGenerationPipeline. Raises InputError for what is no image or does not fit the context."""
        self._needs("image", "image_tokenizer")
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        if not images:
            raise InputError("image: the list is empty; give at least one picture")
        prompts = [[span] for span in self.image_tokenizer.encode_batch(images)]
        if prompt is not None:
            texts = self._text(prompt)
            if len(texts) not in (1, len(prompts)):
                raise InputError(f"prompt: {len(texts)} texts were given for {len(prompts)} pictures")
            prompts = [p + t for p, t in zip(prompts, texts * (len(prompts) // len(texts)))]
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = self._sampling(max_new_tokens, temperature, top_k, top_p, do_sample, logits_processor)
        texts = write_texts(self, prompts, sampling, generator, stop, streamer)
        return TextOutput(texts=texts) if return_dict else (texts,)


def write_texts(
    pipe: MultimodalPipeline, prompts, sampling: TextSampling, generator, stop=None, streamer=None
) -> list[str]:
    """Continue each prompt with text alone; what was written, without the prompt and without what stopped it."""
    drawing = Drawing(generators=row_generators(generator, len(prompts)))
    ends, on_token = pipe._stop(stop), pipe._streamed(streamer, prompts)
    stream = Stream(pipe.model, prompts, room=sampling.max_new_tokens)
    written = Writer(stream, len(prompts), sampling, drawing, Rules(stop=ends), on_token).run()
    if streamer is not None:
        streamer.end()
    pipe.maybe_free_model_hooks()
    texts = ["".join(pipe.text_tokenizer.decode(span) for span in spans) for spans in written]
    return texts if ends is None else [ends.cut(text) for text in texts]
