"""A judge of several attributes learns what pictures show, wherever it is shown, and says how well it does."""

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.eval.images.judge import AttributeJudge, train_attribute_judge

HEADS = {"shape": 2, "place": 4}


def squares(n, seed):
    """Pictures of a filled or a hollow square, each in a quarter of 16 x 16 on grey of any brightness."""
    g = torch.Generator().manual_seed(seed)
    shape, place = (torch.randint(count, (n,), generator=g) for count in HEADS.values())
    images = torch.randint(60, 120, (n, 1, 1, 1), generator=g).expand(n, 3, 16, 16).clone()
    for image, hollow, quarter in zip(images, shape, place):
        down, right = 8 * (quarter // 2), 8 * (quarter % 2)
        image[:, down + 1 : down + 7, right + 1 : right + 7] = 255
        if hollow:
            image[:, down + 3 : down + 5, right + 3 : right + 5] = 80
    return images.to(torch.uint8), {"shape": shape, "place": place}


@pytest.fixture(scope="module")
def judge():
    return train_attribute_judge(lambda step: squares(32, step), HEADS, ("place",), steps=120)


def test_unseen_pictures_are_judged_right(judge):
    images, wanted = squares(200, 10**6)
    found = judge.accuracy(images, wanted)
    assert found.keys() == {"shape", "place", "all"} and min(found.values()) >= 0.95
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert judge.accuracy(noise, wanted)["all"] < 0.4


def test_all_means_every_attribute_of_the_same_picture(judge):
    images, wanted = squares(200, 10**6 + 1)
    wrong = wanted["shape"].clone()
    wrong[:50] = 1 - wrong[:50]
    places = wanted["place"].clone()
    places[40:100] = (places[40:100] + 1) % 4
    found = judge.accuracy(images, {"shape": wrong, "place": places})
    assert found["all"] <= 0.5 + 0.02 < found["place"] < found["shape"]


def test_training_is_seeded_and_leaves_the_callers_random_state():
    before = torch.get_rng_state()
    one, two = (train_attribute_judge(lambda step: squares(8, step), HEADS, ("place",), 2).state_dict() for _ in "ab")
    assert torch.equal(before, torch.get_rng_state()) and all(torch.equal(one[key], two[key]) for key in one)


def test_other_pictures_are_refused():
    judge = AttributeJudge(HEADS, (16, 16))
    for images in (torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(InputError, match="resize the pictures"):
            judge(images)
