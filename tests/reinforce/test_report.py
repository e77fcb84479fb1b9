"""The page of a run that learned from rewards, the signs of a fooled reward, and every shipped recipe at tiny size."""

import json

import pytest
import torch
from tiny_rewards import begin, rewarded

from mot_gen.eval.images.judge import train_judge
from mot_gen.recipes.recipe import load_recipe, shipped_recipes
from mot_gen.reinforce.hooks import reinforce_hooks
from mot_gen.reinforce.model_scores import MeanScore, ModelScores, _spread
from mot_gen.reinforce.report import signs, summary
from mot_gen.reinforce.reward_kinds import judge
from mot_gen.reinforce.rewards import RewardInputs
from mot_gen.reports.hooks import hooks
from mot_gen.training.loop import train

NAMES = [name for name in shipped_recipes() if load_recipe(name).reinforce]


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return begin(tmp_path_factory.mktemp("origin") / "run")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_ends_with_a_page(origin, tmp_path, monkeypatch, name):
    trained = []

    def trained_once(images, labels, classes, seed):
        trained.append((float(images.sum()), seed))
        return train_judge(images, labels, classes, epochs=1, seed=seed)

    monkeypatch.setattr(judge, "train_judge", trained_once)
    shown = ["training.steps=2", "evaluation.report=true", "evaluation.samples=6", "reinforce.least_gap=0.0"]
    recipe = rewarded(name, origin, *shown)
    train(recipe, tmp_path, hooks=reinforce_hooks(recipe, hooks(recipe)))
    found = json.loads((tmp_path / "report.json").read_text())
    before, after = found["reinforce"]["before"], found["reinforce"]["after"]
    assert before["scores"].keys() == after["scores"].keys() > set(recipe.reinforce.rewards)
    for each in after["scores"].values():
        low, high = each["interval"]
        assert low - 1e-9 <= each["value"] <= high + 1e-9
    page = (tmp_path / "report.html").read_text()
    assert "What it was rewarded for" in page and ("<img" in page) == ("image" in recipe.reinforce.writes)
    assert str(tmp_path) in summary(tmp_path)
    assert (tmp_path / "model" / "model_index.json").exists()
    assert len(set(trained)) == len(trained), "the page takes the judges of training"


def measured(value, watched, spread=1.0, frechet=1.0, text="a"):
    samples = RewardInputs(["p"] * 4, [text, "b", "c", "d"], torch.zeros(4, 1, 2, 2), [[]] * 4, list("1234"))
    means = {"judge": value, "other": watched}
    scores = {name: MeanScore(mean, mean - 0.1, mean + 0.1) for name, mean in means.items()}
    return ModelScores(scores, spread, frechet, samples)


def test_one_sample_of_each_prompt_says_nothing_of_how_they_differ():
    images = torch.arange(16.0).view(4, 1, 2, 2)
    alone = RewardInputs(list("pqrs"), [""] * 4, images, [[]] * 4, list("1234"))
    assert _spread(alone) is None
    pairs = RewardInputs(["p", "q", "p", "q"], [""] * 4, images, [[]] * 4, list("1234"))
    assert _spread(pairs) == 8.0  # each picture is 8 brighter than the one before of its prompt
    before, after = measured(0.5, 0.5, spread=None), measured(0.9, 0.8, spread=None)
    assert signs(before, after, ["judge"]) == []


def test_signs_of_a_fooled_reward_are_named():
    before = measured(0.5, 0.5)
    assert signs(before, measured(0.9, 0.8), ["judge"]) == []
    (said,) = signs(before, measured(0.9, 0.3), ["judge"])
    assert said == "other, which is not rewarded, fell from 0.500 to 0.300"
    said = signs(before, measured(0.9, 0.8, spread=0.5, frechet=2.0), ["judge"])
    assert len(said) == 2 and "differ less" in said[0] and "Frechet" in said[1]
