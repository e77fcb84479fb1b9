"""What the pipelines that write text share: TextWritingPipeline; TextOutput, what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from types import NoneType

from diffusers.utils import BaseOutput

from mot_gen.errors import require
from mot_gen.pipelines.base import MultimodalPipeline, each_alone
from mot_gen.pipelines.captions.text_choices import Choices
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextCall, Writer
from mot_gen.pipelines.engine.blocks import passes_of, write_blocks
from mot_gen.pipelines.engine.samplers import row_generators
from mot_gen.pipelines.options import AnswerOptions, TextOptions
from mot_gen.pipelines.settings import are_all
from mot_gen.sequence import Span, only_read


@dataclass
class TextOutput(BaseOutput):
    """What pipelines that write text return. texts: one string a sample."""

    texts: list[str]


def are_spans(media: Sequence) -> bool:
    """Whether each of these media is a list of spans already, as `MultimodalPipeline.seen` makes them."""
    return all(isinstance(each, list) and each and isinstance(each[0], Span) for each in media)


class TextWritingPipeline(MultimodalPipeline):
    """Continues documents with text alone."""

    def _media(self, given, tokenizer, name: str) -> list[list[Span]]:
        """A document of each picture or recording, or of what a tokenizer made of it; a list of them or one. InputError
        where there is none."""
        media = list(given) if isinstance(given, list) else [given]
        require(media, f"{name}: the list is empty; give at least one")
        if are_spans(media):
            return media
        if are_all(media, Span):
            return each_alone(only_read(media))
        if name == "image":
            return self.seen(media, drawn=False)
        return each_alone(tokenizer.encode_batch(media))

    def _asked(self, documents: list[list[Span]], prompt, what: str) -> list[list[Span]]:
        """Each document followed by its text, by the one text for all, or by none; or, where the checkpoint chats, both
        as a message."""
        if self._chat_format is not None:
            return list(map(self._message, self._texts(prompt, documents), documents))
        if prompt is None:
            return documents
        texts, count = self._text(prompt), len(documents)
        require(len(texts) in (1, count), f"prompt: {len(texts)} texts were given for {count} {what}")
        return list(map(add, documents, texts * (count // len(texts))))

    @staticmethod
    def _texts(prompt, documents: Sequence) -> list[str | None]:
        """A text for each document."""
        texts = [prompt] if isinstance(prompt, (str, NoneType)) else list(prompt)
        fits = are_all(texts, (str, NoneType)) and len(texts) in (1, len(documents))
        require(fits, f"prompt: give one text or {len(documents)}, got {prompt!r:.60}")
        return texts * (len(documents) // len(texts))

    def _continued(
        self, prompts: Sequence[Sequence[Span]], options: AnswerOptions, choices: Choices | None = None
    ) -> list[str]:
        """What was written after each prompt, without the prompt and without what stopped it. choices: the only texts
        that may be written; by default those of the options."""
        if options.choices is not None:
            choices = Choices.of_texts(options.choices, self.text_tokenizer, self.model.vocabulary.document_end)
        call = TextCall(self.text_tokenizer, self.model.modality_names[0], options.stop, options.streamer)
        call.begin(prompts)
        if choices is None:
            texts = self._written(prompts, options, call)
        else:
            texts = self._chosen(prompts, options, choices)
        call.end()
        return texts

    def _written(self, prompts: Sequence[Sequence[Span]], options: TextOptions, call: TextCall) -> list[str]:
        """Token by token, or block by block."""
        count, text = len(prompts), self.model.modalities[0]
        sampling = options.sampling(self._new_tokens(options.max_new_tokens, prompts))
        drawing = Drawing(generators=row_generators(options.generator, count), stopped=self._stopped)
        stream = Stream(self.model, prompts, sampling.max_new_tokens, self._opens_text(count))
        if text.block_size:
            drawing.num_inference_steps = passes_of(text.block_size)
            ids = write_blocks(stream, text.name, drawing, sampling, call.on_token)
            return [call.cut(call.read(Span(text.name, each))) for each in ids]
        written = Writer(stream, count, sampling, drawing, Rules(stop=call.stop), call.on_token).run()
        return [call.cut("".join(map(call.read, spans))) for spans in written]

    def _chosen(self, prompts: Sequence[Sequence[Span]], options: AnswerOptions, choices: Choices) -> list[str]:
        """The likeliest of the texts that were given."""
        one_by_one = self.model.modalities[0].one_by_one
        require(one_by_one, "choices: this checkpoint writes text in blocks, which have no likelihood token by token")
        require(options.streamer is None, "choices: a text is chosen as a whole; leave streamer out")
        self._check_context(prompts, choices.longest)
        stream = Stream(self.model, prompts, choices.longest, self._opens_text(len(prompts)))
        return choices.likeliest(stream)

    def _as_output(self, texts: list[str], options: TextOptions):
        return self._returned(TextOutput(texts=texts), options.return_dict, "texts")
