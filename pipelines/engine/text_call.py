"""What a call that writes text does beside writing it: TextCall, StopStrings.

It ends texts at stop strings, and shows them to a streamer of transformers as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mot_gen.errors import require
from mot_gen.pipelines.settings import is_list_of_texts, listed_texts
from mot_gen.sequence import Span


class TextCall:
    """One call.

    tokenizer: of text. text: the name of the text modality. stop: texts that end what is written. streamer: of
    transformers. `stop` is then what `rules.Rules` takes, and `on_token` what `writer.Writer` takes.
    """

    def __init__(self, tokenizer: Any, text: str, stop: str | Sequence[str] | None, streamer: Any):
        self.tokenizer, self.text, self.streamer = tokenizer, text, streamer
        self.stop = None if stop is None else StopStrings(stop, tokenizer)

    def begin(self, prompts: Sequence[Sequence[Span]]) -> None:
        """Show the prompt's text; InputError where there are several documents."""
        if self.streamer is None:
            return
        require(len(prompts) == 1, f"streamer: one document can be streamed at a time, got {len(prompts)}")
        given = [span.values.cpu() for span in prompts[0] if span.modality == self.text]
        self.streamer.put(torch.cat([torch.zeros(0, dtype=torch.long), *given])[None])

    def on_token(self, number: int, modality: str, token: int) -> None:
        if self.streamer is not None and modality == self.text:
            self.streamer.put(torch.tensor([token]))

    def end(self) -> None:
        """Nothing more is written."""
        if self.streamer is not None:
            self.streamer.end()

    def read(self, span: Span) -> str:
        """The text of a span that was written."""
        return self.tokenizer.decode(span)

    def cut(self, text: str) -> str:
        """A text without what stopped it."""
        return text if self.stop is None else self.stop.cut(text)


class StopStrings:
    """Whether a text that is being written has come to one of these strings, which end it and are not part of it."""

    def __init__(self, stop: str | Sequence[str], tokenizer):
        """stop: one or several; InputError for what is no text, or empty."""
        self.strings = listed_texts(stop)
        require(is_list_of_texts(self.strings), f"stop must be a text or a list of texts, none empty, got {stop!r:.60}")
        self.tokenizer = tokenizer
        tokenizer.encode_batch(self.strings)  # which refuses what no text can hold
        # A token is at least a byte, so that as many tokens as the longest string has bytes hold all of it.
        self.tail = max(map(len, map(str.encode, self.strings)))

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of these text ids complete a stop string."""
        text = self.tokenizer.decode(Span("text", torch.tensor(ids[-self.tail :], dtype=torch.long)))
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """The text before the first stop string in it."""
        return min((text.partition(string)[0] for string in self.strings), key=len)
