"""What the pipelines that write text share: TextWritingPipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline, TextOutput, row_generators
from mot_gen.pipelines.blocks import passes_of, write_blocks
from mot_gen.pipelines.engine import Drawing, Rules, Stream, Writer
from mot_gen.pipelines.options import TextOptions
from mot_gen.sequence import Span


def are_spans(media: Sequence) -> bool:
    """Whether each of these media is a list of spans already, as `MultimodalPipeline.seen` makes them."""
    return all(isinstance(each, list) and each and isinstance(each[0], Span) for each in media)


class TextWritingPipeline(MultimodalPipeline):
    """Continues documents with text alone."""

    def _media(self, given, tokenizer, name: str) -> list[list[Span]]:
        """A document of each picture or recording, or of what a tokenizer made of it; a list of them or one. InputError
        where there is none."""
        media = list(given) if isinstance(given, list) else [given]
        if not media:
            raise InputError(f"{name}: the list is empty; give at least one")
        if all(isinstance(each, Span) for each in media):
            return [[replace(each, learned=False)] for each in media]
        if are_spans(media):
            return media
        if name == "image":
            return self.seen(media, drawn=False)
        return [[span] for span in tokenizer.encode_batch(media)]

    def _asked(self, documents: list[list[Span]], prompt, what: str) -> list[list[Span]]:
        """Each document followed by its text, by the one text for all, or by none; or, where the checkpoint chats, both
        as a message."""
        if self._talk is not None:
            return [self._message(text, document) for document, text in zip(documents, self._texts(prompt, documents))]
        if prompt is None:
            return documents
        texts = self._text(prompt)
        if len(texts) not in (1, len(documents)):
            raise InputError(f"prompt: {len(texts)} texts were given for {len(documents)} {what}")
        return [document + text for document, text in zip(documents, texts * (len(documents) // len(texts)))]

    @staticmethod
    def _texts(prompt, documents: Sequence) -> list[str | None]:
        """A text for each document."""
        texts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(texts) not in (1, len(documents)) or not all(text is None or isinstance(text, str) for text in texts):
            raise InputError(f"prompt: give one text or {len(documents)}, got {prompt!r:.60}")
        return texts * (len(documents) // len(texts))

    def _continued(self, prompts: Sequence[Sequence[Span]], options: TextOptions) -> list[str]:
        """What was written after each prompt, without the prompt and without what stopped it."""
        sampling = options.sampling(self._new_tokens(options.max_new_tokens, prompts))
        drawing = Drawing(generators=row_generators(options.generator, len(prompts)), stopped=self._stopped)
        ends, on_token = self._stop(options.stop), self._streamed(options.streamer, prompts)
        opens = self._opens_text(len(prompts))
        stream = Stream(self.model, prompts, room=sampling.max_new_tokens, opens=opens)
        text = self.model.modalities[0]
        if text.block_size:
            drawing.num_inference_steps = passes_of(text.block_size)
            ids = write_blocks(stream, text.name, drawing, sampling, on_token)
            written = [[Span(text.name, each)] if len(each) else [] for each in ids]
        else:
            written = Writer(stream, len(prompts), sampling, drawing, Rules(stop=ends), on_token).run()
        if options.streamer is not None:
            options.streamer.end()
        self.maybe_free_model_hooks()
        texts = ["".join(self.text_tokenizer.decode(span) for span in spans) for spans in written]
        return texts if ends is None else [ends.cut(text) for text in texts]

    @staticmethod
    def _as_output(texts: list[str], options: TextOptions):
        return TextOutput(texts=texts) if options.return_dict else (texts,)
