"""Synthetic speech: the same each time whatever was said before, voices that differ, and what is refused."""

import importlib.util
import random
import sys

import pytest
import torch

from mot_gen.datasets.spoken import ACCENTS, VARIANTS, Spoken, Voice, draw_voice, speak, synthesize, synthesize_batch
from mot_gen.errors import InputError

has_espeak = pytest.mark.skipif(not importlib.util.find_spec("espeakng_loader"), reason="needs the extra speech")


@has_espeak
def test_a_phrase_is_the_same_alone_and_after_others():
    phrases = [("seven", Voice()), ("the digit nine", Voice("en", "f2", 200, 60)), ("seven", Voice())]
    together = synthesize_batch(phrases)
    for (text, voice), (samples, rate) in zip(phrases, together):
        alone, _ = synthesize(text, voice)
        assert torch.equal(alone, samples) and rate == 22050
        assert 0.1 < len(samples) / rate < 3 and 0.05 < samples.abs().max() <= 1
    assert synthesize_batch([]) == []


@has_espeak
def test_speed_and_pitch_do_what_they_say():
    slow, fast = (synthesize("a handwritten seven", Voice(speed=speed))[0] for speed in (100, 300))
    assert len(slow) > 1.8 * len(fast)
    low, high = (synthesize("aaah", Voice(pitch=pitch, pitch_range=0))[0] for pitch in (10, 90))
    assert period(low) > 1.4 * period(high)


def period(samples):
    """Samples from one cycle of a voice to the next: the lag, for 50 to 500 Hz, of the greatest autocorrelation."""
    steady = samples[len(samples) // 4 : len(samples) // 2]
    power = torch.fft.rfft(steady, 2 * len(steady)).abs().square()
    return int(torch.fft.irfft(power)[44:441].argmax()) + 44


@has_espeak
def test_phones_stand_where_they_are_heard():
    """A sibilant lies above 3 kHz, a vowel below; pauses are silent."""
    (said,) = speak([("see. See!", Voice())])
    assert [name for name, _ in said.phones if name] == ["s", "i:", "s", "i:"]
    starts = [start for _, start in said.phones]
    assert starts == sorted(starts)
    for (name, start), end in zip(said.phones, starts[1:]):
        power = torch.fft.rfft(said.samples[start:end]).abs().square()
        high = power[len(power) * 3000 // (said.rate // 2) :].sum() / power.sum()
        assert (high > 0.5) == (name == "s") or not name


def test_the_phone_at_a_time_is_the_one_that_began_last():
    said = Spoken(torch.zeros(100), 10, (("a", 2), ("", 5), ("b", 8)))
    assert said.phones_at(torch.tensor([0.0, 0.2, 0.49, 0.5, 0.9])) == ["", "a", "a", "", "b"]


@has_espeak
def test_every_accent_and_variant_is_there():
    voices = [Voice(accent) for accent in ACCENTS] + [Voice(variant=variant) for variant in VARIANTS[1:]]
    sounds = [samples.numpy().tobytes() for samples, _ in synthesize_batch([("three", voice) for voice in voices])]
    assert len(set(sounds)) == len(voices)


@has_espeak
@pytest.mark.parametrize(("text", "voice"), [("", Voice()), ("  ", Voice()), ("one", Voice("xx-yy"))])
def test_what_cannot_be_said_is_refused_in_one_line(text, voice):
    with pytest.raises(InputError) as caught:
        synthesize(text, voice)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"speed": 20}, {"pitch": 101}, {"pitch_range": -1}, {"variant": "f22"}])
def test_voices_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Voice(**wrong)


def test_voices_are_drawn_by_the_generator():
    assert [draw_voice(random.Random(0)) for _ in range(2)] == [draw_voice(random.Random(0)) for _ in range(2)]
    rng = random.Random(0)
    assert len({draw_voice(rng) for _ in range(200)}) == 200


def test_without_the_extra_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"mot-gen\[speech\]"):
        synthesize("one")
