"""Training a converted BAGEL by the command: whole, with a frozen tower, by adapters; and back to published files."""

import json

import pytest
import torch
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.families import bagel
from mot_gen.pipelines.base import MultimodalPipeline


def write_edits(folder):
    """Pictures, and records that edit, caption and draw them."""
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 80, 120)).save(folder / f"{number}.png")
    read = {"type": "image", "image": "0.png", "loss": False}
    drawn, words = {"type": "image", "image": "1.png"}, {"type": "text", "text": "a boat", "loss": False}
    said = {"type": "text", "text": "a boat on the lake"}
    records = [{"content": parts} for parts in ([read, words, drawn], [read, said], [words, drawn])] * 4
    path = folder / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the tiny model, published and converted, and records."""
    folder = tmp_path_factory.mktemp("tiny")
    bagel.tiny(folder / "published")
    assert main(["convert", str(folder / "published"), str(folder / "ours")]) == 0
    write_edits(folder / "edits")
    return folder


def trained(tiny, run, *overrides):
    """Run 20 steps; the model's weights before and after them."""
    usual = [
        f"data.records={tiny / 'edits' / 'records.jsonl'}", "training.steps=20", "training.rows=4",
        "training.row_length=160", "training.warmup_steps=0", "training.lr=0.003", "training.log_every=1",
        "evaluation.samples=1",
    ]  # fmt: skip
    assert main(["train", str(tiny / "ours" / "recipe.yaml"), *usual, *overrides, "--out", str(run)]) == 0
    folders = (tiny / "ours", run / "model")
    return [MultimodalPipeline.from_pretrained(folder).model.state_dict() for folder in folders]


def check_only_one_tower_learned(before, after):
    draws, reads = 0, 1
    for name, value in before.items():
        if name.startswith("backbone.") and len(value) == 2:
            assert torch.equal(value[reads], after[name][reads]), name
    name = "backbone.blocks.0.qkv.weight"
    assert not torch.equal(before[name][draws], after[name][draws])


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run that trains the whole model, and its weights before and after."""
    run = tmp_path_factory.mktemp("run") / "whole"
    return run, *trained(tiny, run)


def test_both_losses_fall(whole):
    lines = map(json.loads, (whole[0] / "metrics.jsonl").read_text().splitlines())
    losses = [line["losses"] for line in lines if "losses" in line]
    for name in ("text", "image"):
        found = [each[name] for each in losses if name in each]
        assert sum(found[-6:]) < sum(found[:6])


def test_a_trained_model_goes_back_to_published_files(whole, tiny, tmp_path):
    run, before, after = whole
    assert torch.equal(before["patch_layers.image.table.weight"], after["patch_layers.image.table.weight"])
    assert main(["convert", str(run), str(tmp_path / "back"), "--like", str(tiny / "published")]) == 0
    assert main(["convert", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    again = MultimodalPipeline.from_pretrained(tmp_path / "again").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in after.items())


def test_a_trained_model_keeps_the_published_defaults(whole):
    pipe = MultimodalPipeline.from_pretrained(whole[0] / "model")
    assert {name: pipe.config.sampling[name] for name in bagel.SAMPLING} == bagel.SAMPLING
    assert pipe.scheduler.config.shift == bagel.DRAWING_SHIFT
    assert pipe.sight_tokenizer is not None


def test_a_frozen_tower_stays_as_it_is(tiny, tmp_path):
    check_only_one_tower_learned(*trained(tiny, tmp_path / "run", "backbone.frozen=[understanding]"))


def test_adapters_in_one_tower_leave_the_other(tiny, tmp_path):
    pytest.importorskip("peft")
    lora = "backbone.lora={towers: [generation], rank: 2, alpha: 4}"
    check_only_one_tower_learned(*trained(tiny, tmp_path / "run", lora))


def test_the_command_measures_it(tiny, tmp_path):
    """`mot-gen eval` on the converted folder: captions with bits per byte, and pictures by their pixels."""
    pairs, real = tmp_path / "pairs.jsonl", tmp_path / "real"
    real.mkdir()
    lines = []
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 80, 120)).save(real / f"{number}.png")
        lines.append(json.dumps({"image": f"real/{number}.png", "captions": ["a boat"]}))
    pairs.write_text("\n".join(lines))
    text, images = tmp_path / "text.json", tmp_path / "images.json"
    asked = ["--checkpoint", str(tiny / "ours"), "--metrics", "bleu,bits_per_byte", "--json", str(text)]
    assert main(["eval", "text", str(pairs), *asked]) == 0
    assert 0 < json.loads(text.read_text())["metrics"]["bits_per_byte"]["value"] < 20
    drawn = ["--metrics", "fd", "--extractor", "pixels", "--num-inference-steps", "2", "--no-cache"]
    drawn += ["--samples", str(tmp_path / "drawn"), "--json", str(images)]
    assert main(["eval", "images", str(pairs), str(tiny / "ours"), *drawn]) == 0
    assert json.loads(images.read_text())["metrics"]["fd"]["value"] > 0
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 4
