"""InterleavedPipeline: the model decides when text gives way to a picture, and goes on writing after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.errors import InputError, nearest
from mot_gen.pipelines.base import InterleavedOutput, repeat_each
from mot_gen.pipelines.chat import Reading, documents_of, spans_of
from mot_gen.pipelines.engine import Drawing, Grid, Guidance, Rules, Stream, TextSampling, Writer
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import StepOptions, TextOptions, takes
from mot_gen.sequence import Span


class InterleavedPipeline(ImageDrawingPipeline):
    """Continues documents of texts and pictures with texts and pictures.

    pipe = InterleavedPipeline.from_pretrained("runs/digits/model")
    pipe(["a handwritten seven"]).documents[0]
    pipe([{"role": "user", "content": [{"type": "image", "image": "seven.png"}]}], max_images=0).documents[0]
    """

    @torch.inference_mode()
    @takes(text=TextOptions, images=StepOptions)
    def __call__(
        self,
        prompt: Sequence = (),
        num_samples: int = 1,
        max_images: int | None = None,
        modality_order: Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        text: TextOptions,
        images: StepOptions,
    ):
        """Documents of ordered segments, each a str or a picture, without the prompt; `num_samples` of each prompt.

        prompt: the beginning of a document: a text, a list of texts and pictures in any order, chat messages with typed
        parts (`chat`), or a list of such lists; empty lets the model begin. max_images: after them the model writes
        text alone. modality_order: what the spans are to be, such as ["text", "image", "text"]; the model then decides
        only how long its texts are. height, width: of the pictures drawn, as in TextToImagePipeline. guidance_scale: of
        the pictures, against a document without any text; it must be above 0.
        Raises InputError, before any work, for what does not fit.
        """
        if max_images is not None and (type(max_images) is not int or max_images < 0):
            raise InputError(f"max_images must be a whole number of at least 0, got {max_images!r}")
        how = images.settled(self._own)
        guidance = Guidance.of(how)
        if not guidance.scale > 0:
            raise InputError(
                f"guidance_scale must be above 0 here, since 0 would ignore the document, got {guidance.scale}"
            )
        prompts = repeat_each([self._spans(document) for document in documents_of(prompt)], num_samples)
        sampling = text.sampling(self._new_tokens(text.max_new_tokens, prompts))
        drawing = self._pictures(how, guidance, len(prompts), height, width)
        pictures = list(drawing.grids)
        self._check_order(modality_order, pictures)
        ends, on_token = self._stop(text.stop), self._streamed(text.streamer, prompts)
        room = self._room(prompts, sampling, drawing, modality_order)
        rules = Rules(pictures, {} if max_images is None else {"image": max_images}, modality_order, room, stop=ends)
        first = self._opened_first(modality_order, len(prompts))
        written = self._write(prompts, first, sampling, drawing, rules, on_token)
        if text.streamer is not None:
            text.streamer.end()
        documents = [self._segments(spans, images.output_type, ends) for spans in written]
        self.maybe_free_model_hooks()
        return InterleavedOutput(documents=documents) if text.return_dict else (documents,)

    def _pictures(self, how: StepOptions, guidance: Guidance, documents: int, height, width) -> Drawing:
        """How pictures are drawn in so many documents, all of one size; without grids where the model has none."""
        drawn = self.image_tokenizer is not None and "image" in self.model.modality_names
        drawing = self._drawing(how, guidance, documents)
        if drawn:
            drawing.grids = {"image": self._grid(height, width)}
        self._grids = [*drawing.grids.values()] * documents
        drawing.on_step, drawing.tokens = self._on_step(how), self._sampling(how, 1)
        return drawing

    def _opened_first(self, order: Sequence[str] | None, documents: int) -> list[str | None]:
        """What stands open at the end of the prompts; where texts are wrapped, nothing else can lead to a picture."""
        if order and self.model.vocabulary.wraps:
            return [order[0]] * documents
        return self._opens_text(documents)

    def _write(
        self, prompts, first, sampling: TextSampling, drawing: Drawing, rules: Rules, on_token
    ) -> list[list[Span]]:
        """Rows for the documents, and for as many empty ones where pictures are guided away from no text at all."""
        samples, pictures = len(prompts), list(drawing.grids)
        guided = samples * (len(drawing.guidance.branches) - 1) if pictures else 0
        opens = first + pictures[:1] * guided
        assert rules.room is not None  # `_room` gave it
        # A row may stand still while others fill the longest span.
        longest = max((self._slots(name, grid) for name, grid in drawing.grids.items()), default=0)
        stream = Stream(self.model, [*prompts, *[[]] * guided], rules.room + longest, opens)
        return Writer(stream, samples, sampling, drawing, rules, on_token).run()

    def _room(self, prompts, sampling: TextSampling, drawing: Drawing, order) -> int:
        """Slots that each document may fill: the rest of the context, else four texts and pictures; InputError where
        what was ordered does not fit."""
        tokens = max((self._slots(name, grid) for name, grid in drawing.grids.items()), default=0)
        ordered = sum(tokens + 2 for name in order or () if name in drawing.grids)
        if self.model.config.context:
            self._check_context(prompts, ordered)
            return self.model.config.context - self._longest(prompts)
        return max(4 * (sampling.max_new_tokens + tokens), ordered + sampling.max_new_tokens + len(order or ()))

    def _slots(self, modality: str, grid: Grid) -> int:
        """Of a picture of this grid, its begin and end not counted."""
        return grid[0] * grid[1] + self.model.modalities[self.model.index_of[modality]].framed(grid)

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
        reading = Reading(self._plain, self._seen_before_pictures, to="any")
        return spans_of(document, self.text_tokenizer, reading)

    def _plain(self, text: str) -> list[Span]:
        """A text as it stands; InputError for an empty one."""
        if not text:
            raise InputError("prompt: one of its texts is empty; leave it out")
        return [self.text_tokenizer.encode(text)]

    def _seen_before_pictures(self, picture) -> list[Span]:
        """A picture of the prompt, after which others may be drawn."""
        self._needs("image", "image_tokenizer")
        return self.seen([picture], drawn=True)[0]

    def _segments(self, spans: Sequence[Span], output_type: str, ends) -> list:
        text = self.model.modality_names[0]
        segments = [
            self.text_tokenizer.decode(span) if span.modality == text else self._decode_images([span], output_type)[0]
            for span in spans
        ]
        if ends is not None and spans and spans[-1].modality == text:
            segments[-1] = ends.cut(segments[-1])
        return [segment for segment in segments if not (isinstance(segment, str) and not segment)]
