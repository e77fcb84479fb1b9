"""Samples: what training learns from, as `Part`, `Pair`, `SpeechPair`, `Document`, `Samples` and `Splits`.

`Part` is one piece of raw content. A sample is a `Pair` (an image and its captions), a `SpeechPair` (and its text) or
another `Document` (parts in a fixed order); each is arranged into parts by `.arrange(rng, options)`. `Samples` is a
sequence of them that is read from somewhere, and `captioned_pairs` the pairs of one. `Splits` are what is trained on
and what never is. How a record becomes a sample is in parsing.py.
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from mot_gen.data.notices import Notice, Notices
from mot_gen.errors import expect, require

UNUSABLE = (OSError, ValueError, SyntaxError, EOFError)  # what reading a broken medium raises, InputError included
MODALITIES = {"audio": "speech"}  # a part's type -> its modality, where the names differ


def type_of(modality: str) -> str:
    """A modality -> the type of its parts in records."""
    for type, name in MODALITIES.items():
        if name == modality:
            return type
    return modality


def sample_key(id: str) -> int:
    """64 bits that stand for a sample's id when samples are split and compared."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


class Arranging(Protocol):
    """What `arrange` asks for; the recipe's section `data` has it. Both are probabilities.

    caption_first: that a caption stands before its image, or a text before its recording. caption_dropout: that there
    is none at all, which teaches the unconditional half of guidance.
    """

    @property
    def caption_first(self) -> float: ...

    @property
    def caption_dropout(self) -> float: ...


@dataclass(frozen=True)
class Part:
    """One piece of raw content. kind: its modality. value: text, or a medium as path, bytes, PIL image or Encoded."""

    kind: str
    value: Any
    loss: bool = True


@dataclass(frozen=True)
class Pair:
    """An image and its captions, any number of phrasings of the same thing."""

    id: str
    image: Any
    captions: tuple[str, ...] = ()

    def __post_init__(self):
        wrong = isinstance(self.captions, str)  # each of its letters would be a caption
        require(not wrong, f"{self.id}: captions must be several texts, such as ({self.captions!r:.40},)")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The image; which of the captions stands beside it is drawn anew each time."""
        return (Part("image", self.image),)

    @property
    def texts(self) -> list[str]:
        """All captions."""
        return list(self.captions)

    def arrange(self, rng: random.Random, options: Arranging) -> list[Part]:
        """One phrasing before or after the image, or the image alone."""
        image = Part("image", self.image)
        if not self.captions or rng.random() < options.caption_dropout:
            return [image]
        caption = Part("text", rng.choice(self.captions))
        return [caption, image] if rng.random() < options.caption_first else [image, caption]


@dataclass(frozen=True)
class Document:
    """Parts whose order is given."""

    id: str
    parts: tuple[Part, ...]

    def __post_init__(self):
        for part in self.parts:
            expect(isinstance(part, Part), f"{self.id}: the parts of a document are Part(kind, value)", part)

    @property
    def texts(self) -> list[str]:
        """The texts among the parts."""
        return [part.value for part in self.parts if part.kind == "text"]

    def arrange(self, rng: random.Random, options: Arranging) -> list[Part]:
        """The parts as they are."""
        return list(self.parts)


@dataclass(frozen=True)
class SpeechPair(Document):
    """A recording, behind its text if there is one, as the one or two `parts`."""

    def arrange(self, rng: random.Random, options: Arranging) -> list[Part]:
        """The text and the recording, either first, or the recording alone: as the caption and the image of a pair."""
        *text, sound = self.parts
        if not text or rng.random() < options.caption_dropout:
            return [sound]
        return [*text, sound] if rng.random() < options.caption_first else [sound, *text]


Sample = Pair | Document


def kinds_of(sample: Sample) -> set[str]:
    """The modalities of a sample's parts and captions."""
    kinds = {part.kind for part in sample.parts}
    return kinds | {"text"} if sample.texts else kinds


def texts_of(sample: Sample) -> list[str]:
    """All captions of a pair, or the texts of a document."""
    return sample.texts


def media_of(sample: Sample) -> list[Part]:
    """The pictures and sounds of a sample."""
    return [part for part in sample.parts if part.kind != "text"]


class Samples(Sequence[Sample]):
    """Samples that are read on access, by index or slice. A subclass defines `__len__` and `sample`.

    fingerprint: hex over all of them.
    keys: `sample_key` of each.
    source_ends: the index after the last sample of each file or folder that they come from, whose names are
    `source_names`.
    weights: how often an epoch shows each source, None where every sample is shown once.
    notices: what the reader left out or changed.
    broken: records that cannot be read, which are not among the samples.
    kinds: samples by the modalities of their parts.
    """

    fingerprint: str
    keys: array[int]
    weights: tuple[float, ...] | None = None

    @property
    def source_ends(self) -> list[int]:
        return [len(self)]

    @property
    def source_names(self) -> list[str]:
        return []

    @property
    def notices(self) -> Notices:
        return Notices()

    @property
    def broken(self) -> Notice:
        return Notice()

    @property
    def kinds(self) -> Counter[str]:
        return Counter()

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The sample of an index from 0 to the length less one."""

    def outline(self, index: int) -> Sample:
        """A sample whose media need not be read; None may stand in their place. The texts are all there."""
        return self[index]

    @overload
    def __getitem__(self, index: int, /) -> Sample: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Sample]: ...
    def __getitem__(self, index: int | slice, /) -> Sample | list[Sample]:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self.sample(each) for each in chosen]
        return self.sample(chosen)


@dataclass(frozen=True)
class Splits:
    """What training sees, and what it never sees."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]


def captioned_pairs(samples: Iterable[Sample]) -> list[Pair]:
    """The pictures with captions among these samples."""
    return [sample for sample in samples if isinstance(sample, Pair) and sample.captions]
