"""One sample, measured as training would take it: Ruler, Measured, PROBLEMS.

Pictures are decoded, not encoded: a tokenizer of pictures gives the same number of tokens for each. Sound is encoded,
where there is a tokenizer for it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mot_gen.errors import InputError
from mot_gen.packing import document_length
from mot_gen.sequence import Span
from mot_gen.tokenizers.audio_files import load_audio
from mot_gen.tokenizers.image_files import load_image
from mot_gen.training.build import build_tokenizers
from mot_gen.training.data import UNUSABLE
from mot_gen.training.encoded import Encoded
from mot_gen.training.recipe import Data, Recipe
from mot_gen.training.records import Pair, Part, Sample, Splits, sample_key
from mot_gen.training.tokenize import medium_bytes, parts_of

# Why training cannot use a sample. The last two stop it; of the others it takes `training.max_corrupt`.
PROBLEMS = ("unreadable record", "missing file", "broken media", "too long", "no tokenizer", "other tokenizer")


class Unusable(Exception):
    """problem: one of PROBLEMS."""

    def __init__(self, problem: str, reason: str):
        super().__init__(reason)
        self.problem = problem


@dataclass
class Measured:
    """What one sample is. problem, reason: why training cannot use it, or empty. parts: modality, tokens (of text bytes
    where there is no tokenizer) and whether it carries loss. length: slots of a row, 0 without tokenizers. id, content,
    media: keys to find duplicates by, of its id, of all that it holds, and of each medium."""

    name: str
    problem: str = ""
    reason: str = ""
    parts: list[tuple[str, int, bool]] = field(default_factory=list)
    length: int = 0
    id: int = 0
    content: int = 0
    media: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Ruler:
    """What samples are measured by. tokenizers: modality -> tokenizer, text first; none: texts count in bytes, and
    nothing is too long. made_later: modalities whose tokenizer the run trains, so that its fingerprint is not known."""

    tokenizers: Mapping[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    row_length: int = 0
    made_later: frozenset[str] = frozenset()

    @classmethod
    def of(cls, recipe: Recipe, splits: Splits) -> Ruler:
        """The recipe's own; tokenizers that it would train are taken untrained, whose lengths are the same."""
        later = frozenset(name for name, section in recipe.tokenizers.items() if section.train is not None)
        return cls(build_tokenizers(recipe, splits), recipe.data, recipe.training.row_length, later)

    def measure(self, samples: Sequence[Sample], index: int) -> Measured:
        """The sample as one epoch might arrange it."""
        try:
            sample = samples[index]
        except UNUSABLE as error:
            return Measured(f"sample {index}", "unreadable record", str(error))
        found = Measured(sample.id, id=sample_key(sample.id))
        try:
            arranged = sample.arrange(random.Random(f"measure/{index}"), self.data)
            found.parts = [(part.kind, self._tokens(part), part.loss) for part in arranged]
            found.media, found.content = _keys(sample)
            found.length = self._length(found.parts)
        except Unusable as error:
            found.problem, found.reason = error.problem, str(error)
        return found

    def _tokens(self, part: Part) -> int:
        if isinstance(part.value, Path) and not part.value.exists():
            raise Unusable("missing file", f"{part.value}: no such file")
        if self.tokenizers and part.kind not in self.tokenizers:
            raise Unusable("no tokenizer", f"the recipe has no tokenizer for {part.kind}")
        try:
            return self._decoded(part) if isinstance(part.value, Encoded) else self._encoded(part)
        except UNUSABLE as error:
            raise Unusable("broken media", str(error)) from None

    def _decoded(self, part: Part) -> int:
        """Of what is tokens already."""
        if self.tokenizers and part.kind not in self.made_later:
            own, made = self.tokenizers[part.kind].fingerprint, part.value.fingerprint
            if made != own:
                raise Unusable("other tokenizer", f"its {part.kind} is of tokenizer {made[:12]}, not of {own[:12]}")
        return len(part.value.values)

    def _encoded(self, part: Part) -> int:
        tokenizer = self.tokenizers.get(part.kind)
        if part.kind == "image" and (tokenizer is None or hasattr(tokenizer, "grid")):
            load_image(part.value, "L" if getattr(tokenizer, "color_channels", 3) == 1 else "RGB")
            return tokenizer.grid[0] * tokenizer.grid[1] if tokenizer else 0
        if tokenizer is None and part.kind == "speech":
            load_audio(part.value)
            return 0
        return len(tokenizer.encode(part.value)) if tokenizer else len(part.value.encode())

    def _length(self, parts: Sequence[tuple[str, int, bool]]) -> int:
        if not self.tokenizers:
            return 0
        modalities = [tokenizer.modality for tokenizer in self.tokenizers.values()]
        length = document_length([Span(kind, torch.empty(tokens)) for kind, tokens, _ in parts], modalities)
        if length > self.row_length:
            raise Unusable("too long", f"{length} tokens do not fit a row of {self.row_length}")
        return length


# ---------------------------------------------------------------- keys


def _keys(sample: Sample) -> tuple[list[int], int]:
    """Of each medium, by what it holds and not where it lies; of all: texts, media, and what carries loss."""
    parts = parts_of(sample)
    media = [_medium_key(part.value) for part in parts if not isinstance(part.value, str)]
    said = [(part.kind, part.loss, part.value if isinstance(part.value, str) else "") for part in parts]
    captions = sorted(sample.captions) if isinstance(sample, Pair) else []
    return media, sample_key(repr((said, captions, media)))


def _medium_key(value: Any) -> int:
    try:
        content = value.values.numpy().tobytes() if isinstance(value, Encoded) else medium_bytes(value)
    except (OSError, InputError) as error:
        raise Unusable("broken media", str(error)) from None
    return sample_key(hashlib.sha256(content).hexdigest())
