"""InterleavedPipeline: the model decides when text gives way to a picture, and goes on writing after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.errors import InputError
from mot_gen.packing import document_length
from mot_gen.pipelines.base import InterleavedOutput, MultimodalPipeline, row_generators
from mot_gen.pipelines.engine import Guidance, Rules, Stream, TextSampling, Writer
from mot_gen.sequence import Span


class InterleavedPipeline(MultimodalPipeline):
    """Continues a document of texts and pictures with texts and pictures.

    pipe = InterleavedPipeline.from_pretrained("runs/digits/model")
    pipe(["a handwritten seven"]).documents[0]
    """

    @torch.inference_mode()
    def __call__(
        self,
        prompt: Sequence = (),
        num_samples: int = 1,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        do_sample: bool = False,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Documents of ordered segments, each a str or a picture, without the prompt.

        prompt: the beginning of the document, a list of str and pictures in any order; empty lets the model begin.
        max_new_tokens: of text; by default the checkpoint's, as far as the context has room.
        guidance_scale: of the pictures, against a document without any text; it must be above 0.
        """
        self._check_output_type(output_type)
        num_inference_steps = self._default("num_inference_steps", num_inference_steps, 50)
        guidance_scale = self._default("guidance_scale", guidance_scale, 3.0)
        if not guidance_scale > 0:
            raise InputError(
                f"guidance_scale must be above 0 here, since 0 would ignore the document, got {guidance_scale}"
            )
        prompts = [self._spans(prompt)] * num_samples
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = TextSampling(max_new_tokens, temperature if do_sample else 0.0, top_k, top_p)
        drawing = self._drawing(num_inference_steps, Guidance(guidance_scale), row_generators(generator, num_samples))
        pictures = [m.name for m in self.model.modalities if m.name in drawing.grids]
        guided = len(drawing.guidance.branches) == 2 and bool(pictures)
        rows = prompts + [[]] * num_samples * guided
        opens = [None] * num_samples + pictures[:1] * num_samples * guided
        tokens = max((height * width for height, width in drawing.grids.values()), default=0)
        context = self.model.config.context
        room = (
            context - document_length(prompts[0], self.model.modalities) if context else 4 * (max_new_tokens + tokens)
        )
        stream = Stream(self.model, rows, room + tokens, opens)
        written = Writer(stream, num_samples, sampling, drawing, Rules(may_open=pictures, room=room)).run()
        documents = [self._segments(spans, output_type) for spans in written]
        return InterleavedOutput(documents=documents) if return_dict else (documents,)

    def _spans(self, prompt: Sequence) -> list[Span]:
        if isinstance(prompt, str):
            prompt = [prompt]
        spans: list[Span] = []
        for segment in prompt:
            if isinstance(segment, str):
                spans += self._text([segment])[0]
            else:
                self._needs("image", "image_tokenizer")
                spans.append(self.image_tokenizer.encode(segment))
        return spans

    def _segments(self, spans: Sequence[Span], output_type: str) -> list:
        return [
            self.text_tokenizer.decode(span) if span.modality == "text" else self._decode_images([span], output_type)[0]
            for span in spans
        ]
