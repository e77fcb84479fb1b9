"""Samples as they are shown: `SampleReader` arranges them, drafts their spans and reads their raw media.

Every choice comes from a generator that is seeded by (seed, turn, index), so a sample is the same on any rank.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mot_gen.data import records
from mot_gen.data.augment import augment
from mot_gen.data.drafts import Draft
from mot_gen.data.encoded import Encoded, fixed_grid, fixed_length
from mot_gen.data.left_out import LeftOut
from mot_gen.data.mixture import SampleDraw
from mot_gen.data.picture_watch import PictureWatch
from mot_gen.data.roles import with_roles
from mot_gen.data.samples import UNUSABLE, Part, Sample
from mot_gen.data.spans import Pending
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.image_files import load_image
from mot_gen.recipes.sections import Augment, Data
from mot_gen.sequence import Span


@dataclass(frozen=True)
class SampleReader:
    """Reads samples for the loader.

    tokenizers: modality -> tokenizer, text first.
    fingerprints: of each.
    data: the recipe's section.
    seed: of training.
    left_out: takes the samples that cannot be used.
    pictures: takes those that lose size or colour.
    """

    samples: Sequence[Sample]
    tokenizers: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    data: Data
    seed: int
    left_out: LeftOut
    pictures: PictureWatch

    def draft(self, showing: SampleDraw) -> Draft | None:
        """A sample arranged anew, with what is known of its spans before anything is tokenised; None if left out."""
        sample: Sample | None = None
        with self.left_out.catching(showing.index):
            sample = records.outline(self.samples, showing.index)
        if sample is None:
            return None
        parts = self._arranged(sample, showing)
        for part in parts:
            self._check_part(sample.id, part)
        with self.left_out.catching(showing.index, f"{sample.id}: "):
            return Draft(showing, sample.id, self._begun(parts, showing))
        return None

    def read(self, pendings: Sequence[Pending]) -> list[Any]:
        """The raw medium or text of each, or the error that reading it raised."""
        raws: list[Any] = []
        parts: dict[SampleDraw, list[Part]] = {}
        for pending in pendings:
            try:
                raws.append(self._raw(pending, parts))
            except UNUSABLE as error:
                raws.append(error)
        return raws

    def _arranged(self, sample: Sample, showing: SampleDraw) -> list[Part]:
        rng = random.Random(f"{self.seed}/{showing.turn}/{showing.index}")
        return with_roles(sample.arrange(rng, self.data), self.tokenizers)

    def _check_part(self, id: str, part: Part) -> None:
        """What no other sample would do better: a modality without a tokenizer, tokens that another tokenizer made."""
        kind, value = part.kind, part.value
        if kind not in self.tokenizers:
            raise InputError(f"{id}: no tokenizer for {kind!r}{nearest(kind, self.tokenizers)}")
        own = self.fingerprints[kind]
        if isinstance(value, Encoded) and value.fingerprint != own:
            raise InputError(
                f"{id}: its {kind} tokens were made by tokenizer {value.fingerprint[:12]}, the recipe's is "
                f"{own[:12]}; give tokenizers.{kind}.path=FOLDER of that one, or run mot-gen data tokenize again"
            )

    # ---------------------------------------------------------------- before anything is tokenised

    def _begun(self, parts: Sequence[Part], showing: SampleDraw) -> list[Span | Pending]:
        """The spans of a sample's parts, those that are tokens already made."""
        seen: Counter[str] = Counter()
        spans: list[Span | Pending] = []
        for place, part in enumerate(parts):
            spans.append(self._known_span(part) or self._pending(part, showing, place, seen[part.kind]))
            seen[part.kind] += 1
        return spans

    def _known_span(self, part: Part) -> Span | None:
        """The span of a part whose tokens are there."""
        if not isinstance(part.value, Encoded) or part.value.values is None:
            return None
        return self._in_vocabulary(part.value, part.kind).span(part.kind, part.loss)

    def _pending(self, part: Part, showing: SampleDraw, place: int, number: int) -> Pending:
        """number: how many parts of this kind came before it, which names it in any arrangement."""
        options = self.data.augment
        varies = part.kind == "image" and options.active
        variant = _variant(options, showing.turn) if varies else None
        repeats = options.variants > 0 or not varies  # whether the same span comes again, so that it is worth keeping
        raw = part.value if _is_kept_raw(part.value) else None
        length, grid = self._size(part)
        return Pending(
            part.kind,
            _key(part, showing, number, variant),
            showing,
            place,
            part.loss,
            length=length,
            grid=grid,
            kept=repeats,
            raw=raw,
            number=number,
            variant=variant or 0,
        )

    def _size(self, part: Part) -> tuple[int | None, tuple[int, int] | None]:
        """Tokens and grid of a part's span, as far as they are known before it is made."""
        if isinstance(part.value, Encoded):
            return part.value.count, part.value.grid
        tokenizer = self.tokenizers[part.kind]
        return fixed_length(tokenizer), fixed_grid(tokenizer)

    # ---------------------------------------------------------------- raw media

    def _raw(self, pending: Pending, parts: dict[SampleDraw, list[Part]]) -> Any:
        """A raw medium or text. parts: of the samples that were read for others already."""
        showing, raw = pending.showing, pending.raw
        if raw is None:
            if showing not in parts:
                parts[showing] = self._arranged(self.samples[showing.index], showing)
            raw = parts[showing][pending.place].value
        if isinstance(raw, Encoded):
            return self._in_vocabulary(raw, pending.modality)
        return self._picture(raw, pending) if pending.modality == "image" else raw

    def _picture(self, raw: Any, pending: Pending) -> Any:
        """A picture, changed by (seed, index, number, variant) if the recipe says so."""
        self.pictures.look(raw, pending.showing.index)
        if not self.data.augment.active:
            return raw
        mode = "L" if self.tokenizers[pending.modality].color_channels == 1 else "RGB"
        rng = random.Random(f"augment/{self.seed}/{pending.showing.index}/{pending.number}/{pending.variant}")
        return augment(load_image(raw, mode), self.data.augment, rng)

    def _in_vocabulary(self, encoded: Encoded, modality: str) -> Encoded:
        """Tokens made before, all of which are in the vocabulary of their tokenizer."""
        size = self.tokenizers[modality].modality.vocab_size
        if size is not None:
            largest = int(encoded.read().max())
            require(largest < size, f"its {modality} tokens go up to {largest}, their vocabulary to {size - 1}")
        return encoded


def _variant(augment: Augment, turn: int) -> int:
    """The number of the change that a picture gets in this turn; one that comes again is kept."""
    return turn % augment.variants if augment.variants else turn


def _key(part: Part, showing: SampleDraw, number: int, variant: int | None) -> tuple[Any, ...]:
    """Equal for equal spans. variant: None for what is not changed."""
    if variant is not None:
        return part.kind, showing.index, number, variant
    if isinstance(part.value, str):
        return part.kind, part.value
    return part.kind, showing.index, number


def _is_kept_raw(value: Any) -> bool:
    """Whether a value is small enough to be kept until it is needed: a text or a path."""
    return isinstance(value, str) or hasattr(value, "read_bytes")
