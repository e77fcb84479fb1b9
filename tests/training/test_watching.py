"""What a run is watched by: lines of metrics, losses by source, TensorBoard and Weights & Biases."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import SMALL

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.loop import train
from mot_gen.training.meters import Meter, measured_peak
from mot_gen.training.watch import numbers
from mot_gen.training.world import World

TINY = [
    *SMALL,
    "training.steps=4",
    "training.log_every=2",
    "training.peak_flops=1e11",
]


def meter(**changes):
    given = {"names": ["text"], "sources": [], "peak": 1e6, "dtype": torch.float32} | changes
    return Meter(World(), **given)


def test_a_meter_divides_what_it_was_given():
    watched = meter()
    for _ in range(2):
        watched.waited(0.5)
        watched.stepped(2.0, tokens=100, flops=1_000_000)
    line = watched.read()
    assert (line["tokens_per_second"], line["mfu"], line["data_wait"]) == (50, 0.5, 0.25)
    assert line["memory_bytes"] > 50e6 and "losses_by_source" not in line
    watched.stepped(1.0, tokens=7, flops=0)
    assert watched.read()["tokens_per_second"] == 7


def test_a_peak_that_is_not_given_is_measured_and_draws_no_random_number():
    before = torch.get_rng_state()
    assert 1e8 < measured_peak(torch.device("cpu"), torch.float32) < 1e14
    assert torch.equal(before, torch.get_rng_state())


def test_losses_by_source_are_those_of_its_own_documents(tmp_path):
    """Two files; the mean over both, weighed by their tokens, is the loss of the line."""
    for name, word in (("a", "red"), ("b", "blue")):
        lines = [json.dumps({"id": f"{name}{i}", "text": f"{word} " * (i % 4 + 2)}) for i in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    recipe = load_recipe("digits", [*TINY, f"data.records={json.dumps(files)}", "training.log_every=1"])
    run = train(recipe, tmp_path / "run")
    assert run.loader.sources == files
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        found = [line["losses_by_source"][file]["text"] for file in files]
        assert found[0] != found[1] and min(found) < line["losses"]["text"] < max(found)
        assert {"tokens_per_second", "mfu", "data_wait", "memory_bytes", "fill"} <= line.keys()
        assert 0 < line["data_wait"] < 1


class Board:
    """In the place of both packages: keeps what it is sent."""

    def __init__(self):
        self.sent, self.begun, self.closed = [], [], 0

    def SummaryWriter(self, folder):
        self.begun.append(folder)
        return self

    def add_scalar(self, name, value, step):
        self.sent.append((name, step, value))

    def init(self, **given):
        self.begun.append(given)
        return self

    def log(self, values, step):
        self.sent += [(name, step, value) for name, value in values.items()]

    def close(self):
        self.closed += 1

    finish = close


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_lines_are_sent_where_the_recipe_says(tmp_path, monkeypatch, name, module):
    board = Board()
    monkeypatch.setitem(sys.modules, module, board)
    train(load_recipe("digits", [*TINY, f"training.watch=[{name}]"]), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [step for key, step, _ in board.sent if key == "losses/text"] == [2, 4]
    sent = {key: value for key, step, value in board.sent if step == 4}
    assert sent["losses/image"] == lines[-1]["losses"]["image"] and sent["grad_norm"] == lines[-1]["grad_norm"]
    assert len(board.begun) == board.closed == 1 and str(tmp_path) in str(board.begun)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_watcher_that_is_not_installed_says_how(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"training\.watch: {name} is not installed; pip install 'mot-gen\[{name}\]'"):
        train(load_recipe("digits", [*TINY, f"training.watch=[{name}]"]), tmp_path)


def test_numbers_are_flat_and_have_no_texts():
    line = {"step": 3, "losses": {"text": 1.5}, "evaluation": {"failed": {"fd": "why"}, "bleu": 2}, "fill": 0.5}
    assert numbers(line) == {"losses/text": 1.5, "evaluation/bleu": 2, "fill": 0.5}


def test_a_spike_is_skipped_once_the_usual_is_known():
    from mot_gen.training.optimizer import SETTLED, Optimizer

    def usable(norm, updates):
        state = torch.tensor([updates, 0.0, 2.0])
        guarded = SimpleNamespace(training=SimpleNamespace(spike=3.0), state=state)
        return bool(Optimizer._usable(guarded, torch.tensor(norm)))

    assert [usable(norm, SETTLED) for norm in (5.9, 6.1, float("nan"))] == [True, False, False]
    assert usable(6.1, SETTLED - 1)
