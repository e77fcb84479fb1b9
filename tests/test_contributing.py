"""CONTRIBUTING.md, followed to the letter: its files are written into a package, and used by dotted path as it says."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import test_backbone_contract as contract
import torch

from mot_gen import TextToImagePipeline
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.recipes.sections import Data
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
    return shlex.split(found[1])


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
@pytest.mark.parametrize("stated", [("mot", {"mixer": "my_parts.average"}), ("my_parts.plain", {})])
def test_a_mixer_and_a_backbone_keep_the_promises_of_backbones(package, monkeypatch, stated):
    monkeypatch.setitem(contract.STATED, "own", stated)
    contract.test_documents_never_leak("own")
    contract.test_what_is_later_never_touches_what_is_earlier("own")
    contract.test_packed_is_alone("own")
    contract.test_padding_changes_nothing("own")
    for sample in contract.mixed(4):
        contract.test_cached_is_full("own", sample)


def test_a_backbone_is_trained_on_own_data_and_draws(package, capsys):
    arguments = command("train digits 'backbone=") + command("train digits data")[2:]
    tiny = [each for each in TINY if not each.startswith("backbone.")]
    small = [each.replace("dim: 128, layers: 6", "dim: 16, layers: 1") for each in arguments]
    assert main([*small, *tiny, "evaluation.report=false", "--out", "run"]) == 0
    assert capsys.readouterr().out.endswith("--to image --prompt '...' --out picture.png --trust-remote-code\n")
    with pytest.raises(InputError, match=r"my_parts\.plain, which is not part of mot_gen"):
        TextToImagePipeline.from_pretrained(package / "run")
    pipe = TextToImagePipeline.from_pretrained(package / "run", trust_remote_code=True)
    assert pipe("a red disc", num_inference_steps=1).images[0].size == (8, 8)
    splits = importlib.import_module("my_parts.discs").load(Data(held_out=0.25))
    ids = [{sample.id for sample in part} for part in (splits.train, splits.held_out)]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 256 and 40 < len(ids[1]) < 90


def test_what_an_own_backbone_lacks_is_said(package):
    """Each is the backbone of the guide with one thing changed."""
    text = (package / "my_parts" / "plain.py").read_text("utf-8")
    whole = "backbone={kind: my_parts.KIND, dim: 16, layers: 1}"
    faults = {
        "unplanned": ("def plan(", "def planned(", "must define plan; base it on"),
        "narrow": (", modality: int | None = None", "", r"must take \(self, layout, cache, modality\)"),
        "blockless": ("self.blocks", "self.layers", "must list its layers in blocks"),
        "unsized": ("dim: int = 128\n    layers", "layers", "backbone.dim is no option of my_parts.unsized"),
        "bare": (
            "self.heads = heads",
            "self.gate = nn.Parameter(torch.ones(dim))",
            "blocks.0.gate has no initial value",
        ),
        "unsaved": ("training", "training", "training.gradient_checkpointing: backbone my_parts.unsaved cannot"),
    }
    for kind, (old, new, said) in faults.items():
        (package / "my_parts" / f"{kind}.py").write_text(text.replace(old, new))
        overrides = [whole.replace("KIND", kind), *[each for each in TINY if not each.startswith("backbone.")]]
        overrides.append(f"training.gradient_checkpointing={kind == 'unsaved'}".lower())
        with pytest.raises(InputError, match=said):
            loop.train(load_recipe("digits", overrides), package / kind)
    with pytest.raises(InputError, match=r"backbone.heads is no option of mamba; say .* it has size, dim, layers"):
        load_recipe("digits", ["backbone.kind=mamba"])


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
