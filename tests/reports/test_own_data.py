"""The report of a run on own data: pictures, captions and figures, though nobody knows the right class."""

import json

import numpy as np
from PIL import Image

from mot_gen.commands.main import main

SMALL = [
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.rows=2",
    "training.steps=2",
    "training.warmup_steps=1",
    "training.sample_every=1",
    "training.log_every=1",
    "tokenizers.image.image_size=[8,8]",
    "tokenizers.image.patch_size=4",
    "tokenizers.image.color_channels=3",
    "data.held_out=0.2",
    "sampling.num_inference_steps=1",
    "sampling.max_new_tokens=3",
    "evaluation.report=true",
]


def test_own_data_gets_a_page(tmp_path, capsys):
    noise = np.random.default_rng(0)
    lines = []
    for number in range(20):
        Image.fromarray(noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"id": f"r{number}", "image": f"{number}.png", "caption": f"<b>picture</b> {number}"}))
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    assert main(["train", "digits", f"data.records={tmp_path / 'own.jsonl'}", *SMALL, "--out", str(out)]) == 0
    assert "bits per byte of held-out captions" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    # Text of the data is text of the page: what looks like HTML stays as it was written.
    assert "&lt;b&gt;picture&lt;/b&gt;" in page and "<b>picture</b>" not in page
    found = json.loads((out / "report.json").read_text())
    pairs = found["text"]["n"]  # held out, by their ids
    assert pairs and found["train"]["steps"] == 2 and found["text"]["bits_per_byte"] > 0
    assert page.count("<figure>") == 2 * pairs and "step 2: " in page and "<polyline" in page
    with Image.open(out / "samples.png") as image:
        assert len(image.text["prompts"].splitlines()) == pairs
