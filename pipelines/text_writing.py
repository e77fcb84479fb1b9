"""What the pipelines that write text share: TextWritingPipeline."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType

from mot_gen.errors import require
from mot_gen.pipelines.base import MultimodalPipeline, TextOutput
from mot_gen.pipelines.captions.text_choices import Choices
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextCall, Writer
from mot_gen.pipelines.engine.blocks import passes_of, write_blocks
from mot_gen.pipelines.engine.samplers import row_generators
from mot_gen.pipelines.options import AnswerOptions, TextOptions
from mot_gen.sequence import Span, only_read


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
        if all(isinstance(each, Span) for each in media):
            return [[span] for span in only_read(media)]
        if name == "image":
            return self.seen(media, drawn=False)
        return [[span] for span in tokenizer.encode_batch(media)]

    def _asked(self, documents: list[list[Span]], prompt, what: str) -> list[list[Span]]:
        """Each document followed by its text, by the one text for all, or by none; or, where the checkpoint chats, both
        as a message."""
        if self._chat_format is not None:
            return [self._message(text, document) for document, text in zip(documents, self._texts(prompt, documents))]
        if prompt is None:
            return documents
        texts, count = self._text(prompt), len(documents)
        require(len(texts) in (1, count), f"prompt: {len(texts)} texts were given for {count} {what}")
        return [document + text for document, text in zip(documents, texts * (count // len(texts)))]

    @staticmethod
    def _texts(prompt, documents: Sequence) -> list[str | None]:
        """A text for each document."""
        texts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        are_texts = all(isinstance(text, (str, NoneType)) for text in texts)
        fits = are_texts and len(texts) in (1, len(documents))
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
        self.maybe_free_model_hooks()
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

    @staticmethod
    def _as_output(texts: list[str], options: TextOptions):
        return TextOutput(texts=texts) if options.return_dict else (texts,)
