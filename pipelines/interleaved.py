"""InterleavedPipeline: the model decides when text gives way to a picture, and goes on writing after it;
InterleavedOutput, what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput

from mot_gen.errors import InputError, nearest, require
from mot_gen.pipelines.base import repeat_each
from mot_gen.pipelines.chat import PartReader, documents_of, spans_of
from mot_gen.pipelines.engine import Drawing, Guidance, Rules, Stream, TextCall, TextSampling, Writer, slots_of
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import StepOptions, TextOptions, takes
from mot_gen.pipelines.settings import is_natural
from mot_gen.sequence import Span


@dataclass
class InterleavedOutput(BaseOutput):
    """What InterleavedPipeline returns. documents: a list of segments a sample, each a str or a picture, in order."""

    documents: list[list]


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
        """Write documents of segments, each a str or a picture; `num_samples` of each prompt, without the prompt.

        prompt: the beginning of a document: a text, a list of texts and pictures in any order, chat messages with typed
        parts (`chat`), or a list of such lists. If it is empty, the model begins.
        max_images: how many pictures a document may have. After them the model writes text alone.
        modality_order: what the spans are to be, such as ["text", "image", "text"]. The model then decides only how
        long its texts are.
        height, width: the size of the pictures, as in TextToImagePipeline.
        guidance_scale: of the pictures, against a document without any text; it must be above 0.

        Raises InputError, before any work, for what does not fit.
        """
        _check_most(max_images)
        how = images.settled(self._own)
        guidance = Guidance.of(how)
        asked = guidance.scale
        require(asked > 0, f"guidance_scale must be above 0 here, since 0 would ignore the document, got {asked}")
        prompts = repeat_each([self._spans(document) for document in documents_of(prompt)], num_samples)
        call = TextCall(self.text_tokenizer, self.model.modality_names[0], text.stop, text.streamer)
        sampling = text.sampling(self._new_tokens(text.max_new_tokens, prompts))
        drawing = self._pictures(how, guidance, len(prompts), height, width)
        self._check_order(modality_order, [*drawing.grids])
        at_most = {} if max_images is None else {"image": max_images}
        room = self._room(prompts, sampling, drawing, modality_order or ())
        rules = Rules([*drawing.grids], at_most, modality_order, room, stop=call.stop)
        call.begin(prompts)
        written = Writer(self._stream(prompts, drawing, rules), len(prompts), sampling, drawing, rules, call.on_token)
        documents = [self._segments(spans, images.output_type, call) for spans in written.run()]
        call.end()
        return self._returned(InterleavedOutput(documents=documents), text.return_dict, "documents")

    # ---------------------------------------------------------------- check, prepare

    def _longest_span(self, drawing: Drawing) -> int:
        """Slots of the largest span that may be drawn, its begin and end not counted."""
        return max(slots_of(self.model, drawing.grids).values(), default=0)

    def _check_order(self, order: Sequence[str] | None, pictures: Sequence[str]) -> None:
        if order is None:
            return
        text = self.model.modality_names[0]
        allowed = [text, *pictures]
        listed = isinstance(order, Sequence) and not isinstance(order, str) and len(order) > 0
        require(listed, f"modality_order must be a list of {', '.join(allowed)}, got {order!r}")
        for before, name in zip([None, *order], order):
            if name not in allowed:
                raise InputError(f"modality_order: {name!r} cannot be written" + nearest(name, allowed))
            twice = before == name == text
            require(not twice, f"modality_order: {name} after {name} is one span; name it once")

    def _spans(self, document: Sequence) -> list[Span]:
        """A document's beginning as the model reads it."""
        return spans_of(document, self.text_tokenizer, PartReader(self._plain, self._seen, to="any"))

    def _plain(self, text: str) -> list[Span]:
        """A text as it stands; InputError for an empty one."""
        require(text, "prompt: one of its texts is empty; leave it out")
        return [self.text_tokenizer.encode(text)]

    def _seen(self, picture) -> list[Span]:
        """A picture of the prompt, after which others may be drawn."""
        self._needs("image", "image_tokenizer")
        return self.seen([picture], drawn=True)[0]

    def _pictures(self, how: StepOptions, guidance: Guidance, documents: int, height, width) -> Drawing:
        """How pictures are drawn in so many documents, all of one size; without grids where the model has none."""
        drawing = self._drawing(how, guidance, documents)
        if self.image_tokenizer is not None and "image" in self.model.modality_names:
            drawing.grids = {"image": self._grid(height, width)}
            if self.model.modality["image"].discrete:
                self._only_continuous(guidance_renorm=guidance.renorm)
        self._grids = [*drawing.grids.values()] * documents
        drawing.on_step, drawing.tokens = self._on_step(how), self._sampling(how, 1)
        return drawing

    def _room(self, prompts, sampling: TextSampling, drawing: Drawing, order: Sequence[str]) -> int:
        """Slots that each document may fill: the rest of the context, else four texts and pictures; InputError where
        what was ordered does not fit."""
        tokens, most = self._longest_span(drawing), sampling.max_new_tokens
        ordered = (tokens + 2) * sum(name in drawing.grids for name in order)
        if self.model.config.context:
            self._check_context(prompts, ordered)
            return self.model.config.context - self._longest(prompts)
        return max(4 * (most + tokens), ordered + most + len(order))

    def _stream(self, prompts: list[list[Span]], drawing: Drawing, rules: Rules) -> Stream:
        """Rows for the documents, and for as many empty ones where pictures are guided away from no text at all."""
        count, pictures = len(prompts), list(drawing.grids)
        opened = self._opens_text(count)
        if rules.order and self.model.vocabulary.wraps:  # nothing else can lead to a picture there
            opened = [rules.order[0]] * count
        assert rules.room is not None  # `_room` gave it
        # A row may stand still while others fill the longest span.
        room = rules.room + self._longest_span(drawing)
        if not pictures:
            return Stream(self.model, prompts, room, opened)
        guided = count * (len(drawing.guidance.branches) - 1)
        empty: list[list[Span]] = [[]] * guided
        opened += [pictures[0]] * guided
        return Stream(self.model, [*prompts, *empty], room, opened)

    # ---------------------------------------------------------------- decode

    def _segments(self, spans: Sequence[Span], output_type: str, call: TextCall) -> list:
        """Texts and pictures, without empty texts."""
        segments: list = []
        for number, span in enumerate(spans):
            if span.modality != call.text:
                segments.append(self._decode_images([span], output_type)[0])
                continue
            text = call.read(span)
            if number == len(spans) - 1:
                text = call.cut(text)
            if text:
                segments.append(text)
        return segments


def _check_most(max_images) -> None:
    fits = max_images is None or is_natural(max_images)
    require(fits, f"max_images must be a whole number of at least 0, got {max_images!r}")
