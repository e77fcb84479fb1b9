"""Converted models are trained by the recipe beside them, and the run that they leave generates."""

import json

import pytest
from PIL import Image

from mot_gen import families
from mot_gen.commands.main import main


@pytest.mark.parametrize("name", ["emu3", "janusflow"])  # pictures of discrete and of continuous tokens
def test_a_converted_model_is_trained_and_generates(name, tmp_path):
    lines = []
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 80, 120)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": ["a boat"]}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    families.by_name(name).tiny(tmp_path / "published")
    assert main(["convert", str(tmp_path / "published"), str(tmp_path / "ours")]) == 0
    usual = [
        f"data.records={tmp_path / 'records.jsonl'}", "data.held_out=0.25", "training.steps=2", "training.rows=2",
        "training.row_length=60", "training.warmup_steps=0", "evaluation.samples=1",
        "sampling.published.negative_prompt=dull",
    ]  # fmt: skip
    assert main(["train", str(tmp_path / "ours" / "recipe.yaml"), *usual, "--out", str(tmp_path / "run")]) == 0
    said = ["generate", str(tmp_path / "run"), "--max-new-tokens", "3", "--to", "text"]
    assert main([*said, "--image", str(tmp_path / "0.png"), "--out", str(tmp_path / "said.txt")]) == 0
    assert (tmp_path / "said.txt").is_file()
