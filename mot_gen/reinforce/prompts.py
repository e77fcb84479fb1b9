"""What a model is asked while it learns from rewards: Prompt, Prompts.

Prompts come from the training samples of the recipe, each once before any comes again, in an order that the seed says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from mot_gen.data.records import Pair, Sample
from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.recipes.sections import Reinforce
from mot_gen.reports.generated import pictures_of
from mot_gen.sequence import Span, only_read


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    name: for messages. spans: what the model reads. text: the caption among them, or the empty string. references:
    the captions of the sample that the prompt was taken from.
    """

    name: str
    spans: Sequence[Span]
    text: str = ""
    references: Sequence[str] = ()


class Prompts:
    """The prompts of a run, by their number, without end."""

    def __init__(self, samples: Sequence[Sample], section: Reinforce, seed: int):
        self.samples, self.section, self.seed = samples, section, seed
        self.given = section.given or _usual(section.writes)
        if self.given != "nothing" and not len(samples):
            raise InputError("data: no sample is left to take prompts from; lower data.held_out or give more")
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, turn: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1000003 + turn)
        return torch.randperm(len(self.samples), generator=generator).tolist()

    def take(self, pipe: MultimodalPipeline, numbers: Sequence[int]) -> list[Prompt]:
        """The prompts of these numbers, tokenised; InputError for a sample that has no picture or no caption."""
        if self.given == "nothing":
            return [Prompt(f"prompt {number}", []) for number in numbers]
        pairs = [self._pair(number) for number in numbers]
        if self.given == "image":
            seen = pipe.seen(pictures_of(pairs, pipe.image_tokenizer), drawn=False)
            return [Prompt(pair.id, spans, "", pair.captions) for pair, spans in zip(pairs, seen)]
        texts = [self._caption(pair, number) for pair, number in zip(pairs, numbers)]
        spans = only_read(pipe.text_tokenizer.encode_batch(texts))
        return [Prompt(pair.id, [span], text, pair.captions) for pair, span, text in zip(pairs, spans, texts)]

    def _caption(self, pair: Pair, number: int) -> str:
        """All captions of a sample take turns; samples begin with different ones."""
        turn, sample = self._drawn(number)
        return pair.captions[(turn + sample) % len(pair.captions)]

    def _drawn(self, number: int) -> tuple[int, int]:
        """How often all samples have come before this prompt, and which sample it is taken from."""
        turn, place = divmod(number, len(self.samples))
        return turn, self._order(turn)[place]

    def _pair(self, number: int) -> Pair:
        _, place = self._drawn(number)
        sample = self.samples[place]
        if isinstance(sample, Pair) and sample.captions:
            return sample
        raise InputError(
            f"reinforce.given: {self.given!r} takes pictures with captions, and {sample.id} is none; give such data, "
            "or reinforce.given=nothing"
        )


def _usual(writes: Sequence[str]) -> str:
    """What a prompt is where the recipe does not say: a caption before a picture, a picture before a text."""
    if len(writes) > 1:
        return "nothing"
    if writes[0] == "image":
        return "caption"
    return "image"
