"""Whether training can use a sample, and how many tokens it has: SampleChecker, CheckedSample, PROBLEMS.

Pictures are decoded, not encoded: a tokenizer of pictures gives the same number of tokens for each. Sound is encoded,
where there is a tokenizer for it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mot_gen.data.encoded import Encoded, fixed_grid
from mot_gen.data.picture_watch import PictureWatch
from mot_gen.data.samples import UNUSABLE, Arranging, Pair, Part, Sample, Splits, sample_key
from mot_gen.data.store import medium_bytes, parts_of
from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.files.image_files import load_image

if TYPE_CHECKING:  # a recipe brings torch along, which records alone do without
    from mot_gen.recipes.recipe import Recipe

# Why training cannot use a sample. The last two stop it; of the others it takes `training.max_corrupt`.
PROBLEMS = ("unreadable record", "missing file", "broken media", "too long", "no tokenizer", "other tokenizer")


READERS: dict[str, Callable[[Any], object]] = {"image": load_image, "speech": load_audio}


class UnusableSample(Exception):
    """problem: one of PROBLEMS."""

    def __init__(self, problem: str, reason: str):
        super().__init__(reason)
        self.problem = problem


def usable(ok: bool, problem: str, reason: str) -> None:
    """Raise UnusableSample, unless `ok`."""
    if not ok:
        raise UnusableSample(problem, reason)


class CheckedPart(NamedTuple):
    """What is known of one part of a sample.

    modality: its name.
    tokens: how many; of text without a tokenizer its bytes.
    learned: whether it carries loss.
    grid: of a picture, where it is known.
    """

    modality: str
    tokens: int
    learned: bool
    grid: tuple[int, int] | None = None


@dataclass
class CheckedSample:
    """What one sample is.

    problem, reason: why training cannot use it, or empty. length: slots of a row that training plans for it, also where
    its media turn out broken; 0 without tokenizers. changes: what becomes of its pictures, and their names.

    id, content, media: keys to find duplicates by, of its id, of all that it holds, and of each medium; 0 and none
    where it cannot be used.
    """

    name: str
    problem: str = ""
    reason: str = ""
    parts: list[CheckedPart] = field(default_factory=list)
    length: int = 0
    changes: list[tuple[str, str]] = field(default_factory=list)
    id: int = 0
    content: int = 0
    media: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class DefaultArranging:
    """How pairs are arranged where there is no recipe: every caption counts."""

    caption_first: float = 0.5
    caption_dropout: float = 0.0


@dataclass(frozen=True)
class SampleChecker:
    """What samples are measured by.

    tokenizers: modality -> tokenizer, text first. Without any, texts count in bytes, and nothing is too long.
    row_length: slots of a row, 0 without tokenizers.
    window: samples that are packed together.
    made_later: modalities whose tokenizer the run trains, so that its fingerprint is not known.
    """

    tokenizers: Mapping[str, Any] = field(default_factory=dict)
    data: Arranging = field(default_factory=DefaultArranging)
    row_length: int = 0
    window: int = 1
    made_later: frozenset[str] = frozenset()

    @classmethod
    def of(cls, recipe: Recipe, splits: Splits) -> SampleChecker:
        """The recipe's own; tokenizers that it would train are taken untrained, whose lengths are the same."""
        from mot_gen.training.build import build_tokenizers

        later = frozenset(name for name, section in recipe.tokenizers.items() if section.train is not None)
        tokenizers = build_tokenizers(recipe, splits)
        return cls(tokenizers, recipe.data, recipe.training.row_length, recipe.data.window, later)

    @cached_property
    def _modalities(self) -> list[Any]:
        return [tokenizer.modality for tokenizer in self.tokenizers.values()]

    @cached_property
    def _pictures(self) -> PictureWatch:
        return PictureWatch(self.tokenizers, 0)

    def measure(self, samples: Sequence[Sample], index: int) -> CheckedSample:
        """The sample as one epoch might arrange it."""
        try:
            sample = samples[index]
        except UNUSABLE as error:
            return CheckedSample(f"sample {index}", "unreadable record", str(error))
        found = CheckedSample(sample.id, id=sample_key(sample.id))
        try:
            self._measure(sample, sample.arrange(random.Random(f"measure/{index}"), self.data), found)
        except UnusableSample as error:
            found.problem, found.reason = error.problem, str(error)
        return found

    def _measure(self, sample: Sample, arranged: Sequence[Part], found: CheckedSample) -> None:
        """Fill in what is found of a sample, as far as it can be used."""
        for part in arranged:
            tokens, grid = self._tokens(part)
            found.parts.append(CheckedPart(part.kind, tokens, part.loss, grid))
        found.length = self._length(found.parts)
        for part in arranged:
            self._decode(part)
        for raw in [part.value for part in arranged if part.kind == "image"]:
            found.changes += self._pictures.changes(raw, sample.id)
        found.media, found.content = _keys(sample)

    def _tokens(self, part: Part) -> tuple[int, tuple[int, int] | None]:
        """How many a part has, or will have, and their grid: of pictures that is known before they are read."""
        tokenizer = self.tokenizers.get(part.kind)
        known = tokenizer is not None or not self.tokenizers
        usable(known, "no tokenizer", f"the recipe has no tokenizer for {part.kind}")
        if isinstance(part.value, Encoded):
            self._check_made_by(part.value, part.kind)
            return len(part.value), part.value.grid
        if tokenizer is None:
            return (len(part.value.encode()) if part.kind == "text" else 0), None
        grid = fixed_grid(tokenizer)  # None where pictures are of several sizes
        if grid is not None:
            return grid[0] * grid[1], grid
        with _reading(part):
            span = tokenizer.encode(part.value)
            return len(span), span.grid

    def _check_made_by(self, tokens: Encoded, kind: str) -> None:
        """Tokens made before must be of the recipe's tokenizer, unless that is still to be trained."""
        made = tokens.fingerprint
        own = self._fingerprints.get(kind, made)
        usable(own == made, "other tokenizer", f"its {kind} is of tokenizer {made[:12]}, not of {own[:12]}")

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        """The fingerprints of tokenizers that exist already; each is a hash of all weights."""
        return {name: t.fingerprint for name, t in self.tokenizers.items() if name not in self.made_later}

    def _decode(self, part: Part) -> None:
        """Read a medium of which nothing was encoded, to see whether it can be read."""
        tokenizer, read = self.tokenizers.get(part.kind), READERS.get(part.kind)
        if read is None or isinstance(part.value, Encoded):
            return
        if tokenizer is None or fixed_grid(tokenizer) is not None:
            with _reading(part):
                read(part.value)

    def _length(self, parts: Sequence[CheckedPart]) -> int:
        """The slots of a row that a sample takes; UnusableSample where it is too long."""
        if not self.tokenizers:
            return 0
        import torch

        from mot_gen.packing import document_length
        from mot_gen.sequence import Span

        spans = [Span(part.modality, torch.empty(part.tokens), part.grid) for part in parts]
        length = document_length(spans, self._modalities)
        usable(length <= self.row_length, "too long", f"{length} tokens do not fit a row of {self.row_length}")
        return length


@contextmanager
def _reading(part: Part) -> Iterator[None]:
    """What goes wrong with a medium, told apart."""
    try:
        yield
    except UNUSABLE as error:
        missing = isinstance(part.value, Path) and not part.value.exists()
        usable(not missing, "missing file", f"{part.value}: no such file")
        raise UnusableSample("broken media", str(error)) from None


# ---------------------------------------------------------------- keys


def _keys(sample: Sample) -> tuple[list[int], int]:
    """A key of each medium, by its content and not its path; and a key of the sample: texts, media, and what carries
    loss."""
    media, contents = [], []
    for part in parts_of(sample):
        text = part.value if isinstance(part.value, str) else ""
        contents.append((part.kind, part.loss, text))
        if not text:
            media.append(_medium_key(part.value))
    captions = sorted(sample.captions) if isinstance(sample, Pair) else []
    return media, sample_key(repr((contents, captions, media)))


def _medium_key(value: Any) -> int:
    """A key that follows from what a medium holds."""
    try:
        content = value.read().numpy().tobytes() if isinstance(value, Encoded) else medium_bytes(value)
    except (OSError, InputError) as error:
        raise UnusableSample("broken media", str(error)) from None
    return sample_key(hashlib.sha256(content).hexdigest())
