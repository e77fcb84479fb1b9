"""Spoken digits: every text by every speaker, no speaker on both sides, arranged in all orders, and what is refused."""

import importlib.util
import random
import sys

import pytest

from mot_gen.data.records import Pair
from mot_gen.datasets import digits, spoken_digits
from mot_gen.datasets.digits import WORDS
from mot_gen.datasets.spoken import synthesize
from mot_gen.datasets.spoken_digits import Utterance, digit_in_text, held_out_speakers, load, speakers
from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.recipes.sections import Data

OPTIONS = {"speakers": 4, "phrases": ["{word}", "digit {word}"]}
has_espeak = pytest.mark.skipif(not importlib.util.find_spec("espeakng_loader"), reason="needs the extra speech")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield patch


@pytest.fixture(scope="module")
def splits(cache):
    return load(Data(source="spoken_digits", options=OPTIONS, held_out=0.25))


def spoken(samples):
    return [sample for sample in samples if isinstance(sample, Utterance)]


@has_espeak
def test_every_speaker_says_every_text_and_is_on_one_side(splits):
    texts = sorted(f"{lead}{word}" for word in WORDS for lead in ("", "digit "))
    heard = {side: spoken(getattr(splits, side)) for side in ("train", "held_out")}
    voices = {side: {sample.id.split("/")[1] for sample in samples} for side, samples in heard.items()}
    assert [len(voices["train"]), len(voices["held_out"])] == [3, 1] and not voices["train"] & voices["held_out"]
    for side, samples in heard.items():
        for voice in voices[side]:
            assert sorted(sample.text for sample in samples if sample.id.split("/")[1] == voice) == texts
    assert len({sample.id for sample in [*splits.train, *splits.held_out]}) == 4 * 20 + 1797


@has_espeak
def test_a_sound_is_what_espeak_says_and_is_kept(splits, cache):
    sample = spoken(splits.train)[3]
    number = int(sample.id.split("/")[1].split()[0])
    samples, rate = load_audio(sample.sound)
    want, want_rate = synthesize(sample.text, speakers(4)[number])
    assert rate == want_rate == 22050 and samples.equal(want)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_digits, "synthesize_batch", lambda *_: pytest.fail("said again"))
        again = load(Data(source="spoken_digits", options=OPTIONS, held_out=0.25))
    assert [s.sound for s in spoken(again.train)] == [s.sound for s in spoken(splits.train)]


@has_espeak
def test_a_picture_shows_the_digit_that_is_said_and_stays_on_its_side(splits):
    written = digits.load(Data(held_out=0.25))
    for said, pairs in ((splits.train, written.train), (splits.held_out, written.held_out)):
        digit_of = {pair.image.tobytes(): digits.task().label(pair) for pair in pairs}
        assert all(digit_of[s.image.tobytes()] == digit_in_text(s.text) for s in spoken(said))
        assert sum(isinstance(sample, Pair) for sample in said) == len(pairs)


@has_espeak
def test_sounds_stand_beside_texts_and_pictures_in_both_orders_and_alone(splits):
    sample, rng = spoken(splits.train)[0], random.Random(0)
    data = Data(caption_first=0.5, caption_dropout=0.1)
    orders = [" ".join(part.kind for part in sample.arrange(rng, data)) for _ in range(2000)]
    share = {order: orders.count(order) / 2000 for order in set(orders)}
    expected = {
        "text speech": 0.3375,
        "speech text": 0.3375,
        "image speech": 0.1125,
        "speech image": 0.1125,
        "speech": 0.1,
    }
    assert share == pytest.approx(expected, abs=0.035)


def test_more_speakers_begin_with_the_same_ones():
    assert speakers(30)[:10] == speakers(10) and len(set(speakers(30))) == 30 and speakers(3, seed=1) != speakers(3)
    assert len(held_out_speakers(20, 0.15, 0)) == 3 and held_out_speakers(20, 0.15, 0) != held_out_speakers(20, 0.15, 1)


def test_a_text_names_a_digit_or_none():
    assert digit_in_text("the digit seven") == 7 and digit_in_text("Zero") == 0
    assert digit_in_text("seven seven") is digit_in_text("seventeen") is digit_in_text("") is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"speakers": 0}, "speakers must be at least 1"),
        ({"speaker": 3}, "speaker is not known; did you mean 'speakers'"),
        ({"phrases": ["seven"]}, "phrases must each hold {word}"),
        ({"pictures": 2.0}, "pictures must lie in 0 to 1"),
        ({"written": -1.0}, "written must lie in 0 to 1"),
    ],
)
def test_options_are_checked(options, complaint):
    with pytest.raises(InputError, match=rf"data\.options\.{complaint}") as error:
        load(Data(source="spoken_digits", options=options))
    assert "\n" not in str(error.value)


def test_without_the_extra_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        spoken_digits, "version", lambda name: (_ for _ in ()).throw(spoken_digits.PackageNotFoundError)
    )
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"mot-gen\[speech\]"):
        load(Data(source="spoken_digits"))
