"""What a call that writes text does beside writing it: TextCall.

It ends texts at stop strings, and shows them to a streamer of transformers as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mot_gen.errors import require
from mot_gen.pipelines.decoding import StopStrings
from mot_gen.pipelines.options import TextOptions
from mot_gen.sequence import Span


class TextCall:
    """One call. text: the name of the text modality. stop: see `Rules.stop`. on_token: see `Writer`."""

    def __init__(self, options: TextOptions, tokenizer: Any, text: str):
        self.text, self.tokenizer, self.streamer = text, tokenizer, options.streamer
        self.stop = None if options.stop is None else StopStrings(options.stop, tokenizer)

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
