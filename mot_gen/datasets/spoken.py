"""Synthetic speech by espeak-ng: synthesize, synthesize_batch, speak (with its phones), Spoken, Voice, draw_voice.

Needs the extra `speech` (espeakng-loader, which carries the espeak-ng library and its voices; GPL-3), and forks, so
not Windows. The library is loaded only by a process of its own (espeak.py).
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError, expect, nearest, require

VARIANTS = ("", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
_BOUNDS = (("speed", 80, 450), ("pitch", 0, 100), ("pitch_range", 0, 100))
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp")


@dataclass(frozen=True)
class Voice:
    """A speaker.

    accent: an espeak-ng language.
    variant: a build of the voice, "" for the plain one.
    speed: words a minute, 80 to 450.
    pitch, pitch_range: 0 to 100; 50 is usual.
    """

    accent: str = "en-us"
    variant: str = ""
    speed: int = 175
    pitch: int = 50
    pitch_range: int = 50

    def __post_init__(self):
        for field, low, high in _BOUNDS:
            value = getattr(self, field)
            expect(low <= value <= high, f"voice {field} must lie in {low} to {high}", value)
        if self.variant not in VARIANTS:
            raise InputError(f"voice variant {self.variant!r} is not known" + nearest(self.variant, VARIANTS))

    def __str__(self) -> str:
        return f"{self.name} {self.speed}-{self.pitch}-{self.pitch_range}"

    @property
    def name(self) -> str:
        """As espeak-ng writes it: "en-us+f2"."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


def draw_voice(rng: random.Random) -> Voice:
    """A speaker at random, who speaks neither so fast nor so high that a word is hard to tell."""
    return Voice(
        rng.choice(ACCENTS), rng.choice(VARIANTS), rng.randint(120, 220), rng.randint(25, 75), rng.randint(30, 70)
    )


@dataclass(frozen=True)
class Spoken:
    """One phrase, spoken.

    samples: (T,) in [-1, 1]. rate: Hz. phones: (name, its first sample) in order, "" for a pause.
    """

    samples: Tensor
    rate: int
    phones: tuple[tuple[str, int], ...]

    def phones_at(self, times: Tensor) -> list[str]:
        """The phone at each of these times, in seconds from 0; "" before the first."""
        starts = torch.tensor([start for _, start in self.phones])
        places = torch.searchsorted(starts, (times * self.rate).long(), right=True) - 1
        return [self.phones[place][0] if place >= 0 else "" for place in places.tolist()]


def synthesize(text: str, voice: Voice | None = None) -> tuple[Tensor, int]:
    """A text spoken -> (samples (T,) in [-1, 1], their rate in Hz), always the same; errors as `synthesize_batch`."""
    return synthesize_batch([(text, voice or Voice())])[0]


def synthesize_batch(phrases: Sequence[tuple[str, Voice]]) -> list[tuple[Tensor, int]]:
    """Texts by voices, in one start of espeak-ng -> as `synthesize`, each the same as alone.

    Raises InputError without the extra, for an accent that espeak-ng lacks, and for a text that gives no sound.
    """
    return [(each.samples, each.rate) for each in speak(phrases)]


def speak(phrases: Sequence[tuple[str, Voice]]) -> list[Spoken]:
    """As `synthesize_batch`, with the phones and when each is said."""
    requests = []
    for text, voice in phrases:
        how = {"speed": voice.speed, "pitch": voice.pitch, "pitch_range": voice.pitch_range}
        requests.append({"text": text, "voice": voice.name, **how})
    answers = _run(requests) if requests else []
    return [_spoken(request, *answer) for request, answer in zip(requests, answers)]


def _spoken(request: dict, header: dict, data: bytes) -> Spoken:
    text, voice, error = request["text"], request["voice"], header["error"]
    require(error != "voice", f"espeak-ng has no voice {voice!r}; en-us, en and de are some that it has")
    require(not error, f"text {text!r} gives no sound in {voice!r}; give letters or digits")
    samples = torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 2**15
    return Spoken(samples, header["rate"], tuple((_plain(name), start) for name, start in header["phones"]))


def _plain(phone: str) -> str:
    """A phone without its marks of stress; a pause of any length is the empty string."""
    return "" if phone.startswith("_") else phone.lstrip("',%=")


def _run(requests: list[dict]) -> list[tuple[dict, bytes]]:
    """Header and samples of each request, from one run of espeak.py, which says each phrase as if it were the first."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError("synthetic speech needs the extra: pip install 'mot-gen[speech]'") from error
    found = [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
    script = Path(__file__).with_name("espeak.py")
    lines = "".join(json.dumps(request) + "\n" for request in requests).encode()
    done = subprocess.run([sys.executable, "-IS", script, *map(str, found)], input=lines, capture_output=True)
    stream = io.BytesIO(done.stdout)
    answers = []
    while header := stream.readline():
        fields = json.loads(header)
        answers.append((fields, stream.read(fields["bytes"])))
    if len(answers) < len(requests):
        reason = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        raise InputError(f"espeak-ng stopped at {requests[len(answers)]['text']!r} ({reason}); install it again")
    return answers
