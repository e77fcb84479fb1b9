"""The choice of guidance: the rule, and that what was chosen reaches the checkpoint."""

import json

import pytest

from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports import guidance
from mot_gen.reports import hooks as made_hooks
from mot_gen.reports.guidance import STRENGTHS, held_out_pairs, least_as_good, reads
from mot_gen.reports.hooks import hooks
from mot_gen.training.build import load_splits
from mot_gen.training.loop import train

TINY = [
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.steps=1",
    "training.warmup_steps=1",
    "training.rows=2",
    "training.sample_every=0",
    "training.device=cpu",
    "sampling.num_inference_steps=2",
]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ({1.0: 5.0, 1.5: 2.0, 3.0: 1.9}, 1.5),  # within the tolerance of the real pictures' 1.95
        ({1.0: 5.0, 1.5: 4.0, 3.0: 3.0, 6.0: 3.5}, 3.0),  # none is as good: the best
        ({1.0: 1.0, 1.5: 0.5}, 1.0),
    ],
)
def test_the_least_guidance_that_is_as_good_as_real_pictures(losses, chosen):
    assert least_as_good(losses, 1.95) == chosen


def test_a_model_judges_where_it_tells_pictures_apart():
    assert reads(1.95, 4.0) and not reads(3.07, 3.1) and not reads(3.0, 2.9)


def test_a_model_that_cannot_judge_chooses_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(made_hooks, "held_out_pairs", lambda splits: held_out_pairs(splits, 4))
    recipe = load_recipe("digits", [*TINY, "sampling.choose_guidance=true", "sampling.guidance_scale=2.5"])
    train(recipe, tmp_path, hooks=hooks(recipe))
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["sampling"]["guidance_scale"] == 2.5
    assert "guidance stays 2.5: the model does not tell pictures apart yet" in capsys.readouterr().err


def test_what_is_chosen_is_in_the_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(made_hooks, "held_out_pairs", lambda splits: held_out_pairs(splits, 4))
    monkeypatch.setattr(guidance, "reads", lambda real, other: True)
    recipe = load_recipe("digits", [*TINY, "sampling.choose_guidance=true"])
    run = train(recipe, tmp_path, hooks=hooks(recipe))
    sampling = json.loads((tmp_path / "model" / "model_index.json").read_text())["sampling"]
    assert sampling["guidance_scale"] in STRENGTHS and "choose_guidance" not in sampling
    assert run.recipe.sampling.guidance_scale == sampling["guidance_scale"]
    assert "nats of a caption by guidance: 1: " in capsys.readouterr().err


def test_there_is_nothing_to_choose_without_dropped_captions(tmp_path, capsys):
    recipe = load_recipe("digits", [*TINY, "sampling.choose_guidance=true", "data.caption_dropout=0.0"])
    train(recipe, tmp_path, hooks=hooks(recipe))
    assert "choosing the guidance" not in capsys.readouterr().err


def test_pairs_are_spread_over_what_is_held_out():
    held_out = load_splits(load_recipe("digits", TINY)).held_out
    chosen = held_out_pairs(load_splits(load_recipe("digits", TINY)), 10)
    assert len(chosen) == 10 and chosen[0].id == held_out[0].id and chosen[-1].id != held_out[9].id
