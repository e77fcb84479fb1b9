"""Rewards by name: judges of one's own labels, lengths, functions with options, and their weighted sum."""

import importlib
import json
from pkgutil import iter_modules

import pytest
import torch
from PIL import Image
from tiny_rewards import learn, rewarded

from mot_gen.data.records import Splits
from mot_gen.datasets import digits
from mot_gen.errors import InputError
from mot_gen.files.image_files import image_tensor
from mot_gen.recipes.sections import Data
from mot_gen.reinforce import reward_kinds
from mot_gen.reinforce.rewards import HOME, OWN_KINDS, WRITTEN, RewardInputs, make_rewards

SPLITS = Splits([], [])
BRIGHT_AND_DARK = torch.stack([torch.full((1, 8, 8), level) for level in (0.95, 0.05)])


def recipe(*overrides):
    return rewarded("digits-reward", "nowhere", "reinforce.watched={}", *overrides)


def samples(images=None, texts=("a", "a b c")):
    return RewardInputs(["one dark thing", "a dark one"], texts, images, [["a"], ["a b"]], ["first", "second"])


def test_every_kind_says_what_must_be_written_for_it():
    found = {
        module.name: importlib.import_module(f"{HOME}.{module.name}") for module in iter_modules(reward_kinds.__path__)
    }
    assert found.keys() == set(OWN_KINDS)
    for kind in found.values():
        assert kind.ASKS and set(kind.ASKS) <= WRITTEN.keys() and kind.__doc__.startswith("Reward of")


def test_a_judge_of_ones_own_labels(tmp_path):
    """A prompt asks for the class whose name stands in it."""
    with open(tmp_path / "labels.jsonl", "w") as file:
        for number in range(12):
            name, level = ("bright", 255 - number) if number % 2 else ("dark", number)
            Image.new("L", (8, 8), level).save(tmp_path / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "captions": [name]}) + "\n")
    given = f"reinforce.rewards={{judge: {{labels: '{tmp_path / 'labels.jsonl'}', value: right}}}}"
    total, scores = make_rewards(recipe(given), SPLITS)(samples(BRIGHT_AND_DARK))
    assert total.tolist() == [0.0, 1.0] and scores["judge"].tolist() == [0.0, 1.0]


def test_judges_of_two_folds_have_seen_other_pictures_and_agree():
    splits = digits.load(Data())
    given = "reinforce.rewards={one: {kind: judge, fold: 0, value: right}, two: {kind: judge, fold: 1, value: right}}"
    made = make_rewards(recipe(given), splits)
    pairs = splits.held_out[:100]
    images = torch.stack([image_tensor(pair.image, (8, 8), 1) for pair in pairs])
    names = [pair.id for pair in pairs]
    asked = RewardInputs([pair.captions[0] for pair in pairs], [""] * 100, images, [[]] * 100, names)
    _, scores = made(asked)
    assert scores["one"].mean() > 0.93 and scores["two"].mean() > 0.93
    assert not torch.equal(scores["one"], scores["two"]) or scores["one"].mean() == 1


def test_rewards_are_weighed_and_those_watched_are_not():
    given = "reinforce.rewards={words: {kind: 'tiny_rewards:words', weight: 2.0}, length: {most: 1, weight: -1.0}}"
    text = recipe(given, "reinforce.writes=[text]", "reinforce.watched={exact_match: 1.0}")
    total, scores = make_rewards(text, SPLITS)(samples())
    assert scores["length"].tolist() == [1.0, 0.0]  # a word is free, twice as many are worth nothing
    assert total.tolist() == [2 * 1 - 1, 2 * 3 - 0]
    assert scores["exact_match"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{x: {kind: 'tiny_rewards:brightness', powr: 2}}", "takes no option 'powr'"),
        ("{judge: {value: wrong}}", r"rewards\.judge\.value: 'wrong' is not known"),
        ("{judge: {fold: 3}}", r"rewards\.judge\.fold: must be from 0 to 1, got 3"),
        ("{'tiny_rewards:asks': 1.0}", r"asks for 'picture'; did you mean|asks for 'picture'"),
        ("{'no_such_module:f': 1.0}", r"No module named 'no_such_module'"),
        ("{'tiny_rewards.asks': 1.0}", r"a function of your own is named 'tiny_rewards:asks'"),
        ("{pickscore: 1.0}", r"pickscore: no model given; name its folder as the reward's option: {pickscore: FOLDER}"),
    ],
)
def test_what_cannot_be_made_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        make_rewards(recipe(f"reinforce.rewards={given}"), digits.load(Data()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{x: {kind: 'tiny_rewards:brightness', powr: 2}}", "takes no option 'powr'; one of: images"),
        ("{judge: {valeu: right}}", "takes no option 'valeu'; did you mean 'value'"),
        ("{judge: {splits: 2}}", "takes no option 'splits'"),
        ("{'tiny_rewards:words': 1.0}", "needs what is not written: texts; this run writes image"),
        ("{length: 1.0}", "needs what is not written: texts"),
        ("{bleu: 1.0}", "needs what is not written: texts"),
        ("{exact_mtach: 1.0}", "'exact_mtach' is not a reward; did you mean 'exact_match'"),
        ("{pickscore: 1.0}", r"rewards\.pickscore: no model given; name its folder"),
    ],
)
def test_what_is_known_without_data_is_refused_before_anything_is_written(given, message, tmp_path):
    wrong = recipe(f"reinforce.rewards={given}")
    with pytest.raises(InputError, match=message):
        learn(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
