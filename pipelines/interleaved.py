"""InterleavedPipeline: the model decides when text gives way to a picture, and goes on writing after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mot_gen.errors import InputError, nearest
from mot_gen.packing import document_length
from mot_gen.pipelines.base import InterleavedOutput, repeat_each, row_generators
from mot_gen.pipelines.chat import documents_of, parts_of
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextSampling, Writer
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline, Picturing
from mot_gen.sequence import Span


class InterleavedPipeline(ImageDrawingPipeline):
    """Continues documents of texts and pictures with texts and pictures.

    pipe = InterleavedPipeline.from_pretrained("runs/digits/model")
    pipe(["a handwritten seven"]).documents[0]
    pipe([{"role": "user", "content": [{"type": "image", "image": "seven.png"}]}], max_images=0).documents[0]
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
        max_images: int | None = None,
        modality_order: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        logits_processor: Sequence = (),
        stop: str | Sequence[str] | None = None,
        streamer=None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ):
        """Documents of ordered segments, each a str or a picture, without the prompt; `num_samples` of each prompt.

        prompt: the beginning of a document: a text, a list of texts and pictures in any order, chat messages with typed
        parts (`chat`), or a list of such lists; empty lets the model begin.
        max_new_tokens: of text; by default the checkpoint's, as far as the context has room. max_images: after them the
        model writes text alone. modality_order: what the spans are to be, such as ["text", "image", "text"]; the model
        then decides only how long its texts are. guidance_scale: of the pictures, against a document without any text;
        it must be above 0. stop: texts that end a document, and are not part of it. streamer: of transformers, for one
        document; it is given the text. The others as in TextGenerationPipeline and TextToImagePipeline.
        Raises InputError, before any work, for what does not fit.
        """
        self._check_output_type(output_type)
        if max_images is not None and (not isinstance(max_images, int) or max_images < 0):
            raise InputError(f"max_images must be a whole number of at least 0, got {max_images!r}")
        guidance = self._guidance(
            True,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
        )
        if not guidance.scale > 0:
            raise InputError(
                f"guidance_scale must be above 0 here, since 0 would ignore the document, got {guidance.scale}"
            )
        prompts = repeat_each([self._spans(document) for document in documents_of(prompt)], num_samples)
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = self._sampling(max_new_tokens, temperature, top_k, top_p, do_sample, logits_processor)
        how = Picturing(
            self._default("num_inference_steps", num_inference_steps, 50),
            guidance,
            row_generators(generator, len(prompts)),
            callback=callback_on_step_end,
            inputs=callback_on_step_end_tensor_inputs,
        )
        drawing = self._drawing(how.num_inference_steps, guidance, how.generators)
        pictures = [m.name for m in self.model.modalities if m.name in drawing.grids]
        self._check_order(modality_order, pictures)
        ends, on_token = self._stop(stop), self._streamed(streamer, prompts)
        room = self._room(prompts, sampling, drawing, modality_order)
        rules = Rules(pictures, {} if max_images is None else {"image": max_images}, modality_order, room, stop=ends)
        drawing.on_step = self._on_step(how)
        written = self._write(prompts, sampling, drawing, rules, on_token)
        if streamer is not None:
            streamer.end()
        documents = [self._segments(spans, output_type, ends) for spans in written]
        self.maybe_free_model_hooks()
        return InterleavedOutput(documents=documents) if return_dict else (documents,)

    def _write(self, prompts, sampling: TextSampling, drawing: Drawing, rules: Rules, on_token) -> list[list[Span]]:
        """Rows for the documents, and for as many empty ones where pictures are guided away from no text at all."""
        samples, pictures = len(prompts), [name for name in self.model.modality_names if name in drawing.grids]
        guided = samples * (len(drawing.guidance.branches) - 1) if pictures else 0
        opens = [None] * samples + pictures[:1] * guided
        # A row may stand still while others fill the longest span.
        longest = max((rows * columns for rows, columns in drawing.grids.values()), default=0)
        stream = Stream(self.model, [*prompts, *[[]] * guided], rules.room + longest, opens)
        return Writer(stream, samples, sampling, drawing, rules, on_token).run()

    def _room(self, prompts, sampling: TextSampling, drawing: Drawing, order) -> int:
        """Slots that each document may fill: the rest of the context, else four texts and pictures; InputError where
        what was ordered does not fit."""
        longest = max(document_length(prompt, self.model.modalities) for prompt in prompts)
        tokens = max((rows * columns for rows, columns in drawing.grids.values()), default=0)
        ordered = sum(tokens + 2 for name in order or () if name in drawing.grids)
        if self.model.config.context:
            self._check_context(prompts, ordered)
            return self.model.config.context - longest
        return max(4 * (sampling.max_new_tokens + tokens), ordered + sampling.max_new_tokens + len(order or ()))

    def _check_order(self, order: Sequence[str] | None, pictures: Sequence[str]) -> None:
        if order is None:
            return
        allowed = [self.model.modality_names[0], *pictures]
        if isinstance(order, str) or not isinstance(order, Sequence) or not order:
            raise InputError(f"modality_order must be a list of {', '.join(allowed)}, got {order!r}")
        for before, name in zip([None, *order], order):
            if name not in allowed:
                raise InputError(f"modality_order: {name!r} cannot be written" + nearest(name, allowed))
            if before == name == allowed[0]:
                raise InputError(f"modality_order: {name} after {name} is one span; name it once")

    def _spans(self, document: Sequence) -> list[Span]:
        spans: list[Span] = []
        for part in parts_of(document, self.text_tokenizer):
            if isinstance(part, str):
                spans += self._text([part])[0]
            else:
                self._needs("image", "image_tokenizer")
                spans.append(self.image_tokenizer.encode(part))
        return spans

    def _segments(self, spans: Sequence[Span], output_type: str, ends) -> list:
        text = self.model.modality_names[0]
        segments = [
            self.text_tokenizer.decode(span) if span.modality == text else self._decode_images([span], output_type)[0]
            for span in spans
        ]
        if ends is not None and spans and spans[-1].modality == text:
            segments[-1] = ends.cut(segments[-1])
        return [segment for segment in segments if not (isinstance(segment, str) and not segment)]
