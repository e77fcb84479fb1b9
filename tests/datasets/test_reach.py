"""The reach task: scenes, what is asked for, the way there, and the simulator."""

from dataclasses import replace

import numpy as np
import pytest

from mot_gen.datasets import reach
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.recipes.sections import Data

SCENES = [reach.draw_scene(np.random.default_rng(n), 3) for n in range(50)]


def test_things_of_a_scene_differ_in_colour_and_touch_nothing():
    for scene in SCENES:
        places = np.array([*(thing.place for thing in scene.things), scene.hand])
        apart = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(4, 1)]
        assert len({thing.colour for thing in scene.things}) == 3 and apart.min() > 2 * reach.RADIUS
        assert places.min() >= reach.RADIUS and places.max() <= 1 - reach.RADIUS


def test_a_picture_shows_each_thing_in_its_colour_and_the_hand_in_white():
    for scene in SCENES[:10]:
        picture = np.asarray(reach.render(scene)).astype(int)
        for place, colour in [(t.place, reach.COLOURS[t.colour]) for t in scene.things] + [(scene.hand, (255,) * 3)]:
            x, y = (int(c * reach.SIDE) for c in place)
            assert np.abs(picture[y, x] - colour).max() < 130
        at_goal = np.asarray(reach.render(replace(scene, hand=scene.goal))).astype(int)
        assert (at_goal != picture).any()


def test_the_way_leads_to_the_target_and_to_no_other_thing():
    for scene in SCENES:
        moves = reach.moves_to(scene)
        assert moves.shape == (reach.MOVES, 2) and reach.reached(scene, moves)
        np.testing.assert_allclose(reach.follow(scene.hand, moves), scene.goal, atol=1e-6)
        others = [replace(scene, target=n) for n in range(3) if n != scene.target]
        assert not any(reach.reached(other, moves) for other in others)
        assert not reach.reached(scene, 0 * moves)


def test_the_simulator_shortens_long_moves_and_keeps_the_hand_inside():
    assert reach.follow((0.5, 0.5), np.array([[10.0, 0.0]])) == pytest.approx((0.5 + reach.LONGEST, 0.5))
    assert reach.follow((0.1, 0.9), np.array([[-0.2, 0.2]] * 3)) == pytest.approx((0.0, 1.0))


def test_samples_are_read_asked_foreseen_and_acted():
    splits = reach.load(Data(source="reach", options={"count": 60, "foreseen": 0.5}, held_out=0.25))
    assert len(splits.train) == 45 and len(splits.held_out) == 15
    kinds = [tuple(part.kind for part in sample.parts) for sample in [*splits.train, *splits.held_out]]
    assert set(kinds) == {("sight", "text", "vector"), ("sight", "text", "image", "vector")}
    assert 15 < sum("image" in each for each in kinds) < 45
    again = reach.load(Data(source="reach", options={"count": 60}, held_out=0.25))
    assert np.array_equal(splits.train[0].parts[-1].value, again.train[0].parts[-1].value)


def test_success_counts_what_reaches_and_chance_what_another_scene_would():
    """A pipeline that knows the way succeeds always, one that stands still never."""

    class Knows:
        def __init__(self, scale):
            rng = np.random.default_rng([0, 0, 1])
            self.scenes, self.scale = [reach.draw_scene(rng, 3) for _ in range(40)], scale

        def __call__(self, prompt, image, foresee, generator):
            from types import SimpleNamespace

            import torch

            assert len(prompt) == len(image) == len(generator)
            return SimpleNamespace(vectors=[torch.from_numpy(self.scale * reach.moves_to(s)) for s in self.scenes])

    data = Data(source="reach", options={}, split_seed=0)
    right, still = (reach.measure(Knows(scale), data, 40) for scale in (1.0, 0.0))
    assert right["foreseeing"]["success"] == right["without"]["success"] == 1.0
    assert right["without"]["error"] == 0 and right["without"]["chance"] < 0.5 and right["any_thing"] == 1 / 3
    assert still["without"]["success"] == 0.0 and still["without"]["error"] > 0


def test_the_recipe_has_three_towers_of_different_widths():
    recipe = load_recipe("reach")
    assert recipe.backbone.options["towers"] == {"read": ["text", "sight"], "foresee": ["image"], "act": ["vector"]}
    assert recipe.backbone.options["widths"] == {"foresee": 64, "act": 48} and recipe.backbone.options["dim"] == 96


@pytest.mark.parametrize(
    "options, complaint",
    [({"objects": 9}, "2 to 4 objects"), ({"count": 0}, "count >= 1"), ({"foreseen": 2}, "must lie in 0 to 1")],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        reach.load(Data(source="reach", options=options))
