"""Spoken digits: the ten digit names and short captions said by many speakers of espeak-ng, with handwritten digits.

`load` gives the splits of a recipe: an `Utterance` for each phrase of each speaker, and the pairs of digits.py. The
split is by speaker, so no voice of the held-out part is heard in training; its pictures are digits.py's held-out ones.
`spoken_digits` makes the recordings and keeps them in the user's cache folder. `digit_in_text` scores a transcript.

Needs the extra `speech`. data.options: see `SpokenDigits`.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from mot_gen.data.samples import Arranging, Document, Pair, Part, Sample, Splits
from mot_gen.datasets import digits
from mot_gen.datasets.digits import WORDS
from mot_gen.datasets.spoken import Voice, draw_voice, synthesize_batch
from mot_gen.datasets.user_cache import cached_file
from mot_gen.errors import InputError, expect, require
from mot_gen.recipes.implementations import check_options
from mot_gen.recipes.sections import Data


@dataclass(frozen=True)
class SpokenDigits:
    """What is said. speakers: voices, all different. phrases: what each says of each digit, with {word} for its name.

    pictures: how often an utterance stands beside a handwritten digit instead of its text. written: share of the
    handwritten digits that also stand with their captions.
    """

    speakers: int = 160
    phrases: Sequence[str] = ("{word}", "the digit {word}")
    seed: int = 0
    pictures: float = 0.25
    written: float = 1.0

    def __post_init__(self):
        expect(self.speakers >= 1, "data.options.speakers must be at least 1", self.speakers)
        words = [phrase.count("{word}") for phrase in self.phrases]
        require(words and min(words), f"data.options.phrases must each hold {{word}}, got {list(self.phrases)}")
        for field in ("pictures", "written"):
            share = getattr(self, field)
            expect(0 <= share <= 1, f"data.options.{field} must lie in 0 to 1", share)


class Recording(NamedTuple):
    """A text that was said. digit: the one that it names. speaker: a number. sound: the bytes of a FLAC file."""

    text: str
    digit: int
    speaker: int
    voice: Voice
    sound: bytes


@dataclass(frozen=True)
class Utterance(Document):
    """A text as it is said, and a picture of the digit that it names, as its three parts.

    pictures: how often the picture takes the place of the text.
    """

    pictures: float = 0.0

    @property
    def text(self) -> str:
        return self.parts[0].value

    @property
    def sound(self) -> bytes:
        return self.parts[1].value

    @property
    def image(self) -> Any:
        return self.parts[2].value

    def arrange(self, rng: random.Random, options: Arranging) -> list[Part]:
        """The sound and its text, or the sound and the picture, either first.

        `options.caption_first` is the probability that the sound stands last, `options.caption_dropout` that of the
        sound alone, which teaches the unconditional half of guidance.
        """
        text, sound, image = self.parts
        other = image if rng.random() < self.pictures else text
        if rng.random() < options.caption_dropout:
            return [sound]
        return [other, sound] if rng.random() < options.caption_first else [sound, other]


def load(data: Data) -> Splits:
    """Utterances and pairs; `data.held_out` of the speakers are set aside, the choice fixed by `data.split_seed`."""
    check_options("data.options", SpokenDigits, data.options)
    options = SpokenDigits(**data.options)
    held_out = held_out_speakers(options.speakers, data.held_out, data.split_seed)
    written, recordings = digits.load(data), spoken_digits(options)
    learned = [each for each in recordings if each.speaker not in held_out]
    unheard = [each for each in recordings if each.speaker in held_out]
    return Splits(_samples(learned, written.train, options), _samples(unheard, written.held_out, options))


def held_out_speakers(speakers: int, share: float, seed: int) -> frozenset[int]:
    """The numbers of the speakers that training never hears."""
    return frozenset(random.Random(f"held-out speakers/{seed}").sample(range(speakers), round(speakers * share)))


def _samples(recordings: Sequence[Recording], written: Sequence[Sample], options: SpokenDigits) -> list[Sample]:
    """Each recording with one of the written digits that it names, in turn; then the written ones."""
    by_digit: list[list[Any]] = [[] for _ in range(10)]
    for pair in written:
        assert isinstance(pair, Pair)
        by_digit[digits.task().label(pair)].append(pair.image)
    found: list[Sample] = []
    for said in recordings:
        images = by_digit[said.digit]
        image = images[said.speaker % len(images)]
        parts = Part("text", said.text), Part("speech", said.sound), Part("image", image)
        found.append(Utterance(f"spoken/{said.speaker} {said.voice}/{said.text}", parts, options.pictures))
    return [*found, *written[: round(len(written) * options.written)]]


def spoken_digits(options: SpokenDigits) -> list[Recording]:
    """Every text by every speaker, a speaker after the other; spoken once. InputError without the extra."""
    import pyarrow.parquet

    stated = json.dumps([options.speakers, list(options.phrases), options.seed, _engine()])
    key = hashlib.sha256(stated.encode()).hexdigest()
    file = cached_file(f"spoken-digits-{key[:16]}.parquet", partial(_render, options))
    rows = pyarrow.parquet.read_table(file).to_pylist()
    return [Recording(**row | {"voice": Voice(**row["voice"])}) for row in rows]


def _engine() -> str:
    try:
        return version("espeakng-loader")
    except PackageNotFoundError as error:
        raise InputError("synthetic speech needs the extra: pip install 'mot-gen[speech]'") from error


def _render(options: SpokenDigits, file: BinaryIO) -> None:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    wanted: list[tuple[str, Voice]] = []
    for speaker, voice in enumerate(speakers(options.speakers, options.seed)):
        for digit, word in enumerate(WORDS):
            for phrase in options.phrases:
                text = phrase.format(word=word)
                wanted.append((text, voice))
                rows.append({"text": text, "digit": digit, "speaker": speaker, "voice": asdict(voice)})
    for row, sound in zip(rows, synthesize_batch(wanted)):
        row["sound"] = _flac(*sound)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def speakers(count: int, seed: int = 0) -> list[Voice]:
    """Voices drawn by the seed, all different; more of them begin with the same ones."""
    rng = random.Random(f"spoken digits/{seed}")
    voices: dict[Voice, None] = {}  # in the order in which they were drawn
    while len(voices) < count:
        voices[draw_voice(rng)] = None
    return list(voices)


def _flac(samples: Tensor, sample_rate: int) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples.numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def digit_in_text(text: str) -> int | None:
    """The digit whose name is the one digit name in `text`; None where there is none, or several."""
    named = [WORDS.index(word) for word in text.lower().split() if word in WORDS]
    return named[0] if len(named) == 1 else None
