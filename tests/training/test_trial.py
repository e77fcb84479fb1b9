"""A few steps of a recipe on request: seconds, memory, and nothing kept."""

import json

from mot_gen.commands.main import main
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.trial import trial

TINY = [
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.rows=2",
    "training.steps=100",
    "training.device=cpu",
]


def test_a_trial_measures_a_step_and_the_process():
    found = trial(load_recipe("digits", TINY))
    assert 0 < found["seconds_a_step"] < 10
    assert found["training_seconds"] == found["seconds_a_step"] * 100
    assert found["measured_bytes"] > 50 * 2**20


def test_the_plan_has_it_on_request_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "digits", *TINY, "--json"]) == 0
    assert "seconds_a_step" not in json.loads(capsys.readouterr().out)
    assert main(["plan", "digits", *TINY, "--json", "--time"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds_a_step"] > 0
    assert list(tmp_path.iterdir()) == []
