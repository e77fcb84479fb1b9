"""Learning from preferences: of files and of judged samples, texts and pictures; and what is no pair."""

import json

import pytest
import torch
from PIL import Image
from tiny_rewards import BRIGHT, WORDS, begin, learn, parameters, rewarded

from mot_gen.errors import InputError
from mot_gen.reinforce.preferences import best_and_worst
from mot_gen.reinforce.prompts import Prompt
from mot_gen.reinforce.rollouts import Rollout
from mot_gen.sequence import Span


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return begin(tmp_path_factory.mktemp("origin") / "run")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollout(number):
    return Rollout(Prompt(str(number), []), [Span("text", torch.tensor([number]))], True)


def test_the_best_is_paired_with_the_worst():
    rollouts = [rollout(number) for number in range(5)]
    rewards = torch.tensor([0.5, 0.9, float("nan"), 0.1, 0.45])
    pairs = best_and_worst(rollouts, rewards, least=0.1, first=7)
    found = [(int(pair.chosen[0].values), int(pair.rejected[0].values), pair.number) for pair in pairs]
    assert found == [(1, 3, 7)]  # 0.5 and 0.45 differ by less
    assert len(best_and_worst(rollouts, rewards, least=0.0, first=0)) == 2


@pytest.mark.parametrize("asked", [BRIGHT, WORDS], ids=["pictures", "texts"])
def test_judged_pairs_begin_at_log_2_and_go_on_to_the_bit(origin, tmp_path, asked):
    fixed = [*asked, "training.lr=5e-4", "training.min_lr=5e-4", "reinforce.image_beta=500.0", "reinforce.beta=1.0"]
    six = rewarded("preferences", origin, *fixed, "reinforce.least_gap=0.0", "training.steps=4")
    whole = learn(six, tmp_path / "whole")
    first, *later = lines(tmp_path / "whole")
    (loss,) = first["losses"].values()
    assert loss == pytest.approx(0.693147, abs=1e-5) and first["pairs"] > 0 and first["margin"] == 0
    assert any(line["margin"] != 0 for line in later)
    learn(rewarded("preferences", origin, *fixed, "reinforce.least_gap=0.0", "training.steps=2"), tmp_path / "parts")
    parts = learn(six, tmp_path / "parts", resume=True)
    for (name, one), other in zip(parameters(whole).items(), parameters(parts).values()):
        assert torch.equal(one, other), name


@pytest.fixture
def pictures(tmp_path):
    """Bright is preferred to dark."""
    for name, level in (("bright", 255), ("dark", 0)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
    record = {"prompt": "the digit one", "chosen": "bright.png", "rejected": "dark.png"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path / "pairs.jsonl"


def test_pairs_of_a_file_are_learned(origin, pictures, tmp_path):
    asked = ["reinforce.rewards={}", "reinforce.watched={}", f"reinforce.preferences={pictures}"]
    more = ["training.steps=12", "reinforce.image_beta=200.0", "reinforce.draws=4", "training.lr=3e-3"]
    learn(rewarded("preferences", origin, *asked, *more), tmp_path / "run")
    found = lines(tmp_path / "run")
    assert found[-1]["losses"]["image"] < found[0]["losses"]["image"] - 0.05 and found[-1]["margin"] > 0


def test_pairs_of_texts_are_learned(origin, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "the digit", "chosen": " one", "rejected": " two"}) + "\n")
    asked = ["reinforce.rewards={}", "reinforce.watched={}", f"reinforce.preferences={file}", "reinforce.writes=[text]"]
    learn(rewarded("preferences", origin, *asked, "training.steps=6", "training.lr=3e-3"), tmp_path / "run")
    found = lines(tmp_path / "run")
    assert found[-1]["losses"]["text"] < found[0]["losses"]["text"] and found[-1]["preferred"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "chosen": "bright.png"}', r"pairs\.jsonl, line 1: has no 'rejected'; a preference is a pair"),
        ('{"prompt": "a", "chosen": "", "rejected": "dark.png"}', r"line 1: has no 'chosen'"),
        ('{"chosen": "bright.png", "rejected": "dark.png"}', r"line 1: has no prompt"),
        ('{"prompt": "a", "chosen": "none.png", "rejected": "dark.png"}', r"line 1: .*none\.png is not there"),
        ("[1]", r"line 1: is no JSON object"),
        ("", r"holds no record"),
    ],
)
def test_what_is_no_pair_is_refused_in_a_line(origin, pictures, tmp_path, line, message):
    pictures.write_text(line + "\n")
    asked = ["reinforce.rewards={}", "reinforce.watched={}", f"reinforce.preferences={pictures}"]
    with pytest.raises(InputError, match=message) as error:
        learn(rewarded("preferences", origin, *asked), tmp_path / "run")
    assert "\n" not in str(error.value)
