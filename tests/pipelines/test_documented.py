"""The examples of docs/pipelines.md run over tiny models in the folders they name, each after the first one alone; the
loop of docs/own_loop.md over such a model in the place of `openmoji`."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.growth.base import rebuild
from mot_gen.learning.supervision import factors_of
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"
LOOP = DOCUMENT.with_name("own_loop.md")


def test_the_examples_of_the_docs_run(pipeline, tmp_path, monkeypatch):
    pipe = pipeline(MultimodalPipeline)
    pipe.register_to_config(sampling={"num_inference_steps": 2, "max_new_tokens": 5})
    pipe.save_pretrained(tmp_path / "runs/digits/model")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (6, 4), "white").save("mask.png")
    nested = rebuild(pipe.model, feed_forward="nested", ffn_dim=128)
    MultimodalPipeline(**pipe.components | {"model": nested}).save_pretrained("runs/nested/model")
    first, *others = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S)
    names: dict = {}
    exec(compile(first, DOCUMENT.name, "exec"), names)
    for block in others:
        exec(compile(block, DOCUMENT.name, "exec"), dict(names))
    assert len(names["images"]) == 4 and len(list(tmp_path.glob("step-*.png"))) == 3  # Heun's two steps


def test_the_loop_of_the_docs_trains_and_saves(pipeline, tmp_path, monkeypatch):
    pipe = pipeline(MultimodalPipeline)
    before = pipe.model.embedding.weight.clone()
    pipe.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        TextToImagePipeline, "from_pretrained", lambda _, load=TextToImagePipeline.from_pretrained: load("tiny")
    )
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", LOOP.read_text("utf-8"), re.S):
        exec(compile(block, LOOP.name, "exec"), names)
    monkeypatch.undo()
    saved = MultimodalPipeline.from_pretrained(tmp_path / "squares").model
    assert torch.equal(saved.embedding.weight, names["model"].embedding.weight)
    assert not torch.equal(saved.embedding.weight, before)
    model, noisy, supervision = (names[name] for name in ("model", "noisy", "supervision"))
    counts = supervision.counts
    stated = model(noisy, supervision, factors_of({"text": 1.0, "image": 1.0}, counts)).total
    torch.testing.assert_close(stated, names["losses"].total)
    for wrong, said in (
        (lambda: factors_of({"image": 1.0}, counts), "weights: .* text has none"),
        (lambda: model(noisy, supervision, {"image": 1.0}), "factors: .* text has none"),
        (lambda: model((noisy, {})), "reads a PackedBatch, not tuple"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()
