"""CONTRIBUTING.md, followed to the letter: its files are written into a package, and used by dotted path as it says."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import test_backbone_contract as contract
import torch

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import loop

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
TINY = [
    "data.window=48",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=2",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.rows=2",
    "training.row_length=96",
    "training.steps=2",
    "training.warmup_steps=1",
    "training.log_every=1",
    "training.sample_every=0",
    "training.device=cpu",
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder that holds my_parts/, with every file that CONTRIBUTING.md writes."""
    for path, code in re.findall(r"```python\n# (my_parts/\w+\.py)\n(.*?)```", TEXT, re.S):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


def command(start: str) -> list[str]:
    """The arguments of the command that begins so."""
    found = re.search(rf"PYTHONPATH=\. mot-gen ({re.escape(start)}.*)", TEXT)
    assert found, f"CONTRIBUTING.md has no command that begins with {start!r}"
    return found[1].split()


def train(arguments: list[str], folder: Path) -> dict[str, float]:
    """The losses of the first step of `mot-gen train`, which is not asked to judge what it draws at the end."""
    _, name, *overrides = arguments
    loop.train(load_recipe(name, [*overrides, *TINY]), folder)
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["losses"]


def test_where_things_are_is_true():
    rows = re.findall(r"^\| Where .*\? \| `(.+)` \| `(.+)` \|$", TEXT, re.M)
    assert len(rows) == 4
    for path, name in rows:
        assert re.search(rf"^\s*def {name}\b", (ROOT / path).read_text("utf-8"), re.M), f"{path} has no {name}"


@torch.no_grad()
def test_a_mixer_keeps_the_promises_of_backbones(package, monkeypatch):
    monkeypatch.setitem(contract.STATED, "average", ("mot", {"mixer": "my_parts.average"}))
    contract.test_documents_never_leak("average")
    contract.test_what_is_later_never_touches_what_is_earlier("average")
    contract.test_packed_is_alone("average")
    contract.test_padding_changes_nothing("average")
    for sample in contract.mixed(4):
        contract.test_cached_is_full("average", sample)


@pytest.mark.parametrize("start", ["train digits backbone.mixer=my", "train digits backbone.mixer=["])
def test_a_mixer_is_trained(package, start):
    assert all(0 < loss < 20 for loss in train(command(start), package / "run").values())


def test_the_objective_of_the_guide_is_trained(package):
    huber = train(command("train digits objectives"), package / "huber")
    plain = train(["train", "digits"], package / "plain")
    assert 0 < huber["image"] < plain["image"] and huber["text"] == plain["text"]
    module = importlib.import_module("my_parts.huber_flow")
    target, time = torch.randn(20, 4), torch.rand(20)
    near = target + 0.01
    squared = module.Objective(delta=0.5).loss(near, target, time)
    torch.testing.assert_close(squared, (near - target).square().mean(-1))
    assert not module.Objective().loss(target, target, time).any()
    with pytest.raises(InputError, match="delta"):
        module.Objective(delta=0.0)


def test_the_metric_of_the_guide_measures(package, capsys):
    lines = [("a cat", ["a grey cat sat"]), ("one two three", ["one two", "one two three four"])]
    records = [{"id": str(i), "prediction": p, "references": r} for i, (p, r) in enumerate(lines)]
    Path("answers.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main([*command("eval text"), "--json", "found.json", "--confidence", "0.9"]) == 0
    found = json.loads(Path("found.json").read_text())["metrics"]
    assert found["my_parts.length_ratio:LengthRatio"]["value"] == pytest.approx(5 / 7)
    assert found["my_parts.length_ratio:LengthRatio"]["interval"] is not None and "bleu" in found
    assert main(["eval", "text", "answers.jsonl", "--metrics", "my_parts.length_ratio:Nothing"]) == 2
    assert "has no 'Nothing'" in capsys.readouterr().err


def test_several_shares_of_the_metric_are_one(package):
    cls = importlib.import_module("my_parts.length_ratio").LengthRatio
    one, other, whole = cls(), cls(), cls()
    batches = (["a b", "c"], [["a"], ["c d", "c"]]), (["x y z"], [["x"]])
    for metric, batch in ((one, batches[0]), (other, batches[1]), (whole, batches[0]), (whole, batches[1])):
        metric.update(*batch)
    one.merge_state(other)
    assert one.compute().value == whole.compute().value
