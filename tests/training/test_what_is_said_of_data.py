"""Training says at its start and at its end what becomes of the data, and tokenises what is held out once."""

import json
import random

from PIL import Image
from tiny_runs import SMALL

from mot_gen.recipes.recipe import load_recipe
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.training.loop import train

TINY = [
    *SMALL,
    "training.steps=3",
    "training.warmup_steps=2",
    "training.checkpoint_every=3",
    "evaluation.every=1",
]


def test_what_is_changed_and_left_out_is_said(tmp_path, capsys, monkeypatch):
    draw, lines = random.Random(0), []
    for number in range(24):
        color = tuple(draw.choices(range(256), k=3))
        Image.new("RGB", (20, 20), color).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"id": f"r{number}", "image": f"{number}.png", "caption": f"picture {number}"}))
    lines += ['{"image": "0.png", "caption": ""}', "{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    encoded, encode_batch = [], PatchImageTokenizer.encode_batch

    def counted(self, raws):
        encoded.extend({str(raw) for raw in raws})
        return encode_batch(self, raws)

    monkeypatch.setattr(PatchImageTokenizer, "encode_batch", counted)
    run = train(load_recipe("digits", [f"data.records={tmp_path / 'a.jsonl'}", *TINY]), tmp_path / "run")
    first, last = _split(capsys.readouterr().err)
    assert any("2 records that cannot be read" in line and "a.jsonl:25: caption must be text" in line for line in first)
    assert any("pictures shrunk to 8 x 8" in line for line in first)
    assert any("pictures whose colour is taken away" in line for line in first)
    assert any("pictures shrunk to 8 x 8" in line for line in last)
    assert any("2 samples could not be used" in line for line in last)
    held_out = {str(run.splits.held_out[i].image) for i in range(len(run.splits.held_out))}
    assert held_out and all(encoded.count(path) == 1 for path in held_out)  # of three evaluations


def test_records_that_are_trained_on_and_held_out_are_named(tmp_path, capsys):
    lines = []
    for number in range(4):
        Image.new("L", (8, 8), 60 * number).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"picture {number}"}))
    records, others = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path in (records, others):
        path.write_text("\n".join(lines) + "\n", "utf-8")
    held_out = f"data.held_out_records=[{tmp_path / '..' / tmp_path.name / 'a.jsonl'}, {others}]"
    train(load_recipe("digits", [f"data.records={records}", held_out, *TINY]), tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "is trained on too" in line]
    assert len(said) == 1 and "a.jsonl is trained on too" in said[0]


def _split(printed: str) -> tuple[list[str], list[str]]:
    """The lines about data before the first step, and those after the last."""
    lines = printed.splitlines()
    steps = [number for number, line in enumerate(lines) if line.startswith("step ")]
    first = [line for line in lines[: steps[0]] if line.startswith("data: ")]
    return first, [line for line in lines[steps[-1] :] if line.startswith("data: ")]
